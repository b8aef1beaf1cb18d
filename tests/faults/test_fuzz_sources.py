"""Any annotations give a set or one sentence, and any texts of a checkpoint a model card that holds none of them."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_fuzz import altered, fuzz, mutations, survives
from test_untrusted import LINKED, MARKDOWN
from victims import document

from fastseg.deploy.model_card import describe, escape
from fastseg.errors import one_line
from fastseg.packing.records import Codec, encode
from fastseg.packing.sources import open_source
from shape_layouts import SHAPE_WRITERS

Tally = Callable[[str, int, int], None]
TEXTS = (".json", ".xml", ".txt", ".yaml")
"""Endings of files of annotations and of lists of classes."""


@st.composite
def annotations(draw: st.DrawFn, whole: bytes, ending: str) -> bytes:
    """A file of annotations with other bytes, or a JSON document with other values."""
    if ending == ".json" and draw(st.integers(0, 3)):
        return json.dumps(draw(altered(json.loads(whole)))).encode("utf-8", "replace")
    return draw(mutations([whole]))


@pytest.mark.parametrize("name", SHAPE_WRITERS)
def test_any_annotations(name: str, tmp_path: Path, tally: Tally) -> None:
    folder, tried, taken = SHAPE_WRITERS[name](tmp_path / "set"), 0, 0
    files = sorted(path for path in folder.rglob("*") if path.suffix in TEXTS)

    def pack() -> bool:
        source = open_source(folder)
        return all(encode(sample, Codec(), source.table) for sample in source.samples)

    assert pack()

    @fuzz
    @given(st.data())
    def run(data: st.DataObject) -> None:
        nonlocal tried, taken
        path = data.draw(st.sampled_from(files))
        whole = path.read_bytes()
        path.write_bytes(data.draw(annotations(whole, path.suffix)))
        try:
            tried, taken = tried + 1, taken + bool(survives(pack))
        finally:
            path.write_bytes(whole)

    run()
    tally("annotations of any kind", tried, tried)
    assert 0 < taken < tried


WORDS = st.text("aA1 \t\n\r\\`*_{}[]()#+-.!|<>&:/@~$\"'=^\x1b\u202e", max_size=30) | st.sampled_from(
    ["http://a.example/", "www.a.example", "![a](b)", "<b>", "&amp;", "```", "---", "# a", "1. a", "- a", "a@b.example"]
)


def test_any_texts_in_markdown(tally: Tally) -> None:
    """In a sentence, a heading and a table: what is shown is the text, and nothing but text."""
    tried = 0

    @fuzz
    @given(st.lists(WORDS, min_size=1, max_size=4).map("".join))
    def run(text: str) -> None:
        nonlocal tried
        tried += 1
        safe = escape(text)
        parts = MARKDOWN.parse(f"# {safe}\n\nOf {safe}, and\n\n| id | name |\n|---|---|\n| 0 | {safe} |\n")
        assert not re.search(LINKED, safe), safe
        kinds = {child.type for part in parts for child in part.children or ()}
        assert kinds <= {"text"}, (safe, kinds)
        cells = [part.content for part in parts if part.type == "inline"]
        assert len(cells) == 6
        shown = ["".join(child.content for child in part.children or ()) for part in parts if part.type == "inline"]
        assert shown[1] == f"Of {one_line(text)}, and"

    run()
    tally("names in a checkpoint that are Markdown, HTML or a terminal's commands", tried, tried)


def test_descriptions_with_any_values(tally: Tally) -> None:
    tried = 0
    config: dict[str, Any] = {"name": "x", "seed": 1, "data": {}, "model": {"weights": "coco"}, "optim": {}}
    whole = document(
        config=config,
        dataset={"name": "s", "digest": "0" * 64},
        versions={"fastseg-deeplab": "1"},
        score={"step": 3, "split": "val", "miou": 0.5, "images": 5},
        model={},
    )
    fixed = {name: whole.pop(name) for name in ("arch", "model", "step", "epoch", "classes", "mean", "std")}
    describe(whole | fixed, Path("x.pt"))

    @fuzz
    @given(altered(whole))
    def run(changed: Any) -> None:
        nonlocal tried
        tried += 1
        if isinstance(changed, dict):
            survives(lambda: describe(changed | fixed, Path("x.pt")).metadata("contract"))

    run()
    tally("values of any kind in a manifest or checkpoint", tried, tried)
