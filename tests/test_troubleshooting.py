"""The page on errors quotes sentences that fastseg says."""

import ast
import re

import pytest

import commands

PAGE = commands.ROOT / "docs" / "troubleshooting.md"
OF_OTHERS = {"waiting", "fastseg-eval", "torchvision::nms does not exist"}
"""A field of our progress line, a command, and what torch says."""
SYMPTOMS = re.findall(r"^\| (.*?) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
QUOTED = [quote for symptom in SYMPTOMS for quote in re.findall(r"`(.*?)`", symptom) if quote not in OF_OTHERS]


@pytest.fixture(scope="module")
def sentences() -> str:
    """All strings of the package, a hole for each value that is put in."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted((commands.ROOT / "fastseg").rglob("*.py"))]
    return "\n".join(filled(node) for tree in trees for node in ast.walk(tree))


def filled(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def test_sentences_are_quoted() -> None:
    assert len(QUOTED) > 15


@pytest.mark.parametrize("quote", QUOTED)
def test_fastseg_says_what_the_page_quotes(quote: str, sentences: str) -> None:
    pattern = ".*?".join(map(re.escape, quote.split("…")))
    assert re.search(pattern, sentences), f"no string of the package has {quote!r}"
