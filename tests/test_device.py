"""Which device is taken, and what is said of a GPU that is here and cannot be used."""

import subprocess
from pathlib import Path

import pytest
import torch

import commands
import drivers
from fastseg import driver, gpu_problems
from fastseg.device import device_of
from fastseg.errors import UserError
from fastseg.gpu_problems import explain_error, find_problem

OLD = (
    "a GPU is here, but the NVIDIA driver 550.54.15 is too old: it serves CUDA 12.4 at most",
    f"torch {torch.__version__} is built for {torch.version.cuda}; install driver 580 or newer",
)
"""What is said of the driver that tests/helpers/drivers.py is unless told otherwise."""
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="here a GPU works")


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """libcuda and NVML of a driver that can be told what to answer."""
    return drivers.build(tmp_path_factory.mktemp("driver"))


def python(code: str, folder: Path, anew: bool = False, **answers: object) -> subprocess.CompletedProcess[str]:
    """Run code as a command of ours with the drivers in ``folder``; ``anew``: in a process that begins with nothing."""
    script = f"from fastseg.errors import run_command\ndef main():\n    {code}\nrun_command(main)"
    environment = drivers.environment(folder, **answers)
    if anew:
        return commands.typed("python", "-c", script, **environment)
    return commands.run("python", "-c", drivers.LOAD.format(folder=str(folder)) + script, **environment)


DEVICE_OF = "from fastseg.device import device_of; print(device_of('{}'))"


@without_gpu
@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:0"])
@pytest.mark.parametrize("check", ["0", "1"])
def test_a_driver_that_is_too_old_is_no_silent_cpu_run(name: str, check: str, fake: Path) -> None:
    """With PYTORCH_NVML_BASED_CUDA_CHECK torch believes NVML, and only an attempt shows the truth."""
    done = python(
        DEVICE_OF.format(name), fake, anew=name == "auto" or check == "1", PYTORCH_NVML_BASED_CUDA_CHECK=check
    )
    commands.refused(done, *(OLD if check == "0" else ["GPU 0 (NVIDIA H200) cannot be used", "too old"]))
    assert len(done.stderr.splitlines()) == 1  # without torch's own warning
    assert python(DEVICE_OF.format("cpu"), fake).stdout == "cpu\n"


@without_gpu
@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ({"cuinit": 100}, ["2 GPUs are here", "sees none of them (error 100)", "docker run --gpus all", "--gres"]),
        ({"cuinit": 802}, ["fabric manager", "systemctl start nvidia-fabricmanager"]),
        ({"cuinit": 803}, ["another version than the driver's kernel module", "reboot"]),
        ({"cuinit": 804}, ["compatibility package", "LD_LIBRARY_PATH"]),
        ({"cuinit": 999}, ["unknown reason (error 999)", "nvidia_uvm"]),
        ({"cuinit": 34}, ["stub", "LD_LIBRARY_PATH"]),
        ({"cuinit": 46}, ["busy or shut", "nvidia-smi -c 0"]),
        ({"cuinit": 777}, ["cannot be used (error 777)"]),
        ({"cuinit": 100, "mig": 1}, ["GPU 0 (NVIDIA H200) is in MIG mode and not cut", "nvidia-smi mig -cgi"]),
        ({"cuinit": 100, "mig": 1, "slices": 2}, ["sees none of them (error 100)"]),
        ({"cuinit": 100, "CUDA_VISIBLE_DEVICES": "NoDevFiles"}, ["'NoDevFiles', which names no GPU", "by 0 to 1"]),
        ({"cuinit": 100, "CUDA_VISIBLE_DEVICES": "7"}, ["CUDA_VISIBLE_DEVICES is '7'"]),
        ({"nvmlinit": 18}, ["another version than the driver's kernel module"]),
    ],
)
def test_each_cause_has_its_sentence(answers: dict[str, object], says: list[str], fake: Path) -> None:
    done = python(DEVICE_OF.format("auto"), fake, **{"cuda_version": 13000, "gpus": 2, **answers})
    commands.refused(done, *says, "--device cpu")


@without_gpu
@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_gpu_hidden_on_purpose_is_said_and_not_used(hidden: str, fake: Path) -> None:
    answers = {"cuda_version": 13000, "cuinit": 100, "CUDA_VISIBLE_DEVICES": hidden}
    done = python(DEVICE_OF.format("auto"), fake, **answers)
    assert done.stdout == "cpu\n"
    said = (
        f"warning: CUDA_VISIBLE_DEVICES is {hidden!r} and hides a GPU of this machine; unset it to use it; on the CPU"
    )
    assert done.stderr.startswith(said)
    commands.refused(python(DEVICE_OF.format("cuda"), fake, **answers), "CUDA_VISIBLE_DEVICES", "unset it")


@without_gpu
@pytest.mark.parametrize(
    "code",
    [
        "from fastseg.distributed.ranks import become_ranks; become_ranks(1, 'auto')",
        "from fastseg.distributed.ranks import become_ranks; become_ranks(None, 'cuda')",
        "from fastseg.distributed.ranks import joined_ranks; joined_ranks('auto').__enter__()",
        "from fastseg.distributed.ranks import joined_ranks; joined_ranks('cuda').__enter__()",
        "import fastseg; fastseg.open_shards({shards!r}, device='auto')",
        "from bench.throughput import Options, find_device; find_device(Options())",
    ],
)
def test_all_that_picks_a_device_says_so(code: str, fake: Path, shards: Path) -> None:
    commands.refused(python(code.format(shards=str(shards)), fake), *OLD)


