"""What several tests use: packed sets, a small run, a browser."""

import os
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

import layouts
from fastseg.config import Config, DataConfig, ModelConfig, OptimConfig
from fastseg.packing.pack import PackOptions, pack
from fastseg.packing.sources import open_source

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cityscapes' classes: 11 training and 5 validation frames of 96×64, in shards of 4."""
    folder = tmp_path_factory.mktemp("cityscapes")
    source = open_source(layouts.write_cityscapes(folder / "source", 11, 5, 2, size=(96, 64)))
    pack(source, folder / "shards", PackOptions(samples_per_shard=4), workers=1)
    return folder / "shards"


@pytest.fixture
def tiny(shards: Path, tmp_path: Path) -> Config:
    """A run of the small network on them: 2 steps of 4 crops an epoch, on the CPU."""
    return Config(
        shards=str(shards),
        name="tiny",
        runs=tmp_path / "runs",
        eval_every=100,
        save_every=100,
        log_every=1,
        data=DataConfig(batch=4, crop=(64, 64), eval_batch=2, threads=1),
        model=ModelConfig(arch="deeplabv3_mobilenet_v3_large", weights="none"),
        optim=OptimConfig(epochs=2, lr=0.01, lr_batch=None, warmup=0.5),
    )


@pytest.fixture(autouse=True)
def few_threads() -> None:
    """Tests share the machine with each other and with the processes that they start."""
    torch.set_num_threads(1)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that answers nothing stands before every download."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    # urllib asks for the proxies once, and would keep these for all the tests that follow in the process.
    monkeypatch.setattr(urllib.request, "_opener", None)


# Not of the session: while playwright runs, nothing else in the process can use asyncio.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, driven by playwright; skipped where there is none, unless FASTSEG_BROWSER is ``required``."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _no_browser("playwright is not installed")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        _no_browser(f"no browser is installed: none of {', '.join(BROWSERS)}")
    with sync_playwright() as playwright:
        # A sandbox needs rights that containers lack; the page is our own.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def _no_browser(what: str) -> NoReturn:
    """Skip, or fail where a browser is required."""
    if os.environ.get("FASTSEG_BROWSER") == "required":
        pytest.fail(f"{what}, and FASTSEG_BROWSER is required")
    pytest.skip(what)
