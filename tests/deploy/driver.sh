#!/bin/sh
# What an operator does, in a system that boot.sh has booted; each line that it prints is NAME=VALUE.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH
home=/var/lib/postroom
port=$1
say() { echo "$1=$2"; }
of() { systemctl show "$1" -p "$2" --value; }
livez() { curl -s -m 5 -o /dev/null -w '%{http_code}' "http://127.0.0.1:$port/livez"; }
start() { timeout 120 systemctl start "$@" >/dev/null 2>&1 && echo 0 || echo failed; }
until_() { # until_ COMMAND: wait up to two minutes for it to succeed
    for _ in $(seq 600); do
        if eval "$1" >/dev/null 2>&1; then return 0; fi
        sleep 0.2
    done
    return 1
}

say first "$(cat /proc/1/comm)"
echo 'PORT=abc' >$home/.env
say wrong_start "$(start postroom)"
say wrong_status "$(of postroom ExecMainStatus)"
say wrong_state "$(of postroom ActiveState)"

printf 'PORT=%s\nPOSTROOM_DRAIN=500ms\n' "$port" >$home/.env
systemctl reset-failed postroom
say start "$(start postroom)"
say livez_at_once "$(livez)"
kill -9 "$(pgrep -f 'm postroom worker' | head -n 1)"
until_ 'pgrep -f "m postroom worker"'
sleep 12 # longer than the watchdog waits
say restarts_after_a_killed_worker "$(of postroom NRestarts)"
kill -STOP "$(of postroom MainPID)"
until_ '[ "$(of postroom NRestarts)" = 1 ] && [ "$(of postroom ActiveState)" = active ]'
say restarts_after_a_frozen_supervisor "$(of postroom NRestarts)"
say livez_again "$(livez)"
timeout 120 systemctl stop postroom
say stopped "$(of postroom Result)"

say start_apart "$(start postroom-web postroom-worker@1)"
say livez_apart "$(livez)"
kill -STOP "$(of postroom-worker@1 MainPID)"
until_ '[ "$(of postroom-worker@1 NRestarts)" = 1 ] && [ "$(of postroom-worker@1 ActiveState)" = active ]'
say restarts_of_a_frozen_worker "$(of postroom-worker@1 NRestarts)"
kill -STOP "$(of postroom-web MainPID)"
until_ '[ "$(of postroom-web NRestarts)" = 1 ] && [ "$(of postroom-web ActiveState)" = active ]'
say restarts_of_frozen_http "$(of postroom-web NRestarts)"
frozen="$(pgrep -P "$(of postroom-web MainPID)" | head -n 1)"
kill -STOP "$frozen"
until_ '! kill -0 "$frozen" && [ "$(livez)" = 200 ]'
say restarts_after_one_frozen_web_process "$(of postroom-web NRestarts)"
say livez_after_it "$(livez)"
timeout 120 systemctl stop postroom-web postroom-worker@1

mkfifo /tmp/held
python3 -c "import socket, sys
taken = socket.socket()
taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
taken.bind(('127.0.0.1', int(sys.argv[1])))
taken.listen()
sys.stdin.read()" "$port" </tmp/held &
exec 9>/tmp/held
until_ "python3 -c \"import socket; socket.create_connection(('127.0.0.1', $port))\""
say taken_start "$(start postroom)"
say taken_status "$(of postroom ExecMainStatus)"
exec 9>&- # the port is free
until_ '[ "$(of postroom ActiveState)" = active ]'
say taken_state_afterwards "$(of postroom ActiveState)"
systemctl stop postroom
say done yes
