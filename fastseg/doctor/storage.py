"""Check the storage of shards and runs, and the data set itself."""

import fcntl
import os
import shutil
import time
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryFile

from fastseg.doctor.rows import Request, Row, broken, gib, ok, warning
from fastseg.errors import UserError

WRITTEN = 64 << 20
"""Bytes to write and flush to the disk."""
READ = 256 << 20
"""Bytes to read."""
ROOM = 4 << 30
"""Bytes for a run: two checkpoints of deeplabv3_resnet50 with averaged weights and momentum, and one being written."""
SLOW_READ = 100e6
"""Bytes a second: an H200 reads about 200 frames a second of 0.45 MB until they are in the page cache."""
SLOW_WRITE = 20e6
"""Bytes a second at which a checkpoint of 0.5 GB takes half a minute."""
CLOCK = 5.0
"""Seconds by which two clocks may differ."""
HOME = 1 << 30
"""Bytes in the home folder: pretrained weights have 0.2 GB, compiled kernels some 0.1 GB."""
FIRST_BYTE = 0.5
"""Seconds until the first byte above which storage counts as slow."""


def runs(request: Request) -> list[Row]:
    """Check free space and write speed in the folder of runs."""
    folder = _nearest(Path(request.runs))
    try:
        with TemporaryFile(dir=folder) as file:
            block, began = os.urandom(1 << 20), time.perf_counter()
            for _ in range(WRITTEN >> 20):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            speed = WRITTEN / (time.perf_counter() - began)
    except OSError as error:
        cure = "free some space, make the folder writable for this user, or name another by --runs"
        return broken("runs", f"nothing can be written to {folder} ({error.strerror})", cure)
    others = [*_locks(folder), *_clock(folder)]
    room = shutil.disk_usage(folder)
    found = f"{request.runs}: {gib(room.free)} free on {_kind(folder)}, written and flushed at {speed / 1e6:,.0f} MB/s"
    if room.free < ROOM:
        cure = f"free some space: a run takes up to {gib(ROOM)}; or name another by --runs"
        return [*warning("runs", found, cure), *others]
    if speed < SLOW_WRITE:
        return [*warning("runs", found, "name a faster disk by --runs: training waits for each checkpoint"), *others]
    return [*ok("runs", found), *others]


def _locks(folder: Path) -> list[Row]:
    """Check whether the file system keeps a lock on a file, as some network file systems do not."""
    with NamedTemporaryFile(dir=folder) as one, Path(one.name).open("r+b") as other:
        try:
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return []
        except OSError:
            pass
    return warning(
        "locks",
        f"{_kind(folder)} in {folder} keeps no locks: a second run of the same name would not be refused",
        "start none there, mount it with locks (NFS: without nolock), or name another folder by --runs",
    )


def _clock(folder: Path) -> list[Row]:
    """Compare this machine's clock with that of the file system, which a server may keep."""
    with TemporaryFile(dir=folder) as file:
        file.write(b" ")
        file.flush()
        late = time.time() - os.fstat(file.fileno()).st_mtime
    if abs(late) < CLOCK:
        return []
    found = f"this machine's clock is {abs(late):,.0f} s {'ahead of' if late > 0 else 'behind'} that of {folder}"
    return warning("clock", found, "set both by NTP (timedatectl set-ntp true): times in records would be wrong")


def home(_request: Request) -> list[Row]:
    """Check the home folder, where torch and Triton keep downloaded weights and compiled kernels."""
    folder = _nearest(Path.home())
    cure = "free some space there, or name other folders: TORCH_HOME=/scratch/torch TRITON_CACHE_DIR=/scratch/triton"
    try:
        with TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 20))
            file.flush()
    except OSError as error:
        return warning("home", f"nothing can be written to {folder} ({error.strerror})", cure)
    if (room := shutil.disk_usage(folder).free) < HOME:
        return warning("home", f"{gib(room)} are free in {folder}", cure)
    return []


def shards(request: Request) -> list[Row]:
    """Measure how fast shards can be read, bypassing the page cache, and check whether the set is complete."""
    if request.shards is None:
        return []
    from fastseg.storage import is_remote

    os.environ.setdefault("AWS_MAX_ATTEMPTS", "1")  # report the first failure here
    speed = _remote if is_remote(request.shards) else _local
    try:
        return [*speed(request.shards), *_set(request.shards)]
    except UserError as error:
        what, _, cure = str(error).partition("; ")
        return broken("shards", what, cure or "pack the set: fastseg-pack")


