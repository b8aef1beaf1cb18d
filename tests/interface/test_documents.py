"""docs/python.md runs as it stands, block after block, and docs/tutorial.ipynb in a real kernel."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import commands
import fastseg
from fastseg.evaluation.results import CheckpointResult
from fastseg.model.architectures import ARCHITECTURES, OFFERED
from mydata import write_mydata

GUIDE, TUTORIAL = (commands.ROOT / "docs" / name for name in ("python.md", "tutorial.ipynb"))
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_examples_of_the_guide_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mydata(tmp_path / "mydata")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "guide"}
    assert len(BLOCKS) >= 8
    for block in BLOCKS:
        exec(compile(block, str(GUIDE), "exec"), names)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "blurred",
        "focal",
        "mydata",
        "short",
        "small",
    ]
    assert isinstance(names["run"], fastseg.Run)
    for name in set(ARCHITECTURES) - set(OFFERED):
        del ARCHITECTURES[name]


def calls_beside_others() -> Iterator[str]:
    """What stands in the right column of a page for those who come from elsewhere, if it is Python."""
    for page in sorted(GUIDE.parent.glob("from-*.md")):
        section = page.read_text(encoding="utf-8").partition("## In Python\n")[2].partition("\n## ")[0]
        for row in re.findall(r"^\|.*\| (.+) \|$", section, re.MULTILINE):
            yield from (code for code in re.findall(r"`([^`]+)`", row) if re.match(r"[\w. =]*\w\(|\w+\.\w", code))


def test_calls_beside_those_of_others_exist() -> None:
    pixels = torch.zeros((8, 8, 3), dtype=torch.uint8)
    result = fastseg.Result(pixels, pixels[..., 0], [fastseg.SegmentationClass("road", (0, 0, 0))])
    owners = {"fastseg": fastseg, "run": fastseg.Run, "result": result, "scores": CheckpointResult}
    seen = set()
    for code in calls_beside_others():
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Attribute) and (owner := owners.get(ast.unparse(node.value))):
                assert hasattr(owner, node.attr), code
                seen.add(ast.unparse(node))
            if isinstance(node, ast.Call):
                name, _, last = ast.unparse(node.func).partition(".")
                function = fastseg.Predictor.__call__ if name == "model" else getattr(owners.get(name), last, None)
                known = inspect.signature(function).parameters if function else {}
                assert not function or {word.arg for word in node.keywords} <= {*known}, code
    assert {f"fastseg.{name}" for name in ("pack", "train", "evaluate", "load", "export", "open_shards")} <= seen


@pytest.mark.slow
def test_the_tutorial_runs_in_a_kernel(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(TUTORIAL, as_version=4)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "runs" / "streets" / "report.html").exists()


def test_batches_come_in_a_kernel(tmp_path: Path, shards: Path) -> None:
    """DALI, its threads and its messages in a process of Jupyter's."""
    import nbformat.v4 as v4
    from nbclient import NotebookClient

    code = (
        "import fastseg\n"
        "augment = fastseg.AugmentConfig((32, 32))\n"
        f"batches = fastseg.open_shards({str(shards)!r}, 'train', augment, batch=4, device='cpu')\n"
        "[tuple(batch.target.shape) for batch in batches], batches.ignore_index"
    )
    notebook = v4.new_notebook(cells=[v4.new_code_cell(code)])
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    (output,) = [output for output in notebook.cells[0].outputs if output.output_type == "execute_result"]
    assert output.data["text/plain"] == "([(4, 32, 32), (4, 32, 32)], 255)"
