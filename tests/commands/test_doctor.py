"""``fastseg-doctor``: what it finds, what it says to do, and that a check which crashes or hangs is an answer."""

import json
import os
import sys
import time
from importlib.metadata import requires
from pathlib import Path

import pytest
import torch

import commands
import drivers
import object_store
from fastseg.doctor import computing, decoding, machine, packages, storage
from fastseg.doctor.rows import Request, Row
from fastseg.doctor.run import GROUPS, Group, run_groups
from fastseg.libraries import OURS

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="here a GPU works")


@pytest.fixture(autouse=True)
def one_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check sets it for its process, which here is that of all tests."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


def only(rows: list[Row]) -> Row:
    (row,) = rows
    return row


@pytest.mark.slow
@without_gpu
def test_a_machine_without_a_gpu(shards: Path, tmp_path: Path) -> None:
    done = commands.typed("fastseg-doctor", "--json", "--shards", shards, "--runs", tmp_path / "runs" / "deep")
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    states = {row["check"]: row["state"] for row in document["checks"]}
    assert [name for name, state in states.items() if state == "broken"] == []
    assert {"system", "packages", "cores", "memory", "driver", "torch", "JPEG on the CPU", "ranks"} <= states.keys()
    found = {row["check"]: row["found"] for row in document["checks"]}
    assert "train 11, val 5" in found["data set"]
    assert found["first record"].startswith("of train decodes: 96×64 pixels")
    assert found["JPEG on the GPU"] == "no usable GPU: crops are decoded by the CPU"
    assert not (tmp_path / "runs").exists()
    assert all(row["cure"] for row in document["checks"] if row["state"] != "ok")


@pytest.mark.slow
@without_gpu
def test_a_machine_with_an_old_driver(tmp_path: Path) -> None:
    fake = {"LD_LIBRARY_PATH": str(drivers.build(tmp_path))}
    done = commands.typed("fastseg-doctor", "--runs", tmp_path, columns=80, **fake)
    assert done.returncode == 1, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    text = " ".join(done.stdout.split())
    assert "driver broken a GPU is here, but the NVIDIA driver 550.54.15 is too old" in text
    assert "→ install driver 580 or newer" in text
    assert "\n1 broken: fix it first; warnings: " in done.stdout


def test_without_a_library_that_the_table_needs(tmp_path: Path) -> None:
    (tmp_path / "tyro.py").write_text("raise ModuleNotFoundError(\"No module named 'tyro'\", name='tyro')")
    done = commands.run("fastseg-doctor", PYTHONPATH=str(tmp_path))
    commands.refused(done, "tyro is not installed here (No module named 'tyro'); install it: pip install 'tyro")


def run(*checks: str, seconds: float = 30.0) -> list[Row]:
    group = Group({name: f"doctor_faults.{name}" for name in checks}, seconds, "do this")
    return run_groups([group], Request("x"))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("crash", "it was ended by SIGSEGV (about to crash)"),
        ("fail", "it failed (KeyError: 'a bug')"),
        ("hang", "no answer after 2 s"),
    ],
)
def test_what_ends_badly_is_a_row_and_keeps_those_before(name: str, says: str) -> None:
    began = time.monotonic()
    rows = run("well", name, "well", seconds=2.0 if name == "hang" else 30.0)
    assert rows == [Row("well", "ok", "asked about x"), Row(name, "broken", says, "do this")]
    assert time.monotonic() - began < 20


def test_ranks_end_with_their_check(tmp_path: Path) -> None:
    code = """
from fastseg.doctor.rows import Request
from fastseg.doctor.run import Group, run_groups
print(*run_groups([Group({{"ranks": "doctor_faults.endless"}}, 10.0, "do this")], Request(runs={!r})))
"""
    done = commands.run("python", "-c", code.format(str(tmp_path)))
    assert "no answer after 10 s" in done.stdout, done.stderr
    ranks = [int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()]
    assert len(ranks) == 2
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{rank}").exists() for rank in ranks):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_groups_run_side_by_side_in_their_order() -> None:
    groups = [Group({name: f"doctor_faults.{name}"}, 2.0, "do this") for name in ("hang", "hang", "well", "fail")]
    began = time.monotonic()
    rows = run_groups(groups, Request(), at_once=4)
    assert time.monotonic() - began < 9  # two of 2 s, and 3 s until they are ended by force
    assert [(row.check, row.state) for row in rows] == [
        *(("hang", "broken"), ("hang", "broken"), ("well", "ok"), ("fail", "broken"))
    ]


def test_every_check_is_there() -> None:
    for group in GROUPS:
        for place in group.checks.values():
            module, _, name = place.rpartition(".")
            assert hasattr(__import__(module, fromlist=[name]), name), place
        assert group.seconds < 55


