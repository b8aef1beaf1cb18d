# For gpu.sh to source: parts that share a budget of seconds.
#
# share_out BUDGET PART ...   sets parts; a part's share of the budget is its place's in `seconds`
# limited PART COMMAND ...    runs it within its share and what those before have left, logs to OUT/logs/PART.log, says
#                             how it went, in the file `report`, too, in place of what that said of the part before; where
#                             it fails, `failed` is 1 from then on

set -m # a part is a process group, which bash can leave waiting for: so Ctrl-C ends it, and us
trap '[ -z "${!:-}" ] || { kill -TERM $! && wait $!; }; exit 130' INT

share_out() {
    local i part
    budget=$1
    shift
    parts=$*
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
said() { grep -q "^$1: ${2:-}" "$report" 2>/dev/null; }

tell() {
    echo "$1: $2"
    { grep -v "^$1: " "$report" 2>/dev/null; echo "$1: $2"; } >"$report.new"
    mv "$report.new" "$report"
}
