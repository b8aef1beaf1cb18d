"""Output files of an inspection, and the check whether existing files may be replaced; does not import torch."""

from pathlib import Path

from fastseg.errors import UserError

SHEET, PAGE = "contact_sheet.png", "index.html"
MARK = "– fastseg-inspect</title>"
"""Text in every page that an inspection writes."""


def check_replaceable(folder: Path, overwrite: bool) -> None:
    """Raise :class:`UserError` for files that are not an earlier inspection's, unless ``overwrite``."""
    found = [name for name in (PAGE, SHEET) if (folder / name).exists()]
    if found and not overwrite and not _is_inspection(folder / PAGE):
        raise UserError(
            f"{folder / found[0]} exists, and no inspection wrote it; name another --out or add --overwrite"
        )


def _is_inspection(page: Path) -> bool:
    return page.is_file() and MARK in page.read_text(encoding="utf-8", errors="replace")
