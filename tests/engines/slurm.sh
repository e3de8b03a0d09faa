#!/usr/bin/env bash
# A Slurm of one node with two CPUs (partition two: of two such nodes), on the loopback interface, from Debian's packages, without systemd and cgroups.
#   slurm.sh start [FOLDER]   starts it (again: does nothing) and prints the line that makes it yours: export SLURM_CONF=…
#   slurm.sh stop  [FOLDER]   ends its jobs and its processes, and removes the folder
# A job that is requeued waits for cred_expire seconds, by default two minutes.
# With accounting (slurmdbd on MariaDB), as on a cluster: submitit learns only from sacct that a job died without a word.
# Needs root or passwordless sudo.
set -euo pipefail

verb=${1:-}
folder=${2:-${TMPDIR:-/tmp}/touchstone-slurm}
export SLURM_CONF=$folder/slurm.conf
daemons=(slurmd slurmctld slurmdbd mariadbd munged) # in the order in which they are stopped
if [ "$(id -u)" = 0 ]; then root=(); else root=(sudo -n --preserve-env=SLURM_CONF,DEBIAN_FRONTEND); fi

die() {
  echo "slurm.sh: $1" >&2
  for log in "$folder"/*.log; do [ -f "$log" ] && "${root[@]}" tail -n 5 "$log" >&2; done
  exit 1
}

wait_for() { # WHAT SECONDS COMMAND…
  local what=$1 tries=$(($2 * 10))
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ $((tries--)) -gt 0 ] || die "$what did not come up"
    sleep 0.1
  done
}

install_packages() {
  command -v slurmctld slurmd slurmdbd munged mariadbd >/dev/null && return
  export DEBIAN_FRONTEND=noninteractive
  local packages=(slurmctld slurmd slurmdbd slurm-client munge mariadb-server)
  (
    flock 9 # the tests of PostgreSQL install side by side
    "${root[@]}" apt-get update -qq 9>&- && "${root[@]}" apt-get install -y -qq --no-install-recommends "${packages[@]}" 9>&-
  ) 9>/tmp/touchstone-apt.lock >&2 </dev/null || die "cannot install ${packages[*]}"
}

free_ports() { # four that nobody listens on
  python3 -c 'import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
print(*(s.getsockname()[1] for s in held))'
}

write_config() {
  local host address ctld d other dbd
  host=$(hostname -s)
  address=$(getent ahostsv4 "$host" | awk '{print $1; exit}') # with No…AddrAny the daemons bind to it alone
  read -r ctld d other dbd < <(free_ports)
  cat >"$folder/slurmdbd.conf" <<END
AuthInfo=socket=$folder/munge.sock
DbdHost=localhost
DbdAddr=$address
DbdPort=$dbd
CommunicationParameters=NoInAddrAny
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
LogFile=$folder/slurmdbd.log
PidFile=$folder/slurmdbd.pid
END
  cat >"$folder/slurm.conf" <<END
ClusterName=touchstone
SlurmctldHost=$host($address)
SlurmctldPort=$ctld
SlurmUser=root
AuthInfo=socket=$folder/munge.sock,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
JobRequeue=1
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=$address
AccountingStoragePass=$folder/munge.sock
AccountingStoragePort=$dbd
ReturnToService=1
KillWait=5
MpiDefault=none
NodeName=$host NodeHostname=$host NodeAddr=$address Port=$d CPUs=2 State=UNKNOWN
NodeName=localhost NodeHostname=$host NodeAddr=$address Port=$other CPUs=2 State=UNKNOWN
PartitionName=local Nodes=$host Default=YES MaxTime=INFINITE State=UP
PartitionName=two Nodes=ALL MaxTime=INFINITE State=UP
END
  chmod 600 "$folder/slurmdbd.conf"
}

start_database() { # no password: only who may enter the folder of its socket reaches it
  mkdir -m 700 "$folder/database"
  "${root[@]}" mariadb-install-db --no-defaults --user=root --datadir="$folder/database" \
    --skip-test-db --auth-root-authentication-method=normal >"$folder/install.log" 2>&1 || die "MariaDB has no tables"
  setsid "${root[@]}" mariadbd --no-defaults --user=root --datadir="$folder/database" --socket="$folder/database/socket" \
    --pid-file="$folder/mariadbd.pid" --skip-networking --innodb-flush-log-at-trx-commit=0 >"$folder/mariadbd.log" 2>&1 &
  wait_for MariaDB 30 "${root[@]}" mariadb-admin --no-defaults --socket="$folder/database/socket" ping
}

is_up() { # without its file Slurm asks the name server for one, for a minute
  [ -f "$SLURM_CONF" ] && sinfo -h -o %T 2>/dev/null | grep -qE 'idle|mixed|allocated'
}

start() {
  is_up || start_all
  echo "export SLURM_CONF=$SLURM_CONF"
}

start_all() {
  stop
  install_packages
  mkdir -p "$folder/state"
  write_config
  (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
  "${root[@]}" chown -R 0:0 "$folder/munge.key" "$folder/slurmdbd.conf"
  "${root[@]}" munged --force --socket="$folder/munge.sock" --key-file="$folder/munge.key" \
    --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" --seed-file="$folder/munge.seed" 2>/dev/null
  start_database
  "${root[@]}" env SLURM_CONF="$SLURM_CONF" MYSQL_UNIX_PORT="$folder/database/socket" slurmdbd
  wait_for slurmdbd 30 sacctmgr -n show cluster
  "${root[@]}" sacctmgr -i add cluster touchstone >/dev/null
  "${root[@]}" slurmctld
  wait_for slurmctld 30 scontrol ping
  "${root[@]}" slurmd -N "$(hostname -s)"
  "${root[@]}" slurmd -N localhost # a second node of the same machine
  wait_for slurmd 30 sh -c 'test "$(sinfo -h -N -p two -t idle -o %N | wc -l)" = 2'
}

lives() { # a zombie is only waiting for its parent to notice
  grep -qs '^State:.[^ZX]' "/proc/$1/status"
}

stop() {
  if [ -f "$folder/slurmctld.pid" ]; then
    timeout 10 "${root[@]}" scancel --state=PENDING,RUNNING 2>/dev/null || true
    for _ in $(seq 50); do [ -n "$(timeout 5 squeue -h 2>/dev/null)" ] && sleep 0.2 || break; done
  fi
  local daemon file pid
  for file in "$folder"/slurmd-*.pid "${daemons[@]/#/$folder/}"; do
    file=${file%.pid}.pid daemon=$(basename "${file%.pid}")
    daemon=${daemon%%-*}
    pid=$("${root[@]}" cat "$file" 2>/dev/null) || continue
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$daemon" ] || continue # the number may be another's by now
    "${root[@]}" kill "$pid" 2>/dev/null || continue
    for _ in $(seq 100); do lives "$pid" && sleep 0.1 || break; done
    if lives "$pid"; then "${root[@]}" kill -9 "$pid"; fi
  done
  if grep -qs '^ClusterName=touchstone$' "$SLURM_CONF"; then "${root[@]}" rm -rf "$folder"; fi # nobody else's
}

case $verb in
  start | stop) "$verb" ;;
  *) sed -n '2,7s/^# *//p' "$0" >&2 && exit 2 ;;
esac
