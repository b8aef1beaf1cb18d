"""Explain libraries that are missing, cannot be loaded or do not match, instead of a traceback."""

import re
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path
from types import TracebackType

OURS = "fastseg-deeplab"
"""Name of this package's distribution."""
_PACKAGES = {
    "nvidia": "nvidia-dali-cuda130",
    "torch": "torch",
    "torchvision": "torchvision",
    "torchmetrics": "torchmetrics",
    "cityscapesscripts": "cityscapesScripts",
    "numpy": "numpy",
    "webdataset": "webdataset",
    "rich": "rich",
    "tyro": "tyro",
    "PIL": "Pillow",
    "jinja2": "Jinja2",
    "tensorboard": "tensorboard",
    "pycocotools": "pycocotools",
    "yaml": "PyYAML",
    "safetensors": "safetensors",
}
"""Required packages by the module that is imported."""
NATIVE = {"nvidia/dali": "nvidia-dali-cuda130", "torchvision": "torchvision", "torch": "torch"}
"""Those that load system libraries, by folder, to which a failed import is traced."""


def import_problem(error: BaseException) -> str | None:
    """Return a sentence with the cure if ``error`` is the failed import of a required library; else None."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = _PACKAGES.get(error.name.partition(".")[0])
        return f"{_name(package)} is not installed here ({_reason(error)}); {_install(package)}" if package else None
    package = _being_imported(error.__traceback__)
    if package is None:
        return None
    if "torchvision::" in str(error):
        found = " and ".join(f"{name} {package_version(name)}" for name in ("torch", "torchvision"))
        both = " ".join(f"'{requirement(name)}'" for name in ("torch", "torchvision"))
        return (
            f"{found} do not belong together ({_reason(error)}); install both anew, from one place: pip install "
            f"--force-reinstall {both}"
        )
    return (
        f"{_name(package)} is installed but cannot be loaded ({_reason(error)}); install it anew: pip install "
        f"--force-reinstall '{requirement(package)}' (and see that LD_LIBRARY_PATH names no other libraries of CUDA)"
    )


def requirement(package: str) -> str:
    """Return a package with the versions that fastseg accepts, as pip writes it."""
    with suppress(PackageNotFoundError):
        for text in requires(OURS) or ():
            name = re.match(r"[\w.-]+", text)
            if name and name[0].lower() == package.lower() and "extra ==" not in text:
                return text.partition(";")[0].strip()
    return package


def _install(package: str) -> str:
    wheels = " (there are wheels for Linux on x86_64 and aarch64)" if package.startswith("nvidia-dali") else ""
    return f"install it: pip install '{requirement(package)}'{wheels}"


def _being_imported(traceback: TracebackType | None) -> str | None:
    """Return the package of :data:`NATIVE` during whose import the error was raised; None for others."""
    while traceback:
        code = traceback.tb_frame.f_code
        folders = f"/{Path(code.co_filename).parent.as_posix()}/"
        for folder, package in NATIVE.items():
            if code.co_name == "<module>" and f"/{folder}/" in folders:
                return package
        traceback = traceback.tb_next
    return None


def _name(package: str) -> str:
    return "NVIDIA DALI" if package.startswith("nvidia-dali") else package


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def package_version(package: str) -> str:
    """Return the version of an installed package."""
    with suppress(PackageNotFoundError):
        return distribution(package).version
    return "(not installed)"