def _set(folder: str) -> list[Row]:
    """Compare the manifest with the files."""
    from fastseg.shards.manifest import read_manifest
    from fastseg.storage import is_remote, join, look_up

    manifest, missing = read_manifest(folder), []
    files = [shard for split in manifest.splits.values() for shard in split.shards]
    for shard in files[:: max(len(files) // 20, 1)] if is_remote(folder) else files:
        try:
            path = join(folder, shard.file)
            size = look_up(path).size if is_remote(folder) else Path(path).stat().st_size
        except OSError:
            size = -1
        if size != shard.bytes:
            missing.append(f"{shard.file} ({'missing' if size < 0 else f'{size:,} of {shard.bytes:,} bytes'})")
    counts = ", ".join(f"{name} {split.samples:,}" for name, split in manifest.splits.items())
    found = f"{manifest.name}: {counts} images, {len(manifest.classes)} classes, {len(files)} tars"
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        cure = "copy the set again, or pack it: fastseg-pack (--verify lists all damage)"
        return broken("data set", f"{found}; not as packed: {', '.join(missing[:3])}{more}", cure)
    return ok("data set", found)


def record(request: Request) -> list[Row]:
    """Read and decode one batch on the CPU as training does."""
    if request.shards is None:
        return []
    import fastseg
    from fastseg.shards.manifest import read_manifest

    os.environ.setdefault("AWS_MAX_ATTEMPTS", "1")
    try:
        splits = read_manifest(request.shards).splits
    except UserError:  # the row of the shards says so
        return []
    try:
        split = next((name for name, split in splits.items() if split.labeled), next(iter(splits)))
        batch = next(iter(fastseg.open_shards(request.shards, split, batch=1, device="cpu", threads=1)))
    except UserError as error:
        what, _, cure = str(error).partition("; ")
        return broken("first record", what, cure or "pack the set again: fastseg-pack")
    _, height, width, _ = batch.image.shape
    return ok("first record", f"of {split} decodes: {width}×{height} pixels, mean {batch.image.float().mean():.0f}")


def _local(folder: str) -> list[Row]:
    tars = sorted(Path(folder).glob("*.tar"), key=lambda path: path.stat().st_size)
    if not tars:
        return []  # the manifest says what is missing
    size, speed = _read_speed(tars[-1])
    where = f"{folder}: on {_kind(Path(folder))}"
    found = f"{where}, read at {speed / 1e6:,.0f} MB/s past the page cache"
    if speed < SLOW_READ and size > 8 << 20:
        cure = "copy the set to a local disk; until it is in memory, an H200 reads about 90 MB/s"
        return warning("shards", found, cure)
    return ok("shards", found if size > 8 << 20 else f"{where}, too small to measure how fast")


def _read_speed(path: Path) -> tuple[int, float]:
    """Read the beginning of a file; return the bytes read, and bytes a second."""
    with path.open("rb", buffering=0) as file:
        size = min(os.fstat(file.fileno()).st_size, READ)
        os.posix_fadvise(file.fileno(), 0, size, os.POSIX_FADV_DONTNEED)
        began, done = time.perf_counter(), 0
        while done < size and time.perf_counter() - began < 3.0:
            done += len(file.read(4 << 20))
        return done, done / (time.perf_counter() - began)


def _remote(folder: str) -> list[Row]:
    from fastseg.shards.manifest import read_manifest
    from fastseg.storage import join, read_range

    began = time.perf_counter()
    read_range(join(folder, "manifest.json"), 0, 1)  # also signs in
    connected = time.perf_counter()
    read_range(join(folder, "manifest.json"), 0, 1)
    first = time.perf_counter() - connected
    tar = next(shard for split in read_manifest(folder).splits.values() for shard in split.shards)
    asked = time.perf_counter()
    speed = len(read_range(join(folder, tar.file), 0, 16 << 20)) / (time.perf_counter() - asked)
    found = (
        f"{folder} answers; first byte after {1000 * first:.0f} ms ({connected - began:.1f} s with the connection), "
        f"one reader gets {speed / 1e6:,.0f} MB/s"
    )
    if first > FIRST_BYTE:
        cure = "use a bucket in this machine's region, and --cache /local/disk"
        return warning("shards", found, cure)
    return ok("shards", found)


def _nearest(folder: Path) -> Path:
    """Return the folder, or its nearest existing parent."""
    folder = folder.absolute()
    return next(parent for parent in (folder, *folder.parents) if parent.is_dir())


def _kind(folder: Path) -> str:
    """Return the file system's type, such as ext4 or nfs4."""
    best = ("", "an unknown file system")
    for line in Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines():
        _, mount, kind, *_ = line.split()
        if folder.resolve().is_relative_to(mount) and len(mount) >= len(best[0]):
            best = (mount, kind)
    return best[1]
