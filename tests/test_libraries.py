"""Libraries that are missing or cannot be loaded: one sentence wherever a user's command imports them first."""

import subprocess
from pathlib import Path

import pytest

import commands
from fastseg.libraries import import_problem, requirement

MISSING = ("NVIDIA DALI is not installed here (No module named 'nvidia.dali')", "pip install 'nvidia-dali-cuda130")
BROKEN = 'raise {}("libnvjpeg.so.13: cannot open shared object file: No such file or directory")'
UNLOADABLE = ("NVIDIA DALI is installed but cannot be loaded (libnvjpeg.so.13: cannot open shared", "--force-reinstall")
NMS = "def register():\n    raise RuntimeError('operator torchvision::nms does not exist')\nregister()"


def stub(folder: Path, package: str, code: str | None) -> Path:
    """A folder for PYTHONPATH in which importing ``package`` runs ``code``; None: its parent is there alone."""
    path = folder
    for name in package.split("."):
        path = path / name
        path.mkdir()
        (path / "__init__.py").touch()
    if code is None:
        (path / "__init__.py").unlink()
        path.rmdir()
    else:
        (path / "__init__.py").write_text(code)
    return folder


def run(folder: Path, *command: object) -> subprocess.CompletedProcess[str]:
    """A command of ours, the stubs before everything else."""
    return commands.run("python", *command, PYTHONPATH=str(folder))


COMMANDS = {
    "train": ("fastseg/train.py", *commands.TINY, "--model.weights", "none", "--device", "cpu"),
    "eval": ("fastseg/commands/evaluate.py", "--baseline", "coco", "--device", "cpu"),
    "inspect": ("fastseg/commands/inspect_shards.py",),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("code", "says"),
    [(None, MISSING), (BROKEN.format("ImportError"), UNLOADABLE), (BROKEN.format("OSError"), UNLOADABLE)],
)
def test_dali_is_named_with_its_cure(
    command: str, code: str | None, says: tuple[str, str], tmp_path: Path, shards: Path
) -> None:
    flags = {"train": ("--shards", shards, "--runs", tmp_path), "eval": ("--shards", shards)}
    words = (*COMMANDS[command], *flags.get(command, (shards, "--out", tmp_path / "out")))
    commands.refused(run(stub(tmp_path, "nvidia.dali", code), *words), *says)


def test_what_predict_and_the_bench_import_says_it_too(tmp_path: Path) -> None:
    stub(tmp_path, "nvidia.dali", None)
    for module in ("fastseg.data.loader", "bench.stages.evaluation"):
        code = f"from fastseg.errors import run_command; run_command(lambda: __import__({module!r}))"
        commands.refused(run(tmp_path, "-c", code), *MISSING)


def test_the_interface_raises_it(tmp_path: Path) -> None:
    code = "import fastseg\ntry: fastseg.open_shards\nexcept fastseg.UserError as error: print(error)"
    assert run(stub(tmp_path, "nvidia.dali", None), "-c", code).stdout.startswith(MISSING[0])


def test_torch_and_torchvision_of_different_builds(tmp_path: Path) -> None:
    code = "from fastseg.errors import run_command; run_command(lambda: __import__('{}'))"
    folder = stub(tmp_path, "torchvision", NMS)
    done = run(folder, "-c", code.format("fastseg.model.network"))
    commands.refused(done, "do not belong together (operator torchvision::nms does not exist)", "'torch!=", "'torchvis")
    (folder / "torchvision" / "__init__.py").write_text("raise RuntimeError('boom')")
    commands.refused(run(folder, "-c", code.format("fastseg.model.network")), "torchvision is installed but cannot")


def test_what_is_ours_keeps_its_traceback() -> None:
    for code in ("import fastseg.nothing", "import json.nothing", "open('/nothing')", "raise RuntimeError('torch')"):
        with pytest.raises((ImportError, OSError, RuntimeError)) as raised:
            exec(code)
        assert import_problem(raised.value) is None


def test_requirements_are_those_of_the_package() -> None:
    assert requirement("nvidia-dali-cuda130").startswith("nvidia-dali-cuda130<")
    assert requirement("unheard-of") == "unheard-of"


def test_dali_is_asked_for_on_every_kind_of_linux() -> None:
    """Its wheels are for x86_64 and aarch64 (GH200, GB200) alike."""
    text = (commands.ROOT / "setup.cfg").read_text()
    assert "platform_machine" not in text
