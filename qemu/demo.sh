# shellcheck shell=bash
# What ./qemu/up is made of: steps, checks, the outside listener, the guests. Sourced with set -e, in the repository.

# The port that the workload of configs/demo*.app-compose.json tries at 10.0.2.2, which is the host's 127.0.0.1.
OUTSIDE_PORT=20202
# The port of the host at which configs/demo-peer.app-compose.json has its target.
TARGET_PORT=20443

# A unix socket's path has at most 107 bytes, so it does not lie in the repository.
run=$(mktemp -d /tmp/casemate-up.XXXXXX)
outside='' agent=''
# The process of each guest that is on, and how each that is off has ended.
declare -A guests=() ended=()
passed=0 failed=()

clean_up() {
    local status=$? pid
    trap - EXIT
    set +e
    for pid in "$agent" "$outside"; do
        [[ -z $pid ]] || kill "$pid" 2>/dev/null
    done
    for pid in "${guests[@]}"; do
        # Two signals: now, not in order.
        kill "$pid" 2>/dev/null && sleep 0.3
        kill "$pid" 2>/dev/null
        wait "$pid" 2>/dev/null
    done
    if ((status == 0)); then rm -rf "$run"; else echo "logs are in $run" >&2; fi
    exit "$status"
}
trap clean_up EXIT

step() { printf '\n== %s\n' "$*"; }
note() { printf '   %s\n' "$*"; }
give_up() { echo "qemu/up: $*" >&2 && exit 1; }

# Shows a command as a person would type it.
say() { { printf '$' && printf ' %q' "$@" && printf '\n'; } >&2; }
# Shows it and runs it.
show() { say "$@" && "$@"; }

# holds WORDS COMMAND… - runs the command and notes whether it succeeded.
holds() {
    local words=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
        note "ok: $words"
    else
        failed+=("$words")
        note "NOT SO: $words"
    fi
}

# fails_with STATUS COMMAND…
fails_with() {
    local status=0
    "${@:2}" || status=$?
    ((status == $1))
}

# fails COMMAND… - in any way.
fails() { ! "$@"; }

# prints TEXT COMMAND… - the command succeeds and the text is in its output, which is shown.
prints() {
    local output
    output=$("${@:2}") || return 1
    printf '%s\n' "$output"
    grep -qF -- "$1" <<<"$output"
}

# answers TEXT COMMAND… - the command succeeds and the text is all of its output.
answers() {
    local output
    output=$("${@:2}") || return 1
    printf '%s\n' "$output"
    [[ $output == "$1" ]]
}

# refuses NAME STATUS TEXT COMMAND… - the command prints the HTTP status that the mesh of this guest gives its own workload,
# and the mesh logs why, with this text.
refuses() {
    local output console=$run/$1/console.log before
    before=$(wc -c <"$console")
    output=$("${@:4}") || return 1
    printf '%s\n' "$output"
    grep -qF "HTTP/1.1 $2 " <<<"$output" && wait_for 60 mesh_says "$1" "$before" "$3"
}

# refuses_stranger NAME TEXT COMMAND… - the command gets no answer of this guest, whose mesh logs why, with this text.
refuses_stranger() {
    local before
    before=$(wc -c <"$run/$1/console.log")
    fails "${@:3}" && wait_for 60 mesh_says "$1" "$before" "$2"
}

# mesh_says NAME BEFORE TEXT - in what the guest's console has since it had so many bytes.
mesh_says() {
    tail -c +$(($2 + 1)) "$run/$1/console.log" | tr -d '\r' | grep -a '^mesh: ' | grep -aF -- "$3"
}

# wait_for SECONDS COMMAND…
wait_for() {
    local until=$((SECONDS + $1))
    until "${@:2}"; do
        ((SECONDS < until)) || return 1
        sleep 0.5
    done
}

# build OUT ARGUMENT… - an image without a document.
build() {
    show cargo image build --flavor dev --workload web=out/demo/busybox --workload probe=out/demo/busybox "${@:2}" --out "$1"
}

# boot NAME IMAGE DOCUMENT HOST_PORT - in the background; its directory is $run/NAME.
boot() {
    local command
    command=(cargo qemu boot --image "$2" --document "$3" --forward "$4:443" --run-dir "$run/$1" --pcap "$run/$1.pcap")
    say "${command[@]}"
    # Not through a function: $! must be the process itself, so that it can be waited for and ended.
    "${command[@]}" </dev/null &
    guests[$1]=$!
    if ! cargo qemu wait --run-dir "$run/$1" --timeout 400 >/dev/null; then
        tail -n 30 "$run/$1/console.log" >&2 || true
        give_up "the guest $1 did not get ready"
    fi
}

