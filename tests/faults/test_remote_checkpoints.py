"""Checkpoints copied to object storage over a network that breaks, and brought back where the run's folder is lost."""

import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from soak import THOROUGH, TIMES
from trainings import EPOCHS, finish, start, stop
from victims import document, saved

from fastseg import object_stores, storage
from fastseg.config import Config
from fastseg.errors import UserError
from fastseg.model import checkpoint
from fastseg.training.remote_checkpoints import Uploads, fetch_newer, find_remote, remote_of
from object_store import BUCKET, Network, Server, environment
from runs import assert_same_run, lines, weights

Tally = Callable[[str, int, int], None]
KILLS = (20 if THOROUGH else 3) * TIMES
BLOB = random.Random(1).randbytes(1 << 22)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.kill()


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are sent again at once."""
    monkeypatch.setattr(storage.random, "random", lambda: 0.0)


def config(folder: Path, scheme: str = "s3", **settings: object) -> Config:
    """Settings of a run of its own address; a later test finds nothing of it."""
    return Config(runs=folder, name="run", checkpoints=f"{scheme}://{BUCKET}/{folder.name}", **settings)


def write(folder: Path, name: str, data: bytes) -> Path:
    """Write a file of the run as fastseg does: in place of the earlier one, which whoever has it open keeps."""
    path = folder / "run" / "checkpoints" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    return path


def stored(address: str) -> dict[float, bytes]:
    """Epochs and contents of the checkpoints there, negative epochs for the best ones."""
    return {
        -remote.epoch if remote.best else remote.epoch: storage.read_bytes(f"{address}/{remote.name}", 1 << 30)
        for remote in find_remote(address)
    }


def flaky(request: str, attempt: int) -> str:
    """Each request fails up to three times, in every way."""
    kinds = ("busy", "reset", "cut", "short", "slow")
    number = zlib.crc32(request.encode())
    return kinds[(number + attempt) % len(kinds)] if attempt <= number % 4 else "none"


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_uploads_through_a_network_that_breaks(network: Network, tmp_path: Path, scheme: str, tally: Tally) -> None:
    """Every object is whole; the last two and the best are kept."""
    settings = config(tmp_path, scheme, checkpoints_kept=2)
    network.fault = flaky
    uploads = Uploads(settings)
    (settings.folder / "metrics.jsonl").parent.mkdir(parents=True)
    (settings.folder / "metrics.jsonl").write_text("{}\n")
    for epoch in range(5 * TIMES):
        name = "best.pt" if epoch in (0, 1) else "last.pt"
        uploads.submit(write(tmp_path, name, BLOB[epoch:]), epoch + 0.25)
        uploads.wait()
    uploads.close()
    assert uploads.sentences() == []
    last = 5 * TIMES - 1
    assert stored(f"{settings.checkpoints}/run") == {
        -1.25: BLOB[1:],
        last - 0.75: BLOB[last - 1 :],
        last + 0.25: BLOB[last:],
    }
    assert storage.read_bytes(f"{settings.checkpoints}/run/metrics.jsonl", 9) == b"{}\n"
    broken = sum(count for kind, count in network.faults.items() if kind != "none")
    assert broken > 5
    tally("an upload of a checkpoint refused, reset, torn or delayed", broken, broken)


def test_what_azure_is_sent(network: Network, tmp_path: Path) -> None:
    """Its containers are folders of the server's bucket; listing and removing are not tested."""
    storage.write(f"az://{BUCKET}/{tmp_path.name}/a.pt", BLOB)
    assert storage.read_bytes(f"az://{BUCKET}/{tmp_path.name}/a.pt", 1 << 30) == BLOB
    assert [request.split("?")[0].split()[0] for request in network.requests] == ["PUT", "GET"]


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("fault", ["denied", "busy"])
def test_a_refusal_is_said_once(network: Network, tmp_path: Path, fault: str, tally: Tally) -> None:
    """Until it works again; nothing is raised, and what was there stays."""
    settings = config(tmp_path)
    uploads, address = Uploads(settings), f"{settings.checkpoints}/run"
    uploads.submit(write(tmp_path, "last.pt", b"1"), 1)
    uploads.wait()
    network.fault = lambda request, _: fault if "PUT" in request else "none"
    for epoch in (2, 3):
        uploads.submit(write(tmp_path, "last.pt", b"refused"), epoch)
        uploads.wait()
    (said,) = uploads.sentences()
    tries, advice = ("", "; check the address, the credentials") if fault == "denied" else (" after 8 tries", "")
    assert said.startswith(f"warning: {address}/epoch-000002.000000.pt cannot be written{tries} (")
    assert f"); training goes on, and the next checkpoint is tried again{advice}" in said
    assert stored(address) == {1: b"1"}
    network.fault = lambda *_: "none"
    uploads.submit(write(tmp_path, "last.pt", b"4"), 4)
    uploads.wait()
    assert uploads.sentences() == [f"checkpoints are copied to {address} again"]
    network.fault = lambda *_: fault
    uploads.submit(write(tmp_path, "last.pt", b"5"), 5)
    uploads.close()
    assert uploads.sentences()[1:] == [
        f"warning: the last checkpoint is not at {address}, but in {settings.folder}; run the same command again to "
        "upload it"
    ]
    network.fault = lambda *_: "none"
    assert stored(address) == {1: b"1", 4: b"4"}
    tally("uploads of checkpoints refused for long", 3, 3)


