"""Make the documents' pictures anew: ``make pictures``, from the runs of make hero and make demo and the results.

docs/hero.jpg (a frame of the longer run), docs/inspect.jpg (crops of the demo's set), docs/report.jpg (its report on a
desktop and, in the dark, on a phone), and the plots beside the results that have one. Needs a browser and playwright.
"""

import io
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image

from bench.docs.plots import plot_studies, plot_throughput
from bench.runner.processes import ROOT
from bench.runner.results import read_results
from bench.studies.results import read_studies
from fastseg.errors import UserError, run_command
from fastseg.report.pictures import panel
from fastseg.report.report import write_report
from fastseg.report.run_folder import Run, read_run

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
RESULTS = ROOT / "bench" / "results"
DESKTOP, PHONE = {"width": 1240, "height": 1180}, {"width": 390, "height": 908}
GAP = 24
QUALITY = 82
INSPECT_WIDTH, REPORT_WIDTH = 1000, 1400


@dataclass(frozen=True)
class Options:
    """Make the documents' pictures anew.

    Example: python -m bench.docs.pictures
    """

    hero: Path = Path("runs/hero")
    """Run whose predictions the README shows: that of make hero."""
    run: Path = Path("runs/demo")
    """Run to show: that of make demo."""
    shards: Path = Path("shards/demo")
    """Its packed set."""
    out: Path = ROOT / "docs"
    """Folder of the pictures."""
    plots: bool = True
    """Also draw the plots of bench/results."""


def main() -> None:
    """Make all pictures."""
    options = tyro.cli(Options)
    for path in (options.hero / "metrics.jsonl", options.run / "metrics.jsonl", options.shards / "manifest.json"):
        if not path.is_file():
            raise UserError(f"{path} is missing; run make hero demo, or name others with --hero, --run and --shards")
    write_report(options.run)
    save(held_out(read_run(options.hero)), options.out / "hero.jpg")
    save(inspection(options.shards), options.out / "inspect.jpg")
    save(report(options.run / "report.html"), options.out / "report.jpg")
    if options.plots:
        draw_plots()


def save(picture: Image.Image, path: Path) -> None:
    """Save a JPEG."""
    picture.save(path, quality=QUALITY, optimize=True, progressive=True)
    print(f"{path}: {picture.width}×{picture.height}, {path.stat().st_size / 1000:.0f} kB")


def held_out(run: Run) -> Image.Image:
    """Return image, truth, prediction and errors of a random frame, which the run was not picked for."""
    shown = next((frame for frame in run.gallery if frame.kind == "random"), run.gallery[-1])
    image = np.asarray(Image.open(shown.layers["image"]).convert("RGB"))
    truth, prediction = (np.asarray(Image.open(shown.layers[name])) for name in ("truth", "prediction"))
    return Image.fromarray(panel(image, truth, prediction, run.classes))


def inspection(shards: Path) -> Image.Image:
    """Return the contact sheet of ``fastseg-inspect``."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "fastseg.commands.inspect_shards", str(shards), "--show", "12"]
        subprocess.run([*command, "--out", folder], check=True, stdout=subprocess.DEVNULL)
        sheet = Image.open(Path(folder) / "contact_sheet.png").convert("RGB")
        return resized(sheet, INSPECT_WIDTH)


def report(page: Path) -> Image.Image:
    """Return the top of the page on a desktop beside its frames on a phone in the dark."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_program(), args=["--no-sandbox", "--disable-gpu"])
        left = _screenshot(browser, page, "h1", {"viewport": DESKTOP, "color_scheme": "light"})
        scale = DESKTOP["height"] / PHONE["height"]
        phone = {"viewport": PHONE, "color_scheme": "dark", "has_touch": True, "device_scale_factor": scale}
        right = _screenshot(browser, page, "#frames", phone)
        browser.close()
    height = min(left.height, right.height)
    both = Image.new("RGB", (left.width + GAP + right.width, height), "white")
    both.paste(left, (0, 0))
    both.paste(right, (left.width + GAP, 0))
    return resized(both, REPORT_WIDTH)


def browser_program() -> str:
    """Return the browser's program. Raises :class:`UserError` without one."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        raise UserError(f"no browser is installed: none of {', '.join(BROWSERS)}; install one")
    return program


def resized(picture: Image.Image, width: int) -> Image.Image:
    """Return a picture in another size of the same shape."""
    return picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)


def _screenshot(browser: Any, page: Path, top: str, context: dict[str, Any]) -> Image.Image:
    """Return a window of the page that begins with the element ``top``."""
    tab = browser.new_context(**context).new_page()
    tab.goto(page.resolve().as_uri())
    tab.locator(top).first.evaluate("e => scrollTo(0, e.getBoundingClientRect().top + scrollY - 12)")
    if not context.get("has_touch"):
        tab.locator(".plot svg").first.hover()  # its numbers appear at the cursor
    return Image.open(io.BytesIO(tab.screenshot())).convert("RGB")


def draw_plots() -> None:
    """Draw the plots of the results anew that have one."""
    for path in sorted(RESULTS.glob("*.svg")):
        results = path.with_suffix(".json")
        if "studies" in json.loads(results.read_text(encoding="utf-8")):
            document = read_studies(results)
            plot_studies(document.environment, document.studies, path)
        else:
            plot_throughput(read_results(results), path)
        print(path)


if __name__ == "__main__":
    run_command(main)
