#!/usr/bin/env bash
# Several Ray nodes on this machine, to try what a cluster does: cluster/local/nodes.sh up 3
#
#   up N            a head and nodes n1..nN, one CPU each, with a token and TLS (secure.sh); prints what to source
#   start|stop|kill NAME   a node again, once it has ended; SIGTERM: it drains, then ends; SIGKILL of all it has
#   cut|heal NAME   its link down, and up again (namespaces only)
#   head|kill-head  the head again, alone; SIGKILL of it
#   pids NAME       of its processes, as this shell sees them
#   down            all of it ends, and nothing is left
#
# As root each node has a network, an address, processes, /tmp and /dev/shm of its own (namespaces). Else, or with RAYSFT_PLAIN=1, all are
# processes that share this machine's. State is in $RAYSFT_NODES (default build/nodes). NODE_CPUS (1), DRAIN_S (30), RAYSFT_PORT (6379) and
# RAYSFT_DASHBOARD (true) may be set. `ray` must be on the PATH.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
state=${RAYSFT_NODES:-build/nodes}
mkdir -p "$state"; state=$(cd "$state" && pwd)
net=10.78.0 bridge=br-raysft port=${RAYSFT_PORT:-6379} store=200000000

is_plain() { [ -e "$state/plain" ]; }
head_address() { if is_plain; then echo 127.0.0.1; else echo "$net.1"; fi; }
address() { if is_plain; then echo 127.0.0.1; else echo "$net.$((10 + ${1#n}))"; fi; }
pid() { cat "$state/$1.pid" 2> /dev/null || true; }

# As in pods (kube/pods.py): a node that is gone is noticed within ten seconds; Ray's own settings take a minute.
export RAY_health_check_period_ms=1000 RAY_health_check_timeout_ms=1000 RAY_health_check_failure_threshold=4
export RAY_health_check_initial_delay_ms=10000 RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=${DRAIN_S:-30} RAY_USAGE_STATS_ENABLED=0

network_up() {
    ip link show "$bridge" > /dev/null 2>&1 && return
    mkdir -p /run/netns
    ip link set lo up
    ip link add "$bridge" type bridge
    ip addr add "$net.1/24" dev "$bridge"
    ip link set "$bridge" up
}

link_up() {  # NAME
    [ -e "/run/netns/raysft-$1" ] && return
    ip netns add "raysft-$1"
    ip link add "v-$1" type veth peer name eth0 netns "raysft-$1"
    ip link set "v-$1" master "$bridge" up
    ip -n "raysft-$1" addr add "$(address "$1")/24" dev eth0
    ip -n "raysft-$1" link set eth0 up
    ip -n "raysft-$1" link set lo up
}

start_head() {
    source "$state/secure/env"
    setsid ray start --head --block --port="$port" --node-ip-address="$(head_address)" --num-cpus=0 --dashboard-host=127.0.0.1 \
        --include-dashboard="${RAYSFT_DASHBOARD:-true}" --object-store-memory="$store" > "$state/head.log" 2>&1 &
    echo $! > "$state/head.pid"
}

start_node() {  # NAME
    source "$state/secure/env"
    local join=(ray start --block --address="$(head_address):$port" --node-ip-address="$(address "$1")" --num-cpus="${NODE_CPUS:-1}"
        --object-store-memory="$store")
    if is_plain; then
        setsid "${join[@]}" > "$state/$1.log" 2>&1 &
    else
        link_up "$1"
        # unshare waits for the node as its child; when it ends, the kernel ends all that the node has started.
        setsid ip netns exec "raysft-$1" unshare --mount --pid --uts --fork --mount-proc --kill-child bash -c \
            'hostname "$0" && mount -t tmpfs tmpfs /tmp && mount -t tmpfs -o size=2g tmpfs /dev/shm && GLOO_SOCKET_IFNAME=eth0 exec "$@"' "$1" "${join[@]}" \
            > "$state/$1.log" 2>&1 &
    fi
    echo $! > "$state/$1.pid"
}

