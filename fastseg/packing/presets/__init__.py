"""Class tables of public data sets for ``--classes NAME``, each a classes.json."""

from pathlib import Path

from fastseg.errors import UserError, shown

FOLDER = Path(__file__).parent

PRESETS: tuple[str, ...] = tuple(sorted(path.stem for path in FOLDER.glob("*.json")))
"""Names that ``--classes`` accepts; a file NAME.json added to this folder becomes another one."""


def preset_path(name: str) -> Path:
    """Return the path of a preset's classes.json; raise :class:`UserError` for a name that is not in PRESETS."""
    if name not in PRESETS:
        raise UserError(f"--classes names the preset {shown(name)}, which is none of {', '.join(PRESETS)}")
    return FOLDER / f"{name}.json"
