#!/usr/bin/env bash
# Every answer that a GPU can give, the most important first: bench/gpu.sh [OUT [PART ...]]
#
# Runs from a checkout after `pip install -e '.[test,bench]'`, on one GPU in under 20 minutes. Each part has a time limit
# of its own and one that fails stops no other; what was measured until then is kept. Files go to OUT (bench/results),
# named by the GPU (throughput-h200-compute.json, …), logs, which are not to be committed, to OUT/logs;
# `python -m bench.suite.readme` makes the tables of README and docs of the files.
#
# PART: tests compute loader profile ablation candidates ablation-loader settings-loader settings-compute max-autotune.
# Default: all. Where a machine is lent for minutes, name a few and come again: they share the whole budget.
#
# FASTSEG_SHARDS=DIR       a packed set for the frames (default: procedural streets, drawn once and kept in the cache)
# FASTSEG_BUDGET=SECONDS   for all parts together (default: 1200)
# FASTSEG_PYTHON=PYTHON    the interpreter (default: .venv/bin/python if there is one, else python3)
# FASTSEG_DEVICE=cpu       rehearses every part on the CPU in its quick form, into runs/gpu-rehearsal
set -u
cd "$(dirname "$0")/.." || exit 2

. bench/parts.sh
find_device runs/gpu-rehearsal "${@:1:1}"

# Of the usual budget, 1200 together. What a part leaves, those after it may use.
all=(tests compute loader profile ablation candidates ablation-loader settings-loader settings-compute max-autotune)
seconds=(180 270 210 90 120 120 50 60 40 60)
share_out "${FASTSEG_BUDGET:-1200}" "${@:2}"
report=$out/parts-$gpu.txt
: >"$report"

# measured NAME FILE OPTIONS...: a part that bench/throughput.py measures, to OUT/FILE.json.
measured() {
    local name=$1 file=$2
    shift 2
    limited "$name" "$python" bench/throughput.py --device "$device" "${quick[@]}" "${frames[@]}" \
        --json "$out/$file.json" "$@"
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

"$python" - "$out/environment-$gpu.json" <<'END' || failed=1
import json, sys
from pathlib import Path
sys.path.insert(0, ".")
from bench.suite.machine import machine
Path(sys.argv[1]).write_text(json.dumps(machine(), indent=1) + "\n")
END
# Not -q, which tells serial numbers.
[ "$device" = cpu ] || nvidia-smi --format=csv >"$out/logs/nvidia-smi.csv" 2>&1 \
    --query-gpu=name,driver_version,power.limit,power.draw,clocks.max.sm,clocks.max.mem,clocks.sm,clocks.mem

for part in $parts; do
    case $part in
        tests) limited tests "$python" -m pytest tests/gpu -v -rfEs "--junitxml=$out/logs/tests-$gpu.xml" "${chosen[@]}" ;;
        compute) measured compute "throughput-$gpu-compute" --stages compute train evaluation ;;
        loader) measured loader "throughput-$gpu-loader" --stages loader --no-sweep ;;
        profile) limited profile "$python" -m bench.suite.profiled "$device" "$out/profile-$gpu.json" \
            ${FASTSEG_SHARDS:+"$FASTSEG_SHARDS"} ;;
        ablation) measured ablation "ablation-$gpu-compute" --ablate --stages compute ;;
        candidates)
            FASTSEG_CANDIDATES=-max-autotune \
                measured candidates "candidates-$gpu-compute" --candidates --stages compute ;;
        ablation-loader) measured ablation-loader "ablation-$gpu-loader" --ablate --stages loader ;;
        settings-loader) measured settings-loader "settings-$gpu-loader" --settings --stages loader ;;
        settings-compute) measured settings-compute "settings-$gpu-compute" --settings --stages compute ;;
        max-autotune) # takes minutes to compile, in which the others would wait; nothing on a CPU
            [ "$device" = cpu ] || FASTSEG_CANDIDATES=max-autotune \
                measured max-autotune "candidates-$gpu-autotune" --candidates --stages compute ;;
        *) echo "error: $part is no part; see the head of $0" >&2; failed=1 ;;
    esac
done

"$python" -m bench.suite.summary "$out" "$gpu" | tee "$out/summary-$gpu.md"
exit "$failed"
