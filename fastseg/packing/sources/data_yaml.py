"""The data.yaml of a set in Ultralytics' format: the names of the classes, and the images of each split."""

from collections import Counter
from dataclasses import replace
from functools import lru_cache
from pathlib import PurePosixPath
from posixpath import normpath
from typing import Any

from fastseg.errors import UserError, one_line, shown
from fastseg.labels import IGNORE, LabelTable
from fastseg.packing.sources.annotations import (
    BACKGROUND,
    class_table,
    find_member,
    is_absolute,
    join,
    path_tails,
    stem_of,
)
from fastseg.packing.sources.tree import Found, Member, Tree
from fastseg.packing.sources.words import SPLIT_WORDS, without_ending

MAX_YAML = 1 << 20
"""Maximum size of a data.yaml in bytes; a thousand class names take 20 kB."""
NOTHING = ("", "~", "null", "Null", "NULL")
"""What YAML reads as no value."""
MASKS = "masks"
"""Folder of masks if the YAML names none."""

Config = tuple[Member, dict[str, Any]]
"""A YAML file and its content, with every scalar as text."""


def find_yaml(tree: Tree) -> Config | None:
    """Return the YAML that names classes and splits, and lies beside the folders of a set; data.yaml before others."""
    names = [name for name in tree.ending(".yaml", ".yml") if "/" not in name]
    for file in map(tree.__getitem__, sorted(names, key=lambda name: PurePosixPath(name).stem != "data")):
        config = _load_yaml(file)
        if isinstance(config, dict) and {"names", "nc"} & config.keys() and {"train", "val"} & config.keys():
            return file, config
    return None


@lru_cache(maxsize=8)
def _load_yaml(file: Member) -> Any:
    """Return the content of a YAML with every scalar as text ("no" can be a class).

    Raises :class:`UserError` for a damaged data.yaml; other damaged files return None.
    """
    import yaml

    try:
        return yaml.load(file.read(), yaml.BaseLoader) if file.size <= MAX_YAML else None
    except Exception as error:  # PyYAML also raises TypeError, ValueError, RecursionError …
        if PurePosixPath(file.filename).stem != "data":
            return None
        raise UserError(f"{file} is not a readable YAML file ({one_line(str(error))}); mend it") from None


def parse_names(file: Member, config: dict[str, Any]) -> list[str]:
    """Return the names of the classes in order; raise :class:`UserError` if they are no names, or not ``nc`` many."""
    names, count = config.get("names"), str(config.get("nc", "")).strip()
    if isinstance(names, dict) and all(isinstance(key, str) and key.strip().isdecimal() for key in names):
        numbered = {int(key): name for key, name in names.items()}
        names = [numbered.get(number) for number in range(len(numbered))]
    if names is None and count.isdecimal() and len(count) < 4:
        names = [f"class {number}" for number in range(int(count))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise UserError(
            f"{file} has the names {shown(config.get('names'))}; write a list of them, or numbers from 0 with a name "
            "each"
        )
    if count.isdecimal() and count.lstrip("0") != str(len(names)):
        raise UserError(f"{file} says nc: {shown(count)}, but names {len(names)} classes; mend whichever is wrong")
    return [name.strip() for name in names]


def mask_classes(tree: Tree, file: Member, config: dict[str, Any]) -> LabelTable:
    """Return the classes of masks whose values count the names from 0, after ``label_mapping``; 255 is ignored.

    A single name is that of value 1, and 0 is background. Raises :class:`UserError` for a name that stands twice, and
    for a ``label_mapping`` to a class without a name.
    """
    names = parse_names(file, config)
    names = [BACKGROUND, *names] if len(names) == 1 else names
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"{file} names {shown(repeated[0])} twice; every class needs a name of its own")
    mapping = _parse_mapping(file, config, len(names))
    ids = {value: mapping.get(value, value) for value in range(256)}
    known = {value: train_id for value, train_id in ids.items() if train_id in (*range(len(names)), IGNORE)}
    return replace(class_table(tree, names, str(file)), train_ids=known)


def _parse_mapping(file: Member, config: dict[str, Any], classes: int) -> dict[int, int]:
    """Return the train id of each value of ``label_mapping``."""
    mapping = config.get("label_mapping")
    if mapping is None or mapping in NOTHING:
        return {}
    try:
        pairs = {int(key): IGNORE if name in ("ignore_label", *NOTHING) else int(name) for key, name in mapping.items()}
    except (AttributeError, TypeError, ValueError):
        raise UserError(
            f"{file} has the label_mapping {shown(mapping)}; write a value of the masks, and its class or "
            "ignore_label, in each line"
        ) from None
    if wrong := [(value, train_id) for value, train_id in pairs.items() if train_id not in (*range(classes), IGNORE)]:
        raise UserError(
            f"{file} maps the value {wrong[0][0]} to the class {wrong[0][1]}, but names {classes} classes; name it "
            "there, or map it to ignore_label"
        )
    return pairs