def installed(folder: Path, name: str, version: str) -> None:
    """A package of this name and version, in front of all others."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_packages_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(packages.packages(Request())).state == "ok"
    monkeypatch.syspath_prepend(tmp_path)
    installed(tmp_path, "torchmetrics", "0.9")
    installed(tmp_path, "boto3", "1.0")
    row = only(packages.packages(Request()))
    assert row.state == "broken"
    assert row.found.startswith("torchmetrics is 0.9; boto3 is 1.0 (")
    assert "pip install 'torchmetrics<2,>=1.8' 'boto3<2,>=1.35'" in row.cure


def test_the_other_package_of_this_name_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    installed(tmp_path, "fastseg", "0.1.3")
    row = packages.packages(Request())[-1]
    assert (row.check, row.state) == ("other fastseg", "broken")
    assert row.found.startswith("fastseg 0.1.3 of another project (MobileNetV3 models)")
    assert row.cure.startswith("pip uninstall fastseg, then install ours anew: pip install --force-reinstall")
    assert requires(OURS)


@pytest.mark.parametrize("there", [True, False])
def test_another_checkout_than_the_installed_one(there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    installed(tmp_path, "fastseg_deeplab", "0.1.0")
    document = {"url": f"file://{tmp_path}/my%20checkout", "dir_info": {"editable": True}}
    (tmp_path / "fastseg_deeplab-0.1.0.dist-info" / "direct_url.json").write_text(json.dumps(document))
    if there:
        (tmp_path / "my checkout" / "fastseg").mkdir(parents=True)
    row = next(row for row in packages.packages(Request()) if row.check == "other fastseg")
    gone = "" if there else ", which is gone"
    assert row.found == f"installed is the checkout {tmp_path}/my checkout{gone}; imported is {packages._folder()}"


def test_an_upgrade_that_was_not_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old version's metadata remain beside the new one's, or the files are another version's."""
    monkeypatch.syspath_prepend(tmp_path)
    real = packages.version("torch")
    installed(tmp_path, "torch", "2.99.1")
    row = next(row for row in packages.packages(Request()) if row.check == "torch")
    assert row.state == "broken"
    assert row.found.startswith("torch is here in parts of several versions: ")
    assert {"2.99.1", real} <= set(row.found.partition(": ")[2].split(", "))
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").touch()
    (tmp_path / "torchvision" / "version.py").write_text("__version__ = '0.9.1+cpu'\n")
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    row = next(row for row in packages.packages(Request()) if row.check == "torchvision")
    assert row.found.endswith(", 0.9.1 by its files")


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that takes the place of /sys/fs/cgroup; this process is in /a/b of it."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text("4:memory:/a\n2:cpu,cpuacct:/a\n0::/a/b\n")
    meminfo = "MemTotal:       33554432 kB\nMemAvailable:   16777216 kB\n"
    (tmp_path / "meminfo").write_text(meminfo)
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("memory/a", "cpu/a"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(machine, "PROC", tmp_path)
    return tmp_path


def test_limits_of_containers(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.cpu_quota() is machine.memory_limit() is None
    (groups / "a" / "b" / "cpu.max").write_text("max 100000\n")
    (groups / "a" / "cpu.max").write_text("150000 100000\n")
    (groups / "a" / "memory.max").write_text(f"{3 << 30}\n")
    assert machine.cpu_quota() == 1.5
    assert machine.memory_limit() == 3 << 30
    monkeypatch.setattr(machine, "usable_cores", lambda: 8)
    row = only(machine.cores(Request()))
    assert row.state == "warning"
    assert "the container's limit (cgroup) is the time of 1.5: threads are started for 8" in row.found
    row = only(machine.memory(Request()))
    assert (row.state, row.found) == ("warning", "16.0 GiB of 32.0 GiB are free, the container's limit is 3.0 GiB")


def test_limits_of_older_containers(groups: Path) -> None:
    (groups / "cpu" / "a" / "cpu.cfs_quota_us").write_text("50000\n")
    (groups / "cpu" / "a" / "cpu.cfs_period_us").write_text("100000\n")
    (groups / "memory" / "a" / "memory.limit_in_bytes").write_text(f"{1 << 34}\n")
    (groups / "memory" / "memory.limit_in_bytes").write_text(f"{(1 << 63) - 4096}\n")
    assert machine.cpu_quota() == 0.5
    assert machine.memory_limit() == 1 << 34
    assert only(machine.memory(Request())).state == "ok"


def test_little_shared_memory_and_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SHM", tmp_path / "none")
    assert only(machine.shared_memory(Request())).state == "broken"
    monkeypatch.setattr(machine, "SHM", tmp_path)
    monkeypatch.setattr(machine, "MIN_SHM", 1 << 60)
    assert "docker run --shm-size 8g" in only(machine.shared_memory(Request())).cure
    monkeypatch.setattr(machine.resource, "getrlimit", lambda _: (256, 512))
    row = only(machine.open_files(Request()))
    assert row.state == "warning"
    assert row.cure == "before the command: ulimit -n 4096 (as root, or in /etc/security/limits.conf)"


@pytest.mark.parametrize(("value", "state"), [(None, "ok"), ("4", "ok"), ("99", "warning"), ("x", "warning")])
def test_threads(value: str | None, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if value:
        monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert only(machine.threads(Request())).state == state


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert storage._locks(tmp_path) == []

    def none(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    for losing in (none, lambda *_: None):
        monkeypatch.setattr(storage.fcntl, "flock", losing)
        row = only(storage._locks(tmp_path))
        assert row.state == "warning"
        assert "keeps no locks: a second run of the same name would not be refused" in row.found


def test_a_clock_that_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert storage._clock(tmp_path) == []
    now = time.time
    monkeypatch.setattr(storage.time, "time", lambda: now() - 3600)
    row = only(storage._clock(tmp_path))
    assert row.found.startswith("this machine's clock is 3,600 s behind that of ")


def test_a_full_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert storage.home(Request()) == []
    monkeypatch.setattr(storage, "HOME", 1 << 60)
    assert only(storage.home(Request())).found.endswith(f"are free in {tmp_path}")
    monkeypatch.setenv("HOME", "/proc/self")
    assert only(storage.home(Request())).found.startswith("nothing can be written to /proc/self")


def test_where_runs_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "WRITTEN", 1 << 20)
    monkeypatch.setattr(storage, "ROOM", 0)
    monkeypatch.setattr(storage, "SLOW_WRITE", 0)
    assert only(storage.runs(Request(runs=str(tmp_path / "new")))).state == "ok"
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(storage, "SLOW_WRITE", 1e15)
    assert "name a faster disk" in only(storage.runs(Request(runs=str(tmp_path)))).cure
    monkeypatch.setattr(storage, "ROOM", 1 << 60)
    assert "free some space" in only(storage.runs(Request(runs=str(tmp_path)))).cure
    row = only(storage.runs(Request(runs="/proc/self/runs")))
    assert row.state == "broken"
    assert "nothing can be written to /proc" in row.found


def test_shards_that_are_whole_and_not(shards: Path, tmp_path: Path) -> None:
    rows = storage.shards(Request(str(shards)))
    assert [(row.check, row.state) for row in rows] == [("shards", "ok"), ("data set", "ok")]
    assert only(storage.record(Request(str(shards)))).state == "ok"
    assert storage.shards(Request()) == storage.record(Request()) == []
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in shards.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "train-000001.tar").unlink()
    os.truncate(copy / "val-000000.tar", 100)
    row = storage.shards(Request(str(copy)))[-1]
    assert (row.check, row.state) == ("data set", "broken")
    assert "not as packed: train-000001.tar (missing), val-000000.tar (100 of " in row.found
    row = only(storage.record(Request(str(copy))))
    assert row.state == "broken"
    row = only(storage.shards(Request(str(tmp_path))))
    assert row.state == "broken"
    assert "fastseg-pack" in row.cure


def test_shards_in_object_storage(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in object_store.CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    server = object_store.Server()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    try:
        rows = storage.shards(Request(server.upload(shards)))
        assert [(row.check, row.state) for row in rows] == [("shards", "ok"), ("data set", "ok")]
        assert "first byte after" in rows[0].found
        assert only(storage.shards(Request("s3://nothing/here"))).state == "broken"
    finally:
        server.kill()
    row = only(storage.shards(Request("s3://bucket/set")))
    assert row.state == "broken"
    assert "cannot be read" in row.found


def test_without_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore.exceptions", None)
    row = only(storage.shards(Request("s3://bucket/set")))
    assert row.cure == "install it with: pip install 'fastseg-deeplab[s3]'"


def test_jpegs_and_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(decoding.jpeg_on_cpu(Request())).state == "ok"
    assert only(computing.torch_works(Request())).state == "ok"
    monkeypatch.setattr(decoding, "LEVELS", -1.0)
    assert only(decoding.jpeg_on_cpu(Request())).state == "broken"


@without_gpu
def test_ranks_add_up_or_say_why_not() -> None:
    check = """
from fastseg.doctor import computing
from fastseg.doctor.rows import Request
print(*((row.state, row.found) for row in computing.ranks(Request())))
"""
    found = commands.run("python", "-c", check).stdout
    assert found.startswith("""('ok', "2 CPU ranks add up a step's gradients (168 MB) in """), found
    found = commands.run("python", "-c", check, GLOO_SOCKET_IFNAME="nothing0").stdout
    assert found.startswith("('broken', '2 processes cannot add up by gloo ("), found
    assert "nothing0" in found


@pytest.mark.slow
def test_torch_compile_is_tried() -> None:
    assert only(computing.compiling(Request())).state == "ok"


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    monkeypatch.setenv("CC", "nothing")
    monkeypatch.setenv("CXX", "nothing")
    row = only(computing.compiling(Request()))
    assert row.state == "warning"
    assert "apt install" in row.cure
