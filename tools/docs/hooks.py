"""Let the site's pages link to files outside docs/, as they do on GitHub: the site gets a copy of each."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

import fastseg

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = re.compile(r"(\]\(|^\[\w+\]: )\.\./([^)#\s]+)", re.MULTILINE)
"""A link from a page of docs/ to a file beside that folder, or its definition."""


def on_files(files: Files, config: Any) -> Files:
    """Add the files outside docs/ that its pages link to, under their paths in the repository."""
    for page in list(files.documentation_pages()):
        for _, name in OUTSIDE.findall(page.content_string):
            if not (ROOT / name).is_file():
                raise FileNotFoundError(f"{page.src_uri} links to {name}, which does not exist")
            if not files.get_file_from_path(_uri(name)):
                files.append(File.generated(config, _uri(name), content=_content(name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links at those copies, and list the public names on the reference's page."""
    if page.file.src_uri == "reference.md":
        markdown += "".join(f"\n::: fastseg.{name}\n" for name in fastseg.__all__)
    return OUTSIDE.sub(lambda link: link[1] + _uri(link[2]), markdown)


def _uri(name: str) -> str:
    # Sources are shown as text; a page of Markdown has links of its own, which would not resolve from here.
    return name if Path(name).suffix in (".json", ".svg", ".png", ".jpg") else f"{name}.txt"


def _content(name: str) -> bytes:
    return (ROOT / name).read_bytes()