await_ended() {  # NAME
    local i
    for ((i = 0; i < 5 * (${DRAIN_S:-30} + 60); i++)); do is_running "$1" || return 0; sleep 0.2; done
    echo "$1 has not ended: $0 kill $1" >&2; exit 1
}

await_started() {  # NAME...
    local name i
    for name in "$@"; do
        for ((i = 0; i < 600; i++)); do
            grep -q "Ray runtime started" "$state/$name.log" && continue 2
            [ -d "/proc/$(pid "$name")" ] || break
            sleep 0.2
        done
        echo "$name did not start:" >&2; tail -n 20 "$state/$name.log" >&2; exit 1
    done
}

is_running() {  # NAME
    local main; main=$(pid "$1")
    [ -n "$main" ] && [ -d "/proc/$main" ] && [ "$(cut -d ' ' -f 3 "/proc/$main/stat" 2> /dev/null || echo Z)" != Z ]
}

descendants() {  # PID
    local child
    for child in $(cat /proc/"$1"/task/*/children 2> /dev/null); do echo "$child"; descendants "$child"; done
}

kill_all_of() {  # NAME
    is_running "$1" || return 0
    local main; main=$(pid "$1")
    kill -KILL $(descendants "$main") "$main" 2> /dev/null || true
    while is_running "$1"; do sleep 0.05; done
}

forget_head() {  # what Ray keeps of the newest cluster of this machine: with it another head would not start at this address
    local newest=/tmp/ray/ray_current_cluster
    grep -qsF "$(head_address):$port" "$newest" && rm -f "$newest" || true
}

up() {  # N
    [ ! -e "$state/head.pid" ] || { echo "nodes are up already: $0 down" >&2; exit 1; }
    rm -f "$state/plain"
    if [ "$(id -u)" != 0 ] || [ -n "${RAYSFT_PLAIN:-}" ] || ! unshare --net --mount --pid --fork true 2> /dev/null; then
        touch "$state/plain"
        echo "nodes are processes of this machine (namespaces want root)" >&2
    else
        network_up
    fi
    local names=(); for ((i = 1; i <= $1; i++)); do names+=("n$i"); done
    "$here/secure.sh" "$state/secure" "$(head_address)" $(for name in "${names[@]}"; do address "$name"; done | sort -u) > /dev/null
    start_head
    for ((i = 0; i < 600; i++)); do (echo > "/dev/tcp/$(head_address)/$port") 2> /dev/null && break; sleep 0.2; done
    for name in "${names[@]}"; do start_node "$name"; done
    await_started head "${names[@]}"
    printf 'source %q\nexport RAY_ADDRESS=%s\n' "$state/secure/env" "$(head_address):$port" > "$state/env"
    echo "source $state/env"
}

down() {
    local file name
    for file in "$state"/*.pid; do
        [ -e "$file" ] || continue
        name=$(basename "$file" .pid)
        kill_all_of "$name"
        [ "$name" = head ] || is_plain || {
            ip link del "v-$name" 2> /dev/null || true  # at once; with its namespace it would go some time later
            ip netns del "raysft-$name" 2> /dev/null || true
        }
    done
    forget_head
    is_plain || { ip link del "$bridge" 2> /dev/null || true; }
    rm -rf "$state"
}

case "${1:-}" in
    up) up "$2" ;;
    head) await_ended head; start_head; await_started head ;;
    start) await_ended "$2"; start_node "$2"; await_started "$2" ;;
    stop) if is_plain; then kill -TERM "$(pid "$2")"; else kill -TERM $(cat /proc/"$(pid "$2")"/task/*/children); fi ;;
    kill) kill_all_of "$2" ;;
    kill-head) kill_all_of head; forget_head ;;
    cut) ip link set "v-$2" down ;;
    heal) ip link set "v-$2" up ;;
    pids) descendants "$(pid "$2")" ;;
    down) down ;;
    *) sed -n '2,16s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