def test_a_slow_network_gets_the_newest(network: Network, tmp_path: Path, tally: Tally) -> None:
    """And the best; what is uploaded is the file as it was, though it was replaced meanwhile."""
    settings, gate = config(tmp_path), threading.Event()
    uploads = Uploads(settings)
    network.fault = lambda request, _: "none" if gate.wait(60) else request
    uploads.submit(write(tmp_path, "last.pt", b"1"), 1)
    while len(network.requests) < 2:
        time.sleep(0.01)
    for epoch, name in ((2, "last.pt"), (3, "best.pt"), (4, "last.pt"), (5, "last.pt")):
        uploads.submit(write(tmp_path, name, str(epoch).encode()), epoch)
    gate.set()
    uploads.close()
    (said,) = uploads.sentences()
    assert "is too slow for every checkpoint" in said
    assert stored(f"{settings.checkpoints}/run") == {1: b"1", -3: b"3", 5: b"5"}
    tally("a network too slow for every checkpoint", 1, 1)


def upload_in_a_process(settings: Config) -> None:
    object_stores._s3_client.cache_clear()  # a client is for one process
    uploads = Uploads(settings)
    for epoch in range(1, 100):
        uploads.submit(settings.folder / "checkpoints" / "last.pt", epoch)
        uploads.wait()
    os._exit(0)


def test_killed_while_uploading(network: Network, tmp_path: Path, tally: Tally) -> None:
    settings, draw = config(tmp_path, checkpoints_kept=100), random.Random(3)
    write(tmp_path, "last.pt", BLOB)
    for _ in range(KILLS):
        before = len(network.requests)
        process = multiprocessing.get_context("fork").Process(target=upload_in_a_process, args=(settings,))
        process.start()
        while len(network.requests) < before + 4 and process.is_alive():
            time.sleep(0.001)
        time.sleep(draw.random() * 0.2)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    found = stored(f"{settings.checkpoints}/run")
    assert found
    assert set(found.values()) == {BLOB}
    tally("SIGKILL while a checkpoint is uploaded", KILLS, KILLS)