def list_images(tree: Tree, file: Member, config: dict[str, Any]) -> tuple[list[Found], list[tuple[str, str]]]:
    """Return the images of all splits, and the entries of splits that are not there, each with the reason.

    Raises :class:`UserError` if none is there, or a list names images that are not.
    """
    images, absent = list[Found](), list[tuple[str, str]]()
    for word, split in SPLIT_WORDS.items():
        for entry in _as_list(config[word] if config.get(word) else []):
            found = _list_images(tree, config, entry)
            images += [Found(split, stem, tree[name], name) for stem, name in found]
            absent += [] if found else [(f"{shown(entry)} ({split})", f"{file} names it, but it is not there")]
    if not images:
        entry = next((config[word] for word in SPLIT_WORDS if config.get(word)), None)
        raise UserError(
            f"{file} names the images {shown(entry)}, which are not inside {tree.root}; write a path relative to "
            "data.yaml"
        )
    return images, absent


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _list_images(tree: Tree, config: dict[str, Any], entry: Any) -> list[tuple[str, str]]:
    """Return stem and name of each image in a folder, or in a text file of names; nothing if there is neither."""
    for place in _places(config.get("path"), entry):
        if place.endswith(".txt") and (listed := find_member(tree, place)):
            return [(stem_of(PurePosixPath(name).name), name) for name in _read_list(tree, listed, place, config)]
        below = "" if place == "." else f"{place}/"
        if images := [name for name in tree.images if name.startswith(below)]:
            return [(stem_of(name.removeprefix(below)), name) for name in images]
    return []


def _places(path: Any, entry: Any) -> list[str]:
    """Return the candidates for a path of the YAML in the tree; of an absolute path, its last parts."""
    if not isinstance(entry, str) or "\0" in entry:
        return []
    slashes = entry.strip().replace("\\", "/")
    if is_absolute(slashes):
        parts = [part for part in slashes.split("/") if part][1:]
        return ["/".join(parts[start:]) for start in range(len(parts)) if ".." not in parts]
    base = path.strip() if isinstance(path, str) and not is_absolute(path.strip()) else ""
    inside = normpath(slashes)
    while inside.startswith("../"):  # Roboflow writes ../train/images for train/images
        inside = inside[3:]
    return list(dict.fromkeys(place for place in (join(base, slashes), join("", slashes), join("", inside)) if place))


def _read_list(tree: Tree, listed: Member, place: str, config: dict[str, Any]) -> list[str]:
    """Return the images that a text file lists, relative to itself (./) or to the data set."""
    names, missing = list[str](), list[str]()
    folder = str(PurePosixPath(place).parent).removeprefix(".")
    for line in listed.read().decode("utf-8-sig", "replace").splitlines():
        if line.strip():
            candidates = [*_places(config.get("path"), line), *_places(folder, line), *path_tails(line.strip())]
            found = next((name for name in candidates if find_member(tree, name)), None)
            (names if found else missing).append(found or line.strip())
    if missing:
        raise UserError(
            f"{listed} names {len(missing)} images that are not inside {tree.root}, such as {shown(missing[0])}; write "
            "paths relative to data.yaml, or remove them"
        )
    return [*dict.fromkeys(names)]


def label_name(image: str) -> str:
    """Return the text file of an image: the last folder ``images`` of its path is replaced by ``labels``."""
    head, images, tail = f"/{image}".rpartition("/images/")
    return (
        f"{head}/labels/{tail}".strip("/").rpartition(".")[0] + ".txt" if images else f"{image.rpartition('.')[0]}.txt"
    )


def mask_stem(image: str, config: dict[str, Any]) -> str | None:
    """Return the mask of an image without its ending: the last folder ``images`` is replaced by ``masks_dir``.

    None if the image lies in no such folder, or the mask outside of the set.
    """
    head, images, tail = f"/{image}".rpartition("/images/")
    return join(head.strip("/"), f"{masks_dir(config) or MASKS}/{without_ending(tail)}") if images else None


def names_masks(tree: Tree, config: dict[str, Any]) -> bool:
    """Return whether the names of a YAML are those of masks, and not of text files of shapes or boxes."""
    texts = {*tree.ending(".txt")}
    return masks_dir(config) is not None or not any(label_name(name) in texts for name in tree.images)


def masks_dir(config: dict[str, Any]) -> str | None:
    """Return the folder of masks that a YAML names; None if it names none."""
    folder = config.get("masks_dir")
    return folder.strip() if isinstance(folder, str) and folder.strip() not in NOTHING else None
