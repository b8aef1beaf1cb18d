#!/usr/bin/env bash
# What recipes reach on a GPU, the most important question first: bench/accuracy.sh [OUT [PART ...]]
#
# Runs from a checkout after `pip install -e '.[bench]'`, on one GPU in under 25 minutes. Each part is a study of
# bench/accuracy.py with a share of the time; what it did not come to goes on when the script is run again, from the run
# folders in FASTSEG_RUNS. JSON and pictures, named by the GPU (accuracy-h200-camvid.json, …), go to OUT
# (bench/results), tables and logs, which are not to be committed, to OUT/logs; `python -m bench.suite.readme` makes the tables of
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

python=${FASTSEG_PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
device=${FASTSEG_DEVICE:-cuda}
seeds=${FASTSEG_SEEDS:-3}
flags=(--device "$device" --shards "${FASTSEG_SHARDS:-shards/camvid}")
some=()
if [ "$device" = cpu ]; then
    gpu=cpu
    out=${1:-runs/accuracy-rehearsal}
    runs=${FASTSEG_RUNS:-$out/runs}
    seeds=${FASTSEG_SEEDS:-1}
    some=(--variants ohem)
    flags+=(--model.arch deeplabv3_mobilenet_v3_large --data.crop 64 64 --data.batch 4 --data.eval-batch 2
        --optim.epochs 1 --optim.warmup 0.5 --eval-every 1 --save-every 1)
else
    gpu=$("$python" -c 'import torch
from bench.suite.summary import short_name
print(short_name(torch.cuda.get_device_name(0)))') ||
        { echo "error: torch sees no GPU here; FASTSEG_DEVICE=cpu rehearses on the CPU" >&2; exit 2; }
    out=${1:-bench/results}
    runs=${FASTSEG_RUNS:-runs/accuracy}
fi
shift $(($# ? 1 : 0))

# Seconds of the usual budget for each part, 1440 together: a minute of the 25 is for the beginning and for the last run
# to save. What a part leaves, those after it may use.
all=(camvid camvid-short)
seconds=(960 480)
declare -A share
for i in "${!all[@]}"; do share[${all[i]}]=${seconds[i]}; done
parts=${*:-${all[*]}}
shares=0
for part in $parts; do shares=$((shares + ${share[$part]:-0})); done
mkdir -p "$out/logs" || exit 2
# Results say which command they come from: a path in the checkout, where it is one, not this machine's.
out=$(realpath --relative-base=. "$out")
budget=${FASTSEG_BUDGET:-1440}
due=0 # of the budget, the shares of the parts so far
SECONDS=0
failed=0
export PYTHONUNBUFFERED=1

# study NAME OPTIONS...: train a study within its share of the budget and what those before have left.
study() {
    local name=$1 file=$out/accuracy-$gpu-$1 log=$out/logs/accuracy-$1 limit began=$SECONDS code=0
    shift
    due=$((due + ${share[$name]}))
    limit=$((budget * due / shares - SECONDS))
    if [ "$limit" -lt 20 ]; then
        echo "$name: no time left"
        failed=1
        return
    fi
    # SIGTERM first: the run at hand then saves, and what there is is written.
    timeout --kill-after=60 "$limit" "$python" bench/accuracy.py "$name" --seeds "$seeds" --runs "$runs" --markdown \
        --json "$file.json" --plot "$file.svg" "$@" -- "${flags[@]}" >"$log.md" 2>"$log.log" || code=$?
    case $code in
        0) echo "$name: done in $((SECONDS - began)) s" ;;
        124 | 137) echo "$name: stopped after $limit s; the same command goes on" ;;
        *) echo "$name: failed ($code) after $((SECONDS - began)) s: $(tail -n 1 "$log.log")" ;;
    esac
    [ "$code" -eq 0 ] || failed=1
    cat "$log.md"
}

for part in $parts; do
    case $part in
        camvid) study camvid ;;
        camvid-short) study camvid-short "${some[@]}" ;;
        *) echo "error: $part is no part; see the head of $0" >&2; failed=1 ;;
    esac
done
exit "$failed"
