"""Check the versions of the system, of Python, and of the packages."""

import platform
import sys
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

import fastseg
from fastseg.doctor.rows import Request, Row, broken, ok, warning
from fastseg.libraries import OURS

NAMESAKE = "fastseg"
"""Package of another project, a collection of MobileNetV3 models, with the same import name."""
GLIBC = (2, 28)
"""Oldest C library that the wheels of torch and DALI support."""


def system(_request: Request) -> list[Row]:
    """Check the operating system and Python."""
    name, glibc = platform.libc_ver()
    found = (
        f"{_distribution()}, {platform.system()} {platform.release()} {platform.machine()}, {name} {glibc}, Python "
        f"{platform.python_version()} in {sys.prefix}"
    )
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "aarch64"):
        return broken("system", found, "use Linux on x86_64 or aarch64: DALI has no wheels for others")
    if name != "glibc" or tuple(map(int, glibc.split(".")[:2])) < GLIBC:
        return broken("system", found, "use a distribution with glibc 2.28 or newer, or the Dockerfile")
    return ok("system", found)


def packages(_request: Request) -> list[Row]:
    """Compare installed versions with those required, and look for the other package named fastseg."""
    return [*_fitting(), *_namesake()]


def _fitting() -> list[Row]:
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(text) for text in requires(OURS) or ()]
    except PackageNotFoundError:
        found = f"fastseg in {_folder()} is not installed as a package, so versions cannot be compared"
        return warning("packages", found, "install it in its checkout: pip install -e .")
    here, wrong = [f"{OURS} {version(OURS)}"], []
    for one in wanted:
        installed = _version(one.name)
        optional = "extra" in str(one.marker)
        if (one.marker and not optional and not one.marker.evaluate()) or (optional and not installed):
            continue
        if not optional:
            here.append(f"{one.name} {installed or 'MISSING'}")
        if not one.specifier.contains(installed or "0", prereleases=True):
            wrong.append((f"{one.name} is {installed or 'missing'}", f"'{one.name}{one.specifier}'"))
    if wrong:
        found = f"{'; '.join(dict(wrong))} ({', '.join(here)})"
        cure = f"install what fits: pip install {' '.join(dict.fromkeys(text for _, text in wrong))}"
        return broken("packages", found, cure)
    return ok("packages", ", ".join(here))


def _namesake() -> list[Row]:
    foreign = _version(NAMESAKE)
    strange = not hasattr(fastseg, "open_shards")
    if not foreign and not strange:
        return []
    what = f"fastseg {foreign}" if foreign else "a package named fastseg"
    return broken(
        "other fastseg",
        f"{what} of another project (MobileNetV3 models) is installed beside ours, whose files it overwrites or hides; "
        f"imported is {_folder()}",
        f"pip uninstall {NAMESAKE}, then install ours anew: pip install --force-reinstall --no-deps {OURS} (or -e . in "
        "its checkout)",
    )


def _folder() -> Path:
    return Path(fastseg.__file__ or "").parent


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "an unknown system"


def summary() -> str:
    """Return this package's version."""
    try:
        return metadata(OURS)["Version"]
    except PackageNotFoundError:
        return "not installed"
