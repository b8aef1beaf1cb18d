#!/usr/bin/env bash
# Train CamVid on a GPU in 25 minutes: bench/accuracy.sh [OUT]
#
# First the recipe as it stands (R50 from scratch, 7 to 10 minutes expected on an H200), then a twelfth of its length with
# one thing changed at a time. A second call goes on with the run folders in runs/accuracy. JSON and pictures go to OUT
# (bench/results). It needs CamVid's packed set, shards/camvid.
set -u
cd "$(dirname "$0")/.." || exit 2
out=${1:-bench/results}

# study MINUTES NAME OPTIONS...: what is finished when the time is over is shown and written.
study() {
    local file=$out/accuracy-gpu-$2
    python bench/accuracy.py "${@:2}" --minutes "$1" --json "$file.json" --plot "$file.svg" -- --device cuda
}

study 12 camvid --seeds 1 --variants base
study 12 camvid-short --seeds 3 --variants weights-off dice ema-off colors-off
