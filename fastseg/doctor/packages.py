"""Check the versions of the system, of Python, and of the packages."""

import json
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, distribution, distributions, metadata, requires, version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import fastseg
from fastseg.doctor.rows import Request, Row, broken, ok, warning
from fastseg.libraries import NATIVE, OURS, requirement

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
    """Compare installed versions with those required, and look for what is installed twice, in part or elsewhere."""
    return [*_fitting(), *_namesake(), *_moved(), *_halves()]


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


def _moved() -> list[Row]:
    """Look for an editable install of another checkout than the one that is imported, or of one that is gone."""
    try:
        document = json.loads(distribution(OURS).read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return []
    checkout = Path(unquote(urlsplit(document.get("url", "")).path))
    if not document.get("dir_info", {}).get("editable") or checkout.resolve() == _folder().parent.resolve():
        return []
    gone = "" if (checkout / "fastseg").is_dir() else ", which is gone"
    return broken(
        "other fastseg",
        f"installed is the checkout {checkout}{gone}; imported is {_folder()}",
        "install the checkout that you mean: pip install -e . in it; and unset PYTHONPATH if it names another",
    )


def _halves() -> list[Row]:
    """Look for packages of which an upgrade has left two versions, or files of another than the installed one."""
    rows: list[Row] = []
    for name in (OURS, *NATIVE.values()):
        versions = sorted({found.version for found in distributions(name=name)})
        if (files := _version_of_files(name)) and files not in (version.partition("+")[0] for version in versions):
            versions.append(f"{files} by its files")
        if len(versions) > 1:
            rows += broken(
                name,
                f"{name} is here in parts of several versions: {', '.join(versions)}",
                f"pip uninstall {name} until pip finds none, then pip install '{requirement(name)}'",
            )
    return rows


def _version_of_files(name: str) -> str:
    """Return the version that a package's own version.py names, without importing it; empty if there is none."""
    spec = find_spec(name) if name in ("torch", "torchvision") else None
    path = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    text = path.read_text(encoding="utf-8") if path and path.is_file() else ""
    found = re.search(r"^__version__ = ['\"]([^'\"+]+)", text, re.MULTILINE)
    return found[1] if found else ""


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
