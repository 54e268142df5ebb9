#!/bin/sh
# Install the Debian packages whose servers the tests start themselves: only those whose program is missing,
# and without starting any service. Without root it says what is missing.
set -eu

PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
export PATH

missing=""
need() { # need PACKAGE FILE-OR-PROGRAM
    case $2 in
    /*) [ -e "$2" ] || missing="$missing $1" ;;
    *) command -v "$2" >/dev/null 2>&1 || missing="$missing $1" ;;
    esac
}

need postfix postfix
need dovecot-core dovecot
need redis-server redis-server
need memcached memcached
need strace strace
need postgresql "$(ls -d /usr/lib/postgresql/*/bin/initdb 2>/dev/null | tail -n 1)"
need pgbouncer pgbouncer
need iproute2 ip
need prometheus prometheus
need ca-certificates /etc/ssl/certs/ca-certificates.crt

if [ -z "$missing" ]; then
    echo "debian-packages: nothing is missing"
    exit 0
fi
if ! command -v apt-get >/dev/null 2>&1; then
    echo "debian-packages: no apt-get here; missing:$missing" >&2
    exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "debian-packages: missing, and only root can install them: apt-get install$missing" >&2
    exit 0
fi

# Debian's maintainer scripts ask policy-rc.d whether they may start a service; 101 forbids it.
policy=/usr/sbin/policy-rc.d
aside=$policy.before-debian-packages
restore() {
    if [ -e "$aside" ] || [ -L "$aside" ]; then
        mv -f "$aside" "$policy"
    elif [ -n "${ours:-}" ]; then
        rm -f "$policy"
    fi
}
trap restore EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

status=0
if [ -x "$policy" ]; then
    "$policy" postfix start >/dev/null 2>&1 || status=$?
fi
if [ "$status" -ne 101 ]; then
    if [ -e "$policy" ] || [ -L "$policy" ]; then
        mv "$policy" "$aside"
    fi
    ours=1
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

DEBIAN_FRONTEND=noninteractive
export DEBIAN_FRONTEND
apt_get="sh $(dirname "$0")/apt-get.sh"
echo "debian-packages: installing$missing (once; about half a minute)"
# shellcheck disable=SC2086  # one word per package
if ! $apt_get install -y --no-install-recommends --download-only $missing >/dev/null 2>&1; then
    $apt_get update # the lists are missing, or so old that the mirror no longer has what they name
fi
# shellcheck disable=SC2086
$apt_get install -y --no-install-recommends $missing
echo "debian-packages: installed$missing"
