"""The house keeps its floors: imports go down, or sideways within a wing, and never in a circle.

Ground   errors, files, labels, config, …: know nothing of the rest.
Floor 1  each wing alone: data, model, score, loop; no wing knows another.
Floor 2  where wings meet: packing, evaluation, the parts of the loop.
Floor 3  the trainer, and a session with it; what is done with a trained network (use); doctor_checks.
Floor 4  command lines: fastseg/*.py, tools, bench. Nothing imports them.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WINGS = ("data", "model", "score", "loop", "use", "doctor_checks")
GROUND = {
    *("errors", "files", "reading", "labels", "config", "recipes", "parallel", "progress"),
    *("compiler", "device", "driver", "gpu_problems", "libraries"),
    *("helptext", "helpgroups", "evalconfig", "torchfile"),
}
FLOOR_2 = {
    f"score.{name}"
    for name in (
        "boundary",
        "contact_sheet",
        "contest",
        "evalchecks",
        "evalfolder",
        "evaluator",
        "groundtruth",
        "official",
        "outcome",
        "report",
        "submission",
    )
} | {
    f"loop.{name}"
    for name in ("checkpoint", "decoder", "runlog", "optim", "step", "flops", "stages", "state", "build", "memory")
}
FLOOR_3 = {"loop.trainer", "loop.records", "loop.session"}
DATA_NEEDS_NO = ("torch", "nvidia", "webdataset")
LIGHT = ("data.sources", "data.images", "data.records", "parallel", "labels", "errors")
"""What a packing worker imports: starting one must not take seconds."""


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "fastseg").with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in (ROOT / "fastseg").rglob("*.py") if path.parent.name != "fastseg"} | {
    path.stem: path for path in (ROOT / "fastseg").glob("*.py") if path.stem != "__init__"
}


@cache
def imports(path: Path) -> frozenset[str]:
    """Dotted names that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def ours(path: Path) -> set[str]:
    """Modules of fastseg that a file imports, without the package's name."""
    names = {name.removeprefix("fastseg.") for name in imports(path) if name.startswith("fastseg.")}
    return {name if name in MODULES else name.rpartition(".")[0] for name in names} & MODULES.keys()


def floor(module: str) -> int:
    if module in GROUND:
        return 0
    if module.split(".")[0] not in WINGS:
        return 4
    return 3 if module in FLOOR_3 or wing(module) in ("use", "doctor_checks") else 2 if module in FLOOR_2 else 1


def wing(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_down_or_stay_in_the_wing(module: str) -> None:
    for imported in ours(MODULES[module]):
        below = floor(imported) < floor(module)
        beside = floor(imported) == floor(module) and wing(imported) == wing(module) and floor(module) < 4
        assert below or beside or (floor(module) == floor(imported) == 0), f"{module} imports {imported}"


def test_no_circles() -> None:
    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join((*path, module))
        for imported in ours(MODULES[module]):
            visit(imported, (*path, module))

    for module in MODULES:
        visit(module, ())


def test_data_and_model_know_nothing_of_each_other() -> None:
    for module, path in MODULES.items():
        for mine, other in (("data", ("model", "score", "loop", "use")), ("model", ("data", "score", "loop", "use"))):
            if wing(module) == mine:
                assert not {wing(imported) for imported in ours(path)} & set(other), module


def test_only_the_named_files_know_cityscapes() -> None:
    allowed = ("labels", "recipes", "config", "score.official")
    for module, path in MODULES.items():
        if any(name.startswith("cityscapesscripts") for name in imports(path)):
            assert module in allowed or module.startswith(("data.sources", "data.scenes")), module


@pytest.mark.parametrize("module", LIGHT)
def test_packing_workers_start_quickly(module: str) -> None:
    seen: set[str] = set()

    def visit(name: str) -> None:
        if name not in seen:
            seen.add(name)
            heavy = [i for i in imports(MODULES[name]) if i.split(".")[0] in DATA_NEEDS_NO]
            assert not heavy, f"{name} imports {heavy}"
            for imported in ours(MODULES[name]):
                visit(imported)

    visit(module)


def test_the_rules_can_fail(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("from fastseg.loop.trainer import Trainer\nimport torch.nn as nn\n")
    assert ours(tmp_path / "bad.py") == {"loop.trainer"}
    assert imports(tmp_path / "bad.py") == {"fastseg.loop.trainer.Trainer", "torch.nn"}
