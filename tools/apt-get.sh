#!/bin/sh
# apt-get for scripts: it waits while another program holds apt's locks (ten minutes at most), and tries again
# when a mirror fails (four times). `DPkg::Lock::Timeout` covers dpkg's own lock only, not those of the lists and archives.
#
#     sh tools/apt-get.sh install -y strace
set -u

LC_ALL=C
export LC_ALL
pause=${APT_PAUSE_S:-5} # seconds between two tries
locked_tries=120
failed_tries=4

said=$(mktemp)
trap 'rm -f "$said"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

while :; do
    status=0
    apt-get -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 "$@" >"$said" 2>&1 || status=$?
    if [ "$status" -eq 0 ]; then
        cat "$said"
        exit 0
    elif grep -Eq 'Could not get lock|Unable to (acquire|lock)' "$said" && [ "$locked_tries" -gt 0 ]; then
        [ "$locked_tries" -lt 120 ] || echo "apt-get.sh: another program holds apt's locks; waiting for it" >&2
        locked_tries=$((locked_tries - 1))
    elif grep -Eq 'Failed to fetch|Unable to fetch|Temporary failure|Could not (resolve|connect)|Hash Sum mismatch' "$said" &&
        [ "$failed_tries" -gt 0 ]; then
        echo "apt-get.sh: a mirror failed; $failed_tries more tries" >&2
        failed_tries=$((failed_tries - 1))
    else
        cat "$said" >&2
        exit "$status"
    fi
    sleep "$pause"
done