# address NAME - where the host reaches its mesh.
address() { jq -r '.forwards[0].host' "$run/$1/status.json"; }

# Waits for the end of a guest, however long it takes.
wait_for_guest() {
    local status
    # Ctrl-C reaches the guest's process by itself, which powers the guest off; here it only must not end the script.
    trap 'true' INT TERM
    while true; do
        status=0
        wait "${guests[$1]}" || status=$?
        kill -0 "${guests[$1]}" 2>/dev/null || break
    done
    trap - INT TERM
    ended[$1]=$status
    unset "guests[$1]"
}

stop_guest() {
    show cargo qemu stop --run-dir "$run/$1" || true
    wait_for_guest "$1"
}

outside_start() {
    cargo qemu outside --listen "127.0.0.1:$OUTSIDE_PORT" --count "$run/outside" </dev/null &
    outside=$!
    wait_for 20 test -e "$run/outside" || give_up "127.0.0.1:$OUTSIDE_PORT cannot be listened on"
}

outside_stop() {
    kill "$outside" || true
    wait "$outside" 2>/dev/null || true
    outside=''
    rm -f "$run/outside"
}

outside_count() { cat "$run/outside"; }
outside_reached() { (($(outside_count) > 0)); }
frames_to_outside() { cargo qemu frames --pcap "$run/$1.pcap" --to "10.0.2.2:$OUTSIDE_PORT" --json | jq .to; }

# The counter of packets of the service probe that the lock denied.
denied() {
    cargo qemu status "$run/demo" --json |
        jq '[.status.egress.counters[]? | select(.name == "denied:probe").packets] | add // 0'
}
denied_more_than() { (($(denied) > $1)); }

# agent_start IMAGE DOCUMENT - a simulated machine on the host; its certificate and key are $run/client.crt and .key.
agent_start() {
    local command
    command=(cargo run --quiet --locked -p casemate-agent -- simulate --image "$1" --document "$2" --socket "$run/agent.sock")
    rm -f "$run/agent.sock"
    say "${command[@]}"
    "${command[@]}" </dev/null &
    agent=$!
    wait_for 60 test -S "$run/agent.sock" || give_up "the simulated agent did not start"
    show cargo run --quiet --locked -p casemate-agent -- certificate --socket "$run/agent.sock" --out "$run"
}

agent_stop() {
    kill "$agent" || true
    wait "$agent" 2>/dev/null || true
    agent=''
}

# report NAME DOCUMENT - judges a guest under the policy that follows from image and document; the report is $run/NAME.json.
report() {
    show cargo verify policy --image "$image" --document "$2" --out "$run/$1-policy.json"
    show cargo verify "$(address "$1")" --policy "$run/$1-policy.json" --trust-simulator --json >"$run/$1.json"
}

# of NAME FILTER - from that report.
of() { jq -r "$2" "$run/$1.json"; }
LAUNCH='.peer.registers | "mrtd \(.mrtd) rtmr0 \(.rtmr0) rtmr1 \(.rtmr1) rtmr2 \(.rtmr2)"'

one_image_two_documents() {
    note "launch registers of the first:  $(of demo "$LAUNCH")"
    note "launch registers of the second: $(of peer "$LAUNCH")"
    note "compose hash of the first:      $(of demo .peer.compose_hash)"
    note "compose hash of the second:     $(of peer .peer.compose_hash)"
    [[ $(of demo .peer.registers.rtmr2) != null && $(of demo "$LAUNCH") == "$(of peer "$LAUNCH")" &&
        $(of demo .peer.compose_hash) != "$(of peer .peer.compose_hash)" ]]
}

# bound NAME DOCUMENT - MRCONFIGID of its quote is that of the document.
bound() { [[ $(of "$1" .peer.registers.mrconfigid) == "$(cargo measure compose "$2" --json | jq -r .mrconfigid.v1)" ]]; }

verdict() {
    step "$passed of $((passed + ${#failed[@]})) held"
    if ((${#failed[@]})); then
        printf '   NOT SO: %s\n' "${failed[@]}"
        echo "The appliance did not do what it promises."
        exit 1
    fi
    echo "One measured image booted as two apps, which proved who they are, served only whom they could verify, each other"
    echo "included, and kept their workload from the outside."
    exit 0
}
