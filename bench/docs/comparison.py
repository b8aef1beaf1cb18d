"""Compare fastseg with other projects: what their documents say, each with its source, and speed as measured here."""

from collections.abc import Sequence
from pathlib import Path

from bench.docs.tables import number, table
from bench.runner.machine import hardware, on_gpu
from bench.runner.results import Results

MMSEG = "https://github.com/open-mmlab/mmsegmentation/blob/main"
ULTRALYTICS = "https://docs.ultralytics.com"
EXAMPLE = "https://github.com/huggingface/transformers/blob/main/examples/pytorch/semantic-segmentation"
TRAINER = "https://huggingface.co/docs/transformers/main_classes/trainer"

PROJECTS = ("fastseg", "mmsegmentation", "Ultralytics", "Hugging Face")
FACTS = (
    (
        "license",
        "Apache-2.0",
        f"[Apache-2.0]({MMSEG}/LICENSE)",
        "[AGPL-3.0 or paid](https://www.ultralytics.com/license)",
        "[Apache-2.0](https://github.com/huggingface/transformers/blob/main/LICENSE)",
    ),
    (
        "networks",
        "torchvision's, and DeepLabv3+",
        f"[dozens]({MMSEG}/configs), DeepLabv3 too",
        f"[YOLO26-sem]({ULTRALYTICS}/tasks/semantic)",
        f"[SegFormer, BEiT, DPT, …]({EXAMPLE}/README.md)",
    ),
    (
        "own data",
        "[folders, zips, COCO, YOLO, CVAT, …](docs/data.md#layouts), checked and packed once",
        f"[folders of ids, and a class in Python]({MMSEG}/docs/en/advanced_guides/add_datasets.md)",
        f"[folders of ids or YOLO's polygons, and a YAML]({ULTRALYTICS}/datasets/semantic)",
        f"[a data set on the Hub]({EXAMPLE}/run_semantic_segmentation.py), or your own code",
    ),
    (
        "exports",
        "[ONNX, torch.export, safetensors](docs/deploy.md), compared with the checkpoint",
        f"[ONNX, TensorRT, OpenVINO, ncnn, … by mmdeploy]({MMSEG}/docs/en/user_guides/5_deployment.md)",
        f"[ONNX, TensorRT, CoreML, TFLite and a dozen more]({ULTRALYTICS}/modes/export)",
        "[ONNX by Optimum](https://huggingface.co/docs/optimum-onnx/onnx/overview)",
    ),
    (
        "resumes",
        "at the step where it was stopped, [bit for bit on a CPU](docs/faults.md)",
        f"[at the last checkpoint]({MMSEG}/docs/en/user_guides/4_train_test.md)",
        f"[at the end of the last epoch]({ULTRALYTICS}/modes/train#resuming-interrupted-trainings)",
        f"[at the last checkpoint, skipping data that was seen]({TRAINER})",
    ),
)
"""A question, and an answer for each project."""
MEASURED = {"fastseg": "fastseg", "Ultralytics": "Ultralytics"}
"""Project → its entry in the benchmark of the loader."""


def comparison(runs: Sequence[tuple[Path, Results]]) -> str:
    """Return the table; its speeds are those of one of ``runs`` that measured the loader, of a GPU if there is one."""
    rows: list[Sequence[str]] = [*FACTS]
    measured = [run for run in runs if any(row.stage == "loader" and row.windows for row in run[1].results)]
    for path, results in sorted(measured, key=lambda run: not on_gpu(run[1].environment))[:1]:
        rows.insert(1, _speeds(path, results))
    return table(["", *PROJECTS], rows, left=range(len(PROJECTS) + 1))


def _speeds(path: Path, results: Results) -> tuple[str, ...]:
    rates = {row.entry: row.spread.median for row in results.results if row.stage == "loader" and row.windows}
    shown = [number(rates[MEASURED[name]]) if MEASURED.get(name) in rates else "not measured" for name in PROJECTS]
    where = f"[{hardware(results.environment)}](bench/results/{path.name})"
    return f"loader: crops of 768² a second from 2048×1024 frames, {where}", *shown
