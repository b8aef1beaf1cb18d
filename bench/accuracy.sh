#!/usr/bin/env bash
# Train recipes on a GPU, the most important question first: bench/accuracy.sh [OUT [PART ...]]
#
# Runs from a checkout after `pip install -e '.[bench]'`, on one GPU in under 25 minutes. Each part is a study of
# bench/accuracy.py with a share of the time; run the script again to resume unfinished runs from the
# run folders in FASTSEG_RUNS, which have to be kept for that; without them it begins anew. JSON and pictures, named by the GPU
# (accuracy-h200-camvid.json, …), go to OUT (bench/results), logs, which are not committed, to OUT/logs;
# `python -m bench.docs` makes the tables of docs/studies.md from the files.
#
# PART: camvid camvid-short camvid-seeds. Default: all. Expected on an H200 at 30 to 40 % of its datasheet's rate:
#   camvid        the recipe as it stands, R50 from scratch, one seed: 7 to 10 minutes
#   camvid-short  a twelfth of its length, with one thing changed at a time: which of its parts pay. A run takes about a
#                 minute, so that one call finishes 10 of 15; an interval takes all three seeds: a second call
#   camvid-seeds  the other seeds of the first part, as far as the time goes: a verdict takes two more calls
#
# FASTSEG_SHARDS=DIR       CamVid's packed set (default: shards/camvid; tools/make_shards.py packs it)
# FASTSEG_RUNS=DIR         the run folders (default: runs/accuracy)
# FASTSEG_SEEDS=N          seeds of each variant (default: 3)
# FASTSEG_BUDGET=SECONDS   for all parts together (default: 1440)
# FASTSEG_PYTHON=PYTHON    the interpreter (default: .venv/bin/python if there is one, else python3)
# FASTSEG_DEVICE=cpu       rehearses on the CPU, small, into runs/accuracy-rehearsal
set -u
cd "$(dirname "$0")/.." || exit 2

. bench/parts.sh
find_device runs/accuracy-rehearsal "${@:1:1}"

# Of the usual budget, 1440 together: a minute of the 25 is for the beginning and for the last run to save. What a part
# leaves, those after it may use.
all=(camvid camvid-short camvid-seeds)
seconds=(660 660 120)
share_out "${FASTSEG_BUDGET:-1440}" "${@:2}"

runs=${FASTSEG_RUNS:-runs/accuracy}
seeds=${FASTSEG_SEEDS:-3}
flags=(--device "$device" --shards "${FASTSEG_SHARDS:-shards/camvid}")
some=(--variants weights-off dice ema-off colors-off)
if [ "$device" = cpu ]; then
    runs=${FASTSEG_RUNS:-$out/runs}
    seeds=${FASTSEG_SEEDS:-1}
    some=(--variants ema-off)
    flags+=(--model.arch deeplabv3_mobilenet_v3_large --data.crop 64 64 --data.batch 4 --data.eval-batch 2
        --optim.epochs 1 --optim.warmup 0.5 --eval-every 1 --save-every 1)
fi
export PYTHONUNBUFFERED=1

# study PART NAME OPTIONS...: train a study within a part's share of the budget, and show the results.
study() {
    local part=$1 file=$out/accuracy-$gpu-$2
    local study=("$python" bench/accuracy.py "${@:2}" --runs "$runs" --json "$file.json" --plot "$file.svg")
    limited "$part" "${study[@]}" -- "${flags[@]}"
    "${study[@]}" --show --markdown -- "${flags[@]}"
}

for part in $parts; do
    case $part in
        camvid) study camvid camvid --seeds 1 ;;
        camvid-short) study camvid-short camvid-short --seeds "$seeds" "${some[@]}" ;;
        camvid-seeds) study camvid-seeds camvid --seeds "$seeds" ;;
        *) echo "error: $part is no part; see the head of $0" >&2; failed=1 ;;
    esac
done
exit "$failed"
