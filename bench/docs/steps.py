"""Make docs/steps.jpg, four frames of real commands: pack, train, report, predict: ``python -m bench.docs.steps``.

Trains the demo's recipe on the demo's streets in a temporary folder, which takes three minutes of two cores, and draws
what the commands show in a terminal. Needs a browser and playwright. Part of ``make pictures``.
"""

import base64
import html
import io
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro
from PIL import Image

from bench.docs.pictures import browser_program, save
from bench.docs.terminal import Recording, draw, record
from bench.runner.processes import ROOT
from fastseg.errors import UserError, run_command

ROWS = 26
"""Lines of a terminal's frame."""
MIDWAY = 0.75
"""Share of the training's time after which it is drawn."""
WIDTH = 1480
PAGE = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; padding: 14px; width: {width}px; box-sizing: border-box; background: white; font: 16px sans-serif }}
main {{ display: grid; grid-template-columns: 1fr 1fr; gap: 14px }}
figure {{ margin: 0; display: flex; flex-direction: column; min-width: 0 }}
figcaption {{ font-weight: bold; color: #22282e; padding: 0 0 6px 2px }}
.box {{ height: 440px; overflow: hidden; border-radius: 8px; background: #292929 }}
.box > svg {{ width: 100%; display: block }}
.box > img {{ width: 100%; display: block }}
.framed {{ background: white; outline: 1px solid #b4bcc4; outline-offset: -1px }}
.beside > svg {{ height: auto }}
.beside > img {{ width: auto; height: 300px; margin: 8px auto 0 }}
</style><main>{figures}</main>"""


@dataclass(frozen=True)
class Options:
    """Make the strip of four frames: pack, train, report, predict.

    Example: python -m bench.docs.steps
    """

    data: Path = Path("data/demo")
    """Streets of make demo, in Cityscapes' layout."""
    out: Path = ROOT / "docs" / "steps.jpg"
    """The picture."""
    epochs: float | None = None
    """Epochs of the training. Default: the recipe's; 1 to try the script."""


def main() -> None:
    """Run the commands and draw the picture."""
    options = tyro.cli(Options)
    pictures = sorted(options.data.glob("leftImg8bit/val/*/*.png"))
    if not pictures:
        raise UserError(
            f"{options.data} holds no streets; run make demo, or name a set in Cityscapes' layout with --data"
        )
    browser_program()  # found missing before the training
    with tempfile.TemporaryDirectory(prefix="fastseg-steps-") as folder:
        work = Path(folder)
        shutil.copytree(options.data, work / "streets")
        shutil.copy(pictures[0], work / "street.png")
        save(screenshot(page(work, options.epochs), work), options.out)


def page(work: Path, epochs: float | None) -> str:
    """Run pack, train and predict in ``work``; return the page of the four frames."""
    packed = _run(work, "fastseg-pack streets --out shards/streets")
    short = [] if epochs is None else ["--optim.epochs", f"{epochs:g}"]
    trained = _run(work, "fastseg-train --recipe demo --shards shards/streets --name streets", *short)
    predicted = _run(work, "fastseg-predict runs/streets street.png --contours")
    overlay = next((work / "predictions" / "overlays").iterdir())
    report = _report(work / "runs" / "streets" / "report.html")
    figures = [
        _figure("1. Pack images and masks", draw(packed.screen(), "pack", ROWS)),
        _figure("2. Train", draw(trained.screen(MIDWAY), "train", ROWS)),
        _figure("3. Read the report", _image(report), "framed"),
        _figure("4. Predict", draw(predicted.screen(), "predict", 3) + _image(overlay.read_bytes()), "beside"),
    ]
    return PAGE.format(width=WIDTH, figures="".join(figures))


def _run(work: Path, typed: str, *more: str) -> Recording:
    program, *arguments = typed.split()
    known = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return record(typed, [Path(sys.executable).with_name(program), *arguments, *more], work, known)


def _figure(caption: str, inside: str, kind: str = "") -> str:
    box = f'<div class="box {kind}">{inside}</div>'
    return f"<figure><figcaption>{html.escape(caption)}</figcaption>{box}</figure>"


def _image(data: bytes) -> str:
    kind = "jpeg" if data.startswith(b"\xff\xd8") else "png"
    return f'<img src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def _report(path: Path) -> bytes:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_program(), args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": 1080, "height": 660})
        tab.goto(path.resolve().as_uri())
        data = tab.screenshot()
        browser.close()
    return data


def screenshot(text: str, work: Path) -> Image.Image:
    """Return a page as a picture."""
    from playwright.sync_api import sync_playwright

    (work / "page.html").write_text(text, encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_program(), args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": WIDTH, "height": 400})
        tab.route("http*://**", lambda route: route.abort())  # rich names a font in the net
        tab.goto((work / "page.html").as_uri())
        data = tab.screenshot(full_page=True)
        browser.close()
    return Image.open(io.BytesIO(data)).convert("RGB")


if __name__ == "__main__":
    run_command(main)
