#!/bin/sh
# A private PostgreSQL of the distribution on a free port, in a folder of its own: postgres.sh start|stop FOLDER
# `start` installs the package if need be (as root, with apt-get) and prints the database's address.
set -eu
verb=$1 folder=$2
account=postgres # the server refuses to run as root

find_bin() { ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1; }
as_user() { if [ "$(id -u)" = 0 ]; then setpriv --reuid="$account" --regid="$account" --clear-groups "$@"; else "$@"; fi; }
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

start() {
    if [ -z "$(find_bin)" ]; then
        echo "installing postgresql" >&2
        (
            flock 9 # the tests of Slurm install side by side
            apt-get update -q 9>&-
            DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends postgresql 9>&-
        ) 9>/tmp/touchstone-apt.lock >&2
    fi
    bin=$(find_bin)
    mkdir -p "$folder"
    if [ "$(id -u)" = 0 ]; then chown "$account" "$folder"; fi
    cd "$folder"
    as_user "$bin/initdb" --pgdata="$folder/data" --username=touchstone --auth=trust --encoding=UTF8 --no-sync >"$folder/initdb.log"
    port=$(free_port)
    # fsync is for those whose data must outlive a power cut; sockets lie in the folder, not in one for all
    as_user "$bin/pg_ctl" --pgdata="$folder/data" --log="$folder/log" --wait --silent \
        --options="-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off" start >&2
    as_user "$bin/createdb" --host=127.0.0.1 --port="$port" --username=touchstone mlflow
    echo "postgresql+psycopg2://touchstone@127.0.0.1:$port/mlflow"
}

stop() {
    cd /
    as_user "$(find_bin)/pg_ctl" --pgdata="$folder/data" --mode=immediate --silent stop
}

case $verb in
start | stop) "$verb" ;;
*) echo "postgres.sh start|stop FOLDER" >&2 && exit 2 ;;
esac