@pytest.mark.usefixtures("network")
def test_the_one_that_has_seen_more_wins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = config(tmp_path)
    address, last = f"{settings.checkpoints}/run", settings.folder / "checkpoints" / "last.pt"
    assert not fetch_newer(settings, None)
    whole = saved(tmp_path, document(model={"w": torch.arange(9.0)})).read_bytes()
    storage.write(f"{address}/{remote_of(2.5, True).name}", whole)
    storage.write(f"{address}/{remote_of(3.0, False).name}", whole)
    storage.write(f"{address}/metrics.jsonl", b"{}\n")
    storage.write(f"{address}/notes.txt", b"of somebody")
    assert fetch_newer(settings, None)
    assert capsys.readouterr().err == f"resuming from {address}/epoch-000003.000000.pt\n"
    assert (last.read_bytes(), last.with_name("best.pt").read_bytes()) == (whole, whole)
    assert (settings.folder / "metrics.jsonl").read_text() == "{}\n"

    own = {"step": 6, "epoch": 3.0}
    assert not fetch_newer(settings, own)  # as far
    last.write_bytes(b"older")
    assert fetch_newer(settings, {"step": 5, "epoch": 2.5})
    assert "which is newer than" in capsys.readouterr().err
    assert last.read_bytes() == whole
    (aside,) = tmp_path.glob("run.*")
    assert (aside / "checkpoints" / "last.pt").read_bytes() == b"older"

    with pytest.raises(UserError, match=r"--resume is never, but s3://.*/run holds checkpoints .*, up to epoch 3; "):
        fetch_newer(config(tmp_path, resume="never"), None)
    damaged = bytearray(whole)
    damaged[whole.index(torch.arange(9.0).numpy().tobytes())] ^= 1
    storage.write(f"{address}/{remote_of(4.0, False).name}", bytes(damaged))
    with pytest.raises(UserError, match=r"^s3://.*/epoch-000004.000000.pt is not .*without that object the one before"):
        fetch_newer(settings, own)


@pytest.mark.slow
def test_a_machine_that_is_lost(network: Network, shards: Path, tmp_path: Path, tally: Tally) -> None:
    """The same command goes on elsewhere, to the end that the run would have had, and its history is whole."""
    unbroken, folder = tmp_path / "unbroken", tmp_path / "run"
    address = f"s3://{BUCKET}/{tmp_path.name}"
    finish(start(shards, unbroken))
    network.fault = flaky
    more, variables = ("--checkpoints", address), environment(network.endpoint)
    command = start(shards, folder, *more, **variables)
    stop(command, folder / "metrics.jsonl", after=3)
    assert command.finish() == 143, command.output
    done = weights(folder / "checkpoints" / "last.pt")["step"]
    earlier = folder.rename(tmp_path / "earlier")

    output = finish(start(shards, folder, *more, **variables))
    assert f"resuming from {address}/run/epoch-" in output
    assert f"last.pt after step {done}\n" in output
    assert_same_run(unbroken, folder)
    assert [line["step"] for line in lines(folder, "train")] == list(range(1, 5 * EPOCHS + 1))
    tally("a machine lost with the run's folder, and the run resumed from object storage", 1, 1)

    shutil.rmtree(folder)
    earlier.rename(folder)
    output = finish(start(shards, folder, *more, **variables))
    assert f"which is newer than {folder}: that is {folder}." in output
    assert f"is finished at epoch {EPOCHS}" in output
    for remote in find_remote(f"{address}/run"):  # as if their uploads had failed
        storage.remove(f"{address}/run/{remote.name}")
    finish(start(shards, folder, *more, **variables))
    assert [remote.epoch for remote in find_remote(f"{address}/run")][-1] == EPOCHS
    tally("a folder older than object storage, and newer", 2, 2)

    network.fault = lambda request, _: "denied" if "PUT" in request else "none"
    refused = start(shards, tmp_path / "refused", *more, **variables)
    assert refused.finish() == 2
    (sentence,) = [line for line in refused.output.splitlines() if line.startswith("error: ")]
    assert f"{address}/refused/config.json cannot be written" in sentence
    assert "; check the address, the credentials" in sentence
    assert "Traceback" not in refused.output
    assert not (tmp_path / "refused").exists()
    checkpoint.load(folder / "checkpoints" / "best.pt")