@pytest.mark.slow
@without_gpu
def test_training_says_so_and_trains_on_the_cpu_when_told(fake: Path, shards: Path, tmp_path: Path) -> None:
    train = ["python", "fastseg/train.py", *commands.TINY, "--optim.epochs", "1", "--shards", shards]
    train += ["--runs", tmp_path, "--name", "x", "--model.weights", "none"]

    def run(*flags: str, **answers: object) -> subprocess.CompletedProcess[str]:
        return commands.typed(*train, *flags, **drivers.environment(fake, **answers))

    for flags in ([], ["--device", "cuda"], ["--gpus", "2"]):
        commands.refused(run(*flags), *OLD)
    assert not (tmp_path / "x").exists()
    done = run("--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert '"driver": "550.54.15"' in (tmp_path / "x" / "environment.json").read_text()


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "meta"])
def test_other_devices_are_refused(device: str) -> None:
    with pytest.raises(UserError, match="it must be auto, cuda, cuda:N or cpu"):
        device_of(device)


@without_gpu
def test_without_libcuda_or_nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in containers that were given the device files alone, only one half of the driver, or nothing at all."""
    only_nvml = tmp_path / "nvml"
    only_nvml.mkdir()
    commands.refused(
        python(DEVICE_OF.format("auto"), drivers.build(only_nvml, cuda=False)), "libcuda.so.1 cannot be loaded"
    )
    assert find_problem("13.0", "2.14") is None or driver.pci_gpus()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.setattr(driver, "DEV", tmp_path)
    problem = find_problem("13.0", "2.14")
    assert problem is not None
    assert problem.certain
    assert problem.sentence.startswith(
        "2 GPUs are here, but the driver's libcuda.so.1 cannot be loaded; in a container"
    )
    problem = find_problem(None, "2.14+cpu")
    assert problem is not None
    assert "torch 2.14+cpu is built without CUDA" in problem.sentence


def test_a_gpu_on_the_bus_alone_is_worth_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, maker, kind in (("a", "0x10de", "0x030200"), ("b", "0x10de", "0x040300"), ("c", "0x8086", "0x030000")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{maker}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    monkeypatch.setattr(driver, "PCI", tmp_path)
    assert driver.pci_gpus() == 1
    problem = gpu_problems._only_on_the_bus(1)
    assert problem is not None
    assert not problem.certain


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue\nGCC version:  gcc 12.2.0",
            "550.54.15",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  580.65.06  Release Build", "580.65.06"),
        ("something else", ""),
    ],
)
def test_the_kernel_modules_version(text: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "version").write_text(text)
    monkeypatch.setattr(driver, "PROC", tmp_path)
    assert driver._module_version() == version


@pytest.mark.parametrize(
    ("error", "answers", "says"),
    [
        ("CUDA error: out of memory", {"free": 1}, "(NVIDIA H200) has no memory left (1.0 of 140.0 GiB are free, by"),
        ("CUDA error: out of memory", {}, "by the processes 4321); end what holds it or name other GPUs"),
        (
            "CUDA error: CUDA-capable device(s) is/are busy or unavailable CUDA kernel errors might be …",
            {"mode": 3},
            "is busy or unavailable (it is in exclusive mode, and another process has it); end what computes",
        ),
        ("CUDA error: no kernel image is available for execution on the device", {}, "it has sm_80 sm_90"),
        ("CUDA error: invalid device ordinal", {}, "gives a process one slice"),
        ("CUDA error: an illegal thing happened CUDA kernel errors might be", {}, "(CUDA error: an illegal thing hap"),
    ],
)
def test_what_the_first_attempt_says(error: str, answers: dict[str, object], says: str, fake: Path) -> None:
    code = f"from fastseg.gpu_problems import explain_error; print(explain_error(0, RuntimeError({error!r}), "
    done = python(f"{code}['sm_80', 'sm_90']))", fake, **answers)
    assert says in done.stdout, done.stderr
    assert "GPU 0" in done.stdout


def test_a_gpu_that_nobody_knows_keeps_its_number() -> None:
    assert explain_error(77, RuntimeError("CUDA error: out of memory"), []).startswith("GPU 77 has no memory left; end")


@without_gpu
@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({}, "1.5 3.0"),
        ({"CUDA_VISIBLE_DEVICES": "3,1"}, "6.0 3.0"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-0123"}, "13.5 None"),
        ({"mig": 1}, "None None"),  # the counter is the whole GPU's
        ({"no_energy": 3}, "None None"),
        ({"nvmlinit": 9}, "None None"),
    ],
)
def test_the_energy_is_that_of_the_visible_gpu(answers: dict[str, object], said: str, fake: Path) -> None:
    done = python("from fastseg.driver import joules; print(joules(), joules(1))", fake, **answers)
    assert done.stdout == f"{said}\n", done.stderr
