#!/usr/bin/env bash
# Every answer that a GPU can give, the most important first: bench/gpu.sh [OUT [PART ...]]
#
# Runs from a checkout after `pip install -e '.[test,bench]'`, unattended, on one GPU in under 20 minutes: each part has
# its own time limit, and one that fails, hangs or crashes stops no other; what was measured until then is kept. The
# same holds within a part: a test that kills its process is named, and the others run in a new one; an entry that
# crashes has a row that says so. Files go to OUT (bench/results), named by the GPU
# (throughput-h200-compute.json, …); last comes a page of all results, summary-h200.md. Logs, which are not
# committed, go to OUT/logs; `python -m bench.docs` makes the tables of README and docs from the files.
#
# PART: tests compute loader profile candidates ablation ablation-loader settings-loader settings-compute max-autotune.
# Default: those without a complete result in OUT, failed ones last, so that another call resumes on a machine lent for
# minutes. Named parts are measured again. All share the budget.
#
# FASTSEG_SHARDS=DIR       a packed set for the frames (default: procedural streets, drawn once and kept in the cache)
# FASTSEG_BUDGET=SECONDS   for all parts together (default: 1200)
# FASTSEG_PYTHON=PYTHON    the interpreter (default: .venv/bin/python if there is one, else python3)
# FASTSEG_TESTS=DIR        the folder of the tests (default: tests/gpu); FASTSEG_TEST_PATIENCE=SECONDS for one (90)
# FASTSEG_DEVICE=cpu       rehearses every part on the CPU in its quick form, into runs/gpu-rehearsal
set -u
cd "$(dirname "$0")/.." || exit 2

. bench/parts.sh
python=${FASTSEG_PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
device=${FASTSEG_DEVICE:-cuda}
if [ "$device" = cpu ]; then
    gpu=cpu
    out=${1:-runs/gpu-rehearsal}
else
    gpu=$("$python" -c 'import torch
from bench.docs.gpu_page import short_name
print(short_name(torch.cuda.get_device_name(0)))') ||
        { echo "error: torch sees no GPU here; FASTSEG_DEVICE=cpu rehearses on the CPU" >&2; exit 2; }
    out=${1:-bench/results}
fi
mkdir -p "$out/logs" || exit 2
# Results say which command they come from: a path in the checkout, where it is one, not this machine's.
out=$(realpath --relative-base=. "$out")

# Of the usual budget, 1200 together. What a part leaves, those after it may use.
all=(tests compute loader profile candidates ablation ablation-loader settings-loader settings-compute max-autotune)
seconds=(300 240 190 70 120 100 40 50 40 50)
declare -A result=(
    [tests]=tests-$gpu.json
    [compute]=throughput-$gpu-compute.json
    [loader]=throughput-$gpu-loader.json
    [profile]=profile-$gpu.json
    [candidates]=candidates-$gpu-compute.json
    [ablation]=ablation-$gpu-compute.json
    [ablation-loader]=ablation-$gpu-loader.json
    [settings-loader]=settings-$gpu-loader.json
    [settings-compute]=settings-$gpu-compute.json
    [max-autotune]=candidates-$gpu-autotune.json
)
report=$out/parts-$gpu.txt

# is_done PART: whether an earlier call has its whole result.
is_done() { said "$1" done && [ -s "$out/${result[$1]}" ]; }

# open_parts: those that are not done; the ones that went wrong come last, since they may do so again.
open_parts() {
    local part
    for part in "${all[@]}"; do is_done "$part" || said "$part" '[fcs]' || echo "$part"; done
    for part in "${all[@]}"; do is_done "$part" || ! said "$part" '[fcs]' || echo "$part"; done
}

parts= failed=0 pairs=()
# shellcheck disable=SC2046 # names without blanks
if [ $# -gt 1 ]; then
    share_out "${FASTSEG_BUDGET:-1200}" "${@:2}"
elif [ -n "$(open_parts)" ]; then
    share_out "${FASTSEG_BUDGET:-1200}" $(open_parts)
fi

# measured NAME OPTIONS...: a part that bench/throughput.py measures.
measured() {
    local name=$1
    shift
    limited "$name" "$python" bench/throughput.py --device "$device" "${quick[@]}" "${frames[@]}" \
        --json "$out/${result[$name]}" "$@"
}

frames=()
[ -n "${FASTSEG_SHARDS:-}" ] && frames=(--shards "$FASTSEG_SHARDS")
quick=(--windows 4 --seconds 0.75 --warmup 0.375) # bench/compare.py tells noise from four
chosen=(-p no:cacheprovider)
if [ "$device" = cpu ]; then
    quick=(--quick --windows 1 --seconds 0.2 --warmup 0)
    chosen+=(-k "not compiled and not fp16") # which take minutes on a CPU
fi
export PYTHONUNBUFFERED=1 COLUMNS=140

"$python" -m bench.runner.machine "$out/environment-$gpu.json" bench/gpu.sh "$@" || failed=1
# Not -q, which tells serial numbers.
[ "$device" = cpu ] || nvidia-smi --format=csv >"$out/logs/nvidia-smi.csv" 2>&1 \
    --query-gpu=name,driver_version,power.limit,power.draw,clocks.max.sm,clocks.max.mem,clocks.sm,clocks.mem

for part in $parts; do
    case $part in
        tests) limited tests "$python" -m bench.runner.isolated_tests "$out/${result[tests]}" "${FASTSEG_TESTS:-tests/gpu}" \
            -v -rfEs "${chosen[@]}" ;;
        compute) measured compute --stages compute train evaluation ;;
        loader) measured loader --stages loader --no-sweep ;;
        profile) limited profile "$python" -m bench.stages.profile_step "$device" "$out/${result[profile]}" \
            ${FASTSEG_SHARDS:+"$FASTSEG_SHARDS"} ;;
        candidates) FASTSEG_CANDIDATES=-max-autotune measured candidates --candidates --stages compute ;;
        ablation) measured ablation --ablate --stages compute ;;
        ablation-loader) measured ablation-loader --ablate --stages loader ;;
        settings-loader) measured settings-loader --settings --stages loader ;;
        settings-compute) measured settings-compute --settings --stages compute ;;
        max-autotune) # takes minutes to compile, in which the others would wait; nothing on a CPU
            [ "$device" = cpu ] ||
                FASTSEG_CANDIDATES=max-autotune measured max-autotune --candidates --stages compute ;;
        *) echo "error: $part is no part; see the head of $0" >&2; failed=1 ;;
    esac
done

for part in "${all[@]}"; do pairs+=("$part=${result[$part]}"); done
"$python" -m bench.docs.gpu_page "$out" "$gpu" "${pairs[@]}" | tee "$out/summary-$gpu.md"
exit "$failed"
