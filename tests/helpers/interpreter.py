"""What Python does with a command line, done in a process that has imported torch and DALI already (zygote.py)."""

import atexit
import importlib
import inspect
import os
import runpy
import signal
import subprocess
import sys
import threading
import traceback
import types
import weakref
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NoReturn

import torch

from bench.runner.processes import MARK

BIN = Path(sys.executable).parent
PYTHONS = ("python", "python3", sys.executable)
_KNOWN = tuple(sys.path)
LAUNCHERS = ("torchrun", "torch.distributed.run", "fastseg.distributed.launcher")


def understands(words: Sequence[str]) -> bool:
    """Whether :func:`interpret` can run this command line: Python, or a command that a package has installed."""
    return words[0] in PYTHONS or _installed(words[0]) is not None


def interpret() -> None:
    """Run the command line in ``sys.argv``, ``python`` or the installed command first, as a new interpreter would."""
    name, *words = sys.argv
    global _launches
    _launches = bool({Path(name).name, *words[:2]} & {*LAUNCHERS})
    if name not in PYTHONS:
        sys.argv = [str(BIN / Path(name).name), *words]
        _installed(name)()  # type: ignore[misc]
        return
    while words[0].startswith("-") and words[0] not in ("-c", "-m"):
        words.pop(0)  # -u and the like
    first, *rest = words
    if first == "-c":
        code, *arguments = rest
        sys.argv = ["-c", *arguments]
        sys.path.insert(0, "")
        sys.modules["__main__"] = module = types.ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), module.__dict__)
    elif first == "-m":
        sys.argv = rest
        sys.path.insert(0, str(Path.cwd()))
        sys.modules.pop(rest[0], None)  # it runs once more, as __main__
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(first).resolve().parent))
        runpy.run_path(first, run_name="__main__")


def begin(words: Sequence[str], environment: Mapping[str, str], cwd: Path | None) -> None:
    """Give this process the command line, the environment and the folder of a new one."""
    weakref.finalize._registry.clear()  # type: ignore[attr-defined]  # its parent's, such as temporary folders
    os.environ.clear()
    os.environ.update(environment)
    if cwd:
        os.chdir(cwd)
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    # multiprocessing has given this process the sys.path of its parent, but not what a new interpreter imports of it.
    customs = [path for path in paths if path not in _KNOWN and Path(path, "sitecustomize.py").is_file()]
    _prefer([path for path in paths if path and (path in customs or path not in sys.path)])
    sys.argv = list(words)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))


def _prefer(paths: list[str]) -> None:
    """Put folders before all others, forget what is imported and stands in them too, and all of ours, which use it."""
    sys.path[:0] = paths
    names = {path.stem for folder in paths for path in Path(folder).glob("*") if path.stem.isidentifier()}
    if not names - {"fastseg", "tools", "bench", "tests"}:
        return
    importlib.invalidate_caches()
    for module in tuple(sys.modules):
        if module.partition(".")[0] in {*names, "fastseg", "tools", "bench"}:
            del sys.modules[module]
    if "sitecustomize" in names:
        importlib.import_module("sitecustomize")


def exit_code(main: Callable[[], None]) -> int:
    """Run ``main`` to its end and return the exit code that a process ends with after it."""
    try:
        code = _code(main)
        threading._shutdown()  # type: ignore[attr-defined]  # waits for all that are not daemons
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = code or 120
    return code


def hasten() -> None:
    """From now on fork what this process starts of Python's, instead of starting it anew.

    Not where it has threads: they would be missing in the child, whatever they hold held for ever. A launcher of
    ranks has some, but they compute nothing and hold nothing that a rank needs. Nor where the benchmark looks for its
    entries: by a mark in the environment that /proc shows, which is that of the program that was started.
    """
    subprocess.Popen._execute_child = _execute_child  # type: ignore[attr-defined]
    os.execve = _execve  # type: ignore[assignment]


def _code(main: Callable[[], None]) -> int:
    try:
        main()
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return (ended.code or 0) & 0xFF
        print(ended.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _installed(name: str) -> Callable[[], None] | None:
    """The function behind a command in the environment's folder, as its package's entry points name it."""
    if Path(name).parent not in (Path(), BIN):
        return None
    found = tuple(entry_points(group="console_scripts", name=Path(name).name))
    return found[0].load() if found else None


_launches = False
"""Whether this process is a launcher of ranks."""


def _may_fork() -> bool:
    return _launches or sum(1 for _ in Path("/proc/self/task").iterdir()) == 1


_start_anew: Callable[..., None] = subprocess.Popen._execute_child  # type: ignore[attr-defined]
_exec_anew = os.execve


def _execute_child(self: Any, *given: Any) -> None:
    """Do what Popen does, by a fork alone where that is the same."""
    asked = inspect.signature(_start_anew).bind(self, *given).arguments
    words = [os.fsdecode(word) for word in asked["args"]] if isinstance(asked["args"], (list, tuple)) else [""]
    plain = words[0] == sys.executable and not (asked["shell"] or asked["executable"] or asked["pass_fds"])
    if not plain or MARK in (asked["env"] or os.environ) or not _may_fork():
        _start_anew(self, *given)
        return
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    self.pid = os.fork()
    if self.pid == 0:
        _run_child(words, asked)
    self._child_created = True
    self._close_pipe_fds(*(asked[name] for name in PIPES))


PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")


def _run_child(words: list[str], asked: dict[str, Any]) -> NoReturn:
    code = 1
    try:
        for number, name in enumerate(("p2cread", "c2pwrite", "errwrite")):
            if asked[name] not in (-1, number):
                os.dup2(asked[name], number)
        os.closerange(3, 65536)
        if asked["preexec_fn"]:
            asked["preexec_fn"]()
        if asked["start_new_session"]:
            os.setsid()
        if asked.get("process_group", -1) >= 0:
            os.setpgid(0, asked["process_group"])
        begin(words, os.environ if asked["env"] is None else dict(asked["env"]), asked["cwd"])
        code = exit_code(interpret)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _execve(path: str, words: Sequence[str], environment: Mapping[str, str]) -> None:
    if path != sys.executable or not _may_fork():
        _exec_anew(path, words, environment)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    for number in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if number > 2:
            _close_on_exec(number)
    begin(words, environment, None)
    os._exit(exit_code(interpret))


def _close_on_exec(number: int) -> None:
    try:
        if not os.get_inheritable(number):
            os.close(number)
    except OSError:
        pass  # it was that of the listing
