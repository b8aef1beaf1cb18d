# For gpu.sh and accuracy.sh to source: where to measure, and parts that share a budget of seconds.
#
# find_device REHEARSAL [OUT]   sets python, device, gpu (its short name) and out, the folder of the results, by default
#                               bench/results, or REHEARSAL on the CPU
# share_out BUDGET [PART ...]   sets parts, by default all; a part's share of the budget is its place's in `seconds`
# limited PART COMMAND ...      runs it within its share and what those before have left, logs to OUT/logs/PART.log, says
#                               how it went, in the file `report` too if that is set, in place of what that said of the
#                               part before; where it fails, `failed` is 1 from then on

set -m # a part is a process group, which bash can leave waiting for: so Ctrl-C ends it, and us
trap '[ -z "${!:-}" ] || { kill -TERM $! && wait $!; }; exit 130' INT

find_device() {
    python=${FASTSEG_PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
    device=${FASTSEG_DEVICE:-cuda}
    if [ "$device" = cpu ]; then
        gpu=cpu
        out=${2:-$1}
    else
        gpu=$("$python" -c 'import torch
from bench.docs.gpu_page import short_name
print(short_name(torch.cuda.get_device_name(0)))') ||
            { echo "error: torch sees no GPU here; FASTSEG_DEVICE=cpu rehearses on the CPU" >&2; exit 2; }
        out=${2:-bench/results}
    fi
    mkdir -p "$out/logs" || exit 2
    # Results say which command they come from: a path in the checkout, where it is one, not this machine's.
    out=$(realpath --relative-base=. "$out")
}

share_out() {
    local i part
    budget=$1
    shift
    parts=${*:-${all[*]}}
    declare -gA share
    for i in "${!all[@]}"; do share[${all[i]}]=${seconds[i]}; done
    shares=0
    for part in $parts; do shares=$((shares + ${share[$part]:-0})); done
    due=0 # of the budget, the shares of the parts so far
    failed=0
    SECONDS=0
}

limited() {
    local name=$1 limit began=$SECONDS code=0
    shift
    due=$((due + ${share[$name]}))
    limit=$((budget * due / shares - SECONDS))
    if [ "$limit" -lt 20 ]; then
        # What an earlier call has found out says more.
        if said "$name"; then echo "$name: no time left"; else tell "$name" "no time left"; fi
        failed=1
        return
    fi
    # SIGTERM first: the command then writes what it has.
    timeout --kill-after=150 "$limit" "$@" >"$out/logs/$name.log" 2>&1 &
    wait $! || code=$?
    # timeout's own SIGKILL is told from another's, the kernel's when memory runs out, by the time.
    [ "$code" -eq 137 ] && [ $((SECONDS - began)) -ge "$limit" ] && code=124
    case $code in
        0) tell "$name" "done in $((SECONDS - began)) s" ;;
        124) tell "$name" "stopped after $limit s, see $out/logs/$name.log" ;;
        12[89] | 1[3-9]?) tell "$name" "crashed (SIG$(kill -l "$code")) after $((SECONDS - began)) s: $(last_line "$name")" ;;
        *) tell "$name" "failed ($code) after $((SECONDS - began)) s: $(last_line "$name")" ;;
    esac
    [ "$code" -eq 0 ] || failed=1
}

last_line() { grep -v '^[[:space:]]*$' "$out/logs/$1.log" | tail -n 1; }

# said PART [WORD]: whether the report tells of the part, beginning with the word.
said() { [ -n "${report:-}" ] && grep -q "^$1: ${2:-}" "$report" 2>/dev/null; }

tell() {
    echo "$1: $2"
    [ -n "${report:-}" ] || return 0
    { grep -v "^$1: " "$report" 2>/dev/null; echo "$1: $2"; } >"$report.new"
    mv "$report.new" "$report"
}
