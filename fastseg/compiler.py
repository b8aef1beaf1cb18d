"""Check whether torch.compile works on this machine: its requirements beside torch, and a trial in a subprocess."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from fastseg.run_module import child_environment, module_command

INSTALL = "install a compiler and Python's headers (Debian: apt install g++ python3-dev)"
LONGEST = 300
"""Maximum characters of a reason: a compiler's command line has thousands."""


def compiler_problem(cuda: bool) -> str | None:
    """Return why torch.compile cannot work here and the cure, in one sentence; None if nothing does.

    Only looks at what is installed, so it is quick. ``cuda``: on a GPU, where Triton compiles its driver as C; else
    Inductor compiles C++.
    """
    if cuda and find_spec("triton") is None:
        return "Triton, which compiles for the GPU, is not installed; install torch from its own wheels: they bring it"
    return _no_compiler(*(("CC", ("gcc", "clang")) if cuda else ("CXX", ("g++",)))) or _no_headers()


def _no_compiler(variable: str, programs: tuple[str, ...]) -> str | None:
    """Return why there is no compiler that Triton or Inductor would run: ``variable``'s, else a program on PATH."""
    if variable in os.environ:
        named = os.environ[variable]
        if not shutil.which(next(iter(shlex.split(named)), "")):
            return f"{variable} is {named!r}, and there is no such compiler here; unset it, or {INSTALL}"
    elif not any(map(shutil.which, programs)):
        return f"there is no {' or '.join(programs)} on PATH; {INSTALL}"
    return None


def _no_headers() -> str | None:
    scheme = sysconfig.get_default_scheme()
    # Debian's own Python keeps its headers below /usr, not /usr/local, as Triton and Inductor know.
    own = sysconfig.get_path("include", "posix_prefix" if scheme == "posix_local" else scheme)
    given = [os.environ.get(name, "") for name in ("CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH")]
    folders = [own, *(folder for value in given for folder in value.split(os.pathsep) if folder)]
    if any(Path(folder, "Python.h").is_file() for folder in folders):
        return None
    return f"the headers of Python {sys.version_info.major}.{sys.version_info.minor} are not in {own}; {INSTALL}"


def compile_fails(device: str, seconds: float = 240.0) -> str | None:
    """Return why torch.compile fails on ``device`` (cpu, cuda or cuda:N), in one sentence; None if it works.

    Compiles a convolution, batch norm and ReLU and their backward pass, and runs them, in a separate process, killed
    after ``seconds``, so that a crash is a result as well. No cache is used: an earlier compilation proves nothing.
    """
    with tempfile.TemporaryDirectory(prefix="fastseg-compile-", ignore_cleanup_errors=True) as caches:
        environment = {
            **child_environment(),
            "TORCHINDUCTOR_CACHE_DIR": str(Path(caches, "inductor")),
            "TRITON_CACHE_DIR": str(Path(caches, "triton")),
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
            "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",  # pays only for many kernels, and takes a minute
        }
        child = subprocess.Popen(
            module_command("fastseg.compiler", device),
            env=environment,
            cwd=caches,  # the compiler starts Pythons of its own, which import from where they are
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # so that a timeout also kills the compilers that it starts
        )
        try:
            output, _ = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            return f"torch.compile was not done with a small network in {seconds:g} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    if child.returncode < 0:
        return f"torch.compile's process was ended by {signal.Signals(-child.returncode).name}"
    lines = output.strip().splitlines()
    return None if child.returncode == 0 else lines[-1] if lines else f"its process ended with {child.returncode}"


def describe_failure(error: BaseException) -> str:
    """Summarize an exception of torch.compile in one line of at most :data:`LONGEST` characters."""
    error = getattr(error, "inner_exception", None) or error
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # A compiler's own message stands far below its command line.
    said = next((line for line in lines if "error: " in line), lines[0] if lines else "")
    return f"{type(error).__name__}: {said}".removesuffix(": ")[:LONGEST]


def _compile_small_network(device: str) -> None:
    import torch

    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU()).to(device)
    loss = torch.compile(network)(torch.ones(2, 3, 16, 16, device=device)).sum()
    loss.backward()
    if not loss.isfinite():
        raise RuntimeError("the compiled network's result is not a finite number")


if __name__ == "__main__":
    try:
        _compile_small_network(sys.argv[1])
    except Exception as failure:  # any exception is a result
        print(describe_failure(failure))
        sys.exit(1)
