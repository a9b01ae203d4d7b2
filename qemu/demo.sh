# shellcheck shell=bash
# What ./qemu/up is made of: steps, checks, the outside listener, the guest. Sourced with set -e, in the repository.

# The port that the workload of configs/demo*.app-compose.json tries at 10.0.2.2, which is the host's 127.0.0.1.
OUTSIDE_PORT=20202

# A unix socket's path has at most 107 bytes, so it does not lie in the repository.
run=$(mktemp -d /tmp/casemate-up.XXXXXX)
guest='' guest_status='' outside='' agent=''
passed=0 failed=()

clean_up() {
    local status=$? pid
    trap - EXIT
    set +e
    for pid in "$agent" "$outside"; do
        [[ -z $pid ]] || kill "$pid" 2>/dev/null
    done
    if [[ -n $guest ]]; then
        # Two signals: now, not in order.
        kill "$guest" 2>/dev/null && sleep 0.3
        kill "$guest" 2>/dev/null
        wait "$guest" 2>/dev/null
    fi
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

# wait_for SECONDS COMMAND…
wait_for() {
    local until=$((SECONDS + $1))
    until "${@:2}"; do
        ((SECONDS < until)) || return 1
        sleep 0.5
    done
}

build() {
    show cargo image build --flavor dev --config "$2" \
        --workload web=out/demo/busybox --workload probe=out/demo/busybox --out "$1"
}

# boot IMAGE NAME - in the background; its directory is $run/NAME.
boot() {
    local command port=0
    [[ $2 != demo || -n $check ]] || port=8443
    command=(cargo qemu boot --image "$1" --forward "$port:443" --run-dir "$run/$2" --pcap "$run/$2.pcap")
    say "${command[@]}"
    guest_dir=$run/$2 guest_status=''
    # Not through a function: $! must be the process itself, so that it can be waited for and ended.
    "${command[@]}" </dev/null &
    guest=$!
    if ! cargo qemu wait --run-dir "$guest_dir" --timeout 400 >/dev/null; then
        tail -n 30 "$guest_dir/console.log" >&2 || true
        give_up "the guest did not get ready"
    fi
}

wait_for_guest() {
    # Ctrl-C reaches the guest's process by itself, which powers the guest off; here it only must not end the script.
    trap 'true' INT TERM
    while true; do
        guest_status=0
        wait "$guest" || guest_status=$?
        kill -0 "$guest" 2>/dev/null || break
    done
    trap - INT TERM
    guest=''
}

stop_guest() {
    show cargo qemu stop --run-dir "$guest_dir" || true
    wait_for_guest
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

# The counter of packets of the service probe that the lock denied, from the last status line on the console.
denied() {
    tr -d '\r' <"$run/demo/console.log" | sed -n 's/^casemate: status \({.*}\)$/\1/p' |
        jq -Rn '[inputs | fromjson?] | last | [.egress.counters[]? | select(.name == "denied:probe").packets] | add // 0'
}
denied_more_than() { (($(denied) > $1)); }

agent_start() {
    local command
    command=(cargo run --quiet --locked -p casemate-agent -- simulate
        --image "$image" --document "$1" --socket "$run/agent.sock")
    say "${command[@]}"
    "${command[@]}" </dev/null &
    agent=$!
    wait_for 60 test -S "$run/agent.sock" || give_up "the simulated agent did not start"
}

verdict() {
    step "$passed of $((passed + ${#failed[@]})) held"
    if ((${#failed[@]})); then
        printf '   NOT SO: %s\n' "${failed[@]}"
        echo "The appliance did not do what it promises."
        exit 1
    fi
    echo "A measured machine booted, proved who it is, served its workload to a verified caller only, and kept it from the outside."
    exit 0
}
