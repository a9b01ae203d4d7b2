#!/bin/bash
# Measures two planes joined by a veth pair with iperf3, interleaved with the bare pair: one JSON line a round.
# usage: tunnel.sh BINARY SECONDS ROUNDS [iperf3 arguments, e.g. "-P 4" or "-R"] [tunnel options ...]
# MTU=1280 by default. Needs root, iperf3, jq. Everything is in namespaces of its own and goes with it.
set -u
BIN=$1 SECS=$2 ROUNDS=$3 IPERF=${4:-}; shift 3; shift || true
MTU=${MTU:-1280} A=cva$$ B=cvb$$ DIR=$(mktemp -d) PIDS=()
cleanup() {
    exec 7>&- 8>&-
    for pid in "${PIDS[@]}"; do kill "$pid" 2>/dev/null; done
    sleep 0.3
    cat "$DIR"/a.out "$DIR"/b.out
    ip netns del $A; ip netns del $B; rm -r "$DIR"
}
trap cleanup EXIT
ip netns add $A; ip netns add $B
ip -n $A link add va type veth peer name vb netns $B
ip -n $A addr add 192.168.77.1/24 dev va; ip -n $B addr add 192.168.77.2/24 dev vb
for n in "$A va" "$B vb" "$A lo" "$B lo"; do ip -n ${n% *} link set ${n#* } up; done
mkfifo "$DIR"/a "$DIR"/b
ip netns exec $A "$BIN" cm0 1 51820 2 192.168.77.2:51820 "$@" <"$DIR"/a >"$DIR"/a.out & DA=$!
exec 7>"$DIR"/a
ip netns exec $B "$BIN" cm0 2 51820 1 192.168.77.1:51820 "$@" <"$DIR"/b >"$DIR"/b.out & DB=$!
exec 8>"$DIR"/b
sleep 0.5
for n in "$A 1" "$B 2"; do
    ip -n ${n% *} addr add 10.77.0.${n#* }/24 dev cm0
    ip -n ${n% *} addr add fd77::${n#* }/64 dev cm0 nodad
    ip -n ${n% *} link set cm0 mtu $MTU up
done
ip netns exec $A ping -c 5 -i 0.2 -W 2 10.77.0.2 >"$DIR"/ping || { cat "$DIR"/ping; exit 1; }
ip netns exec $B iperf3 -s -p 5201 >/dev/null 2>&1 & PIDS+=($!)
sleep 0.3
cpu() { awk '{print $14+$15}' /proc/$1/stat; }
round() { # name, target
    local a0 b0 a1 b1
    a0=$(cpu $DA) b0=$(cpu $DB)
    # shellcheck disable=SC2086
    ip netns exec $A iperf3 -c "$2" -p 5201 -t "$SECS" $IPERF -J >"$DIR"/json 2>&1
    a1=$(cpu $DA) b1=$(cpu $DB)
    jq -c --arg n "$1" --argjson a $((a1 - a0)) --argjson b $((b1 - b0)) \
        --argjson ra "$(awk '/VmRSS/{print $2}' /proc/$DA/status)" --argjson rb "$(awk '/VmRSS/{print $2}' /proc/$DB/status)" \
        --arg rtt "$(awk -F/ '/^rtt/{print $5}' "$DIR"/ping)" --arg load "$(cut -d' ' -f1 /proc/loadavg)" \
        '(.end.sum_received.bytes * 8 / 1e9) as $gbit | {name: $n, gbps: (.end.sum_received.bits_per_second / 1e7 | round / 100),
          cpu_s_per_gbit: (($a + $b) / 100 / $gbit * 1000 | round / 1000), cpu_a: ($a / 100), cpu_b: ($b / 100),
          retransmits: .end.sum_sent.retransmits, rss_kb: [$ra, $rb], idle_rtt_ms: $rtt, load: $load}' "$DIR"/json \
        || head -c 500 "$DIR"/json
}
for _ in $(seq "$ROUNDS"); do round veth 192.168.77.2; round tunnel 10.77.0.2; done
