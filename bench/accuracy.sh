#!/usr/bin/env bash
# What recipes reach on a GPU, the most important question first: bench/accuracy.sh [OUT [PART ...]]
#
# Runs from a checkout after `pip install -e '.[bench]'`, on one GPU in under 25 minutes. Each part is a study of
# bench/accuracy.py with a share of the time; what it did not come to goes on when the script is run again, from the run
# folders in FASTSEG_RUNS. JSON and pictures, named by the GPU (accuracy-h200-camvid.json, …), go to OUT
# (bench/results), logs, which are not to be committed, to OUT/logs; `python -m bench.suite.readme` makes the tables of
# docs/recipes.md of the files.
#
# PART: camvid camvid-short. Default: both.
#   camvid        the recipe as it stands, R50 from scratch: the mIoU over seeds, and the minutes to each mark
#   camvid-short  a sixth of its length, with one thing changed at a time: which of its parts pay
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
all=(camvid camvid-short)
seconds=(960 480)
share_out "${FASTSEG_BUDGET:-1440}" "${@:2}"

runs=${FASTSEG_RUNS:-runs/accuracy}
seeds=${FASTSEG_SEEDS:-3}
flags=(--device "$device" --shards "${FASTSEG_SHARDS:-shards/camvid}")
some=()
if [ "$device" = cpu ]; then
    runs=${FASTSEG_RUNS:-$out/runs}
    seeds=${FASTSEG_SEEDS:-1}
    some=(--variants ohem)
    flags+=(--model.arch deeplabv3_mobilenet_v3_large --data.crop 64 64 --data.batch 4 --data.eval-batch 2
        --optim.epochs 1 --optim.warmup 0.5 --eval-every 1 --save-every 1)
fi
export PYTHONUNBUFFERED=1

# study NAME OPTIONS...: train a study within its share, and show what there is.
study() {
    local study=("$python" bench/accuracy.py "$1" --seeds "$seeds" --runs "$runs" "${@:2}") file=$out/accuracy-$gpu-$1
    limited "$1" "${study[@]}" --json "$file.json" --plot "$file.svg" -- "${flags[@]}"
    "${study[@]}" --show --markdown -- "${flags[@]}"
}

for part in $parts; do
    case $part in
        camvid) study camvid ;;
        camvid-short) study camvid-short "${some[@]}" ;;
        *) echo "error: $part is no part; see the head of $0" >&2; failed=1 ;;
    esac
done
exit "$failed"
