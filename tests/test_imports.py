"""Imports go one way: down the order of the folders, which is the order in which an image walks through them."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fastseg"
ORDER = (
    *("", "distributed", "shards", "packing", "data", "model", "evaluation", "report", "inspection"),
    *("training", "deploy", "doctor", "interface", "commands"),
)
"""A folder imports from those before it; the first holds the modules of the package itself."""
STRANGERS = (("data", "model"), ("inspection", "training"), ("training", "deploy"))
"""Folders that know nothing of each other, although the order would allow it."""
HEAVY = {"torch", "torchvision", "nvidia", "webdataset"}
LIGHT = ("packing.sources", "shards.images", "packing.records", "parallel", "labels", "errors")
"""What a packing worker imports: starting one must not take seconds."""


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem != "__init__"}


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


@cache
def imported_at_once(path: Path) -> frozenset[str]:
    """Those of the module itself, not of its functions."""
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return frozenset(plain | {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)})


def ours(path: Path) -> set[str]:
    """Modules of fastseg that a file imports, without the package's name."""
    names = {name.removeprefix("fastseg.") for name in imports(path) if name.startswith("fastseg.")}
    return {name if name in MODULES else name.rpartition(".")[0] for name in names} & MODULES.keys()


def folder(module: str) -> str:
    """The folder in :data:`ORDER` that a module lies in, at whatever depth."""
    return head if (head := module.partition(".")[0]) in ORDER else ""


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"train"}))
def test_imports_follow_the_order_of_the_folders(module: str) -> None:
    for imported in ours(MODULES[module]):
        assert ORDER.index(folder(imported)) <= ORDER.index(folder(module)), f"{module} imports {imported}"


def test_every_folder_has_its_place() -> None:
    assert {folder(module) for module in MODULES} == set(ORDER)


def test_no_circles() -> None:
    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join((*path, module))
        for imported in ours(MODULES[module]):
            visit(imported, (*path, module))

    for module in MODULES:
        visit(module, ())


@pytest.mark.parametrize(("one", "other"), STRANGERS)
def test_folders_that_know_nothing_of_each_other(one: str, other: str) -> None:
    for module, path in MODULES.items():
        known = {folder(imported) for imported in ours(path)}
        assert not (folder(module) == one and other in known), module
        assert not (folder(module) == other and one in known), module


def test_only_the_train_command_and_function_import_training() -> None:
    for module, path in MODULES.items():
        if folder(module) not in ("training", "interface") and module != "commands.train":
            assert "training" not in {folder(imported) for imported in ours(path)}, module


def test_nobody_imports_the_script_of_torchrun() -> None:
    files = [*MODULES.values(), *(ROOT / "bench").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    assert not [path for path in files if {"fastseg.train", "fastseg.train.main"} & imports(path)]


def test_importing_any_part_leaves_the_functions_in_place() -> None:
    """``fastseg.train`` is a function, ``fastseg/train.py`` a script; no other module has a public name."""
    code = (
        "import importlib, sys, fastseg\n"
        "before = {name: getattr(fastseg, name) for name in fastseg.__all__}\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        importlib.import_module(f'fastseg.{name}'.rstrip('.'))\n"
        "    except ImportError as error:\n"
        "        print(name, error)\n"
        "assert all(getattr(fastseg, name) == value for name, value in before.items()), before\n"
    )
    names = sorted(name for name in MODULES if name != "__main__")
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1
    assert done.stdout.startswith("train fastseg/train.py is the script of torchrun; the function is fastseg.train")


@pytest.mark.parametrize("scripts", [PACKAGE, PACKAGE / "commands"])
def test_no_script_shadows_the_standard_library(scripts: Path) -> None:
    """Run as a script, a file's folder comes first on the path: an ``inspect.py`` there breaks dataclasses."""
    assert not {path.stem for path in scripts.glob("*.py")} & sys.stdlib_module_names


def test_only_the_named_files_know_cityscapes() -> None:
    allowed = ("labels", "evaluation.cityscapes")
    for module, path in MODULES.items():
        if any(name.startswith("cityscapesscripts") for name in imports(path)):
            assert module in allowed, module


def imported_by(module: str) -> set[str]:
    """What comes with ``import fastseg.MODULE``: modules of others, by way of all of ours that are imported at once."""
    found: set[str] = set()
    waiting, seen = [module], {module}
    while waiting:
        for name in imported_at_once(MODULES[waiting.pop()]):
            mine = name.removeprefix("fastseg.")
            if not name.startswith("fastseg."):
                found.add(name.split(".")[0])
            elif mine in MODULES and mine not in seen:
                seen.add(mine)
                waiting.append(mine)
    return found


@pytest.mark.parametrize("module", LIGHT)
def test_packing_workers_start_quickly(module: str) -> None:
    assert not imported_by(module) & HEAVY


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name.startswith("commands.")))
def test_commands_answer_before_torch_is_imported(module: str) -> None:
    """torch and DALI take seconds, and where they are broken the command says so in a sentence."""
    assert not imported_by(module) & (HEAVY - {"webdataset"})


def test_the_rules_can_fail(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("from fastseg.training.trainer import Trainer\nimport torch.nn as nn\n")
    assert ours(tmp_path / "bad.py") == {"training.trainer"}
    assert imports(tmp_path / "bad.py") == {"fastseg.training.trainer.Trainer", "torch.nn"}
