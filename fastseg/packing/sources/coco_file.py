"""JSON files in COCO's format: images, categories and annotations, and the paths of the images."""

import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, TypeGuard

from fastseg.errors import UserError, shown
from fastseg.labels import MAX_CLASSES
from fastseg.packing.sources.annotations import (
    find_member,
    find_split,
    image_bases,
    join,
    path_tails,
    read_json,
    stem_of,
)
from fastseg.packing.sources.tree import Found, Member, Tree
from fastseg.packing.sources.words import SPLIT_WORDS

ARCHIVES = ("train2017.zip", "val2017.zip", "annotations_trainval2017.zip")
"""Archives of COCO's own download."""
MAX_DEPTH = 3
"""Maximum number of folders above a COCO JSON; deeper ones belong to single images."""
HEAD = 4096
"""Number of bytes by which a JSON is recognized."""
_COCO = re.compile(rb'"(?:images|annotations|categories|licenses|info)"\s*:\s*[\[{]')
_OTHERS = re.compile(rb'"(?:shapes|imagePath|imageData|regions|_via_\w+|completed_by)"\s*:')
"""Keys of labelme, VIA and Label Studio."""
_KEPT = ("id", "category_id", "segmentation", "segments_info", "file_name")


@dataclass(frozen=True)
class Picture:
    """An image that a COCO JSON lists."""

    id: Any
    """A number or a text, as the JSON has it."""
    file_name: str
    height: Any
    width: Any


@dataclass(frozen=True)
class Document:
    """Content of a COCO JSON that masks need."""

    categories: dict[int, dict[str, Any]]
    pictures: tuple[Picture, ...]
    annotations: dict[str, bytes]
    """Pickled annotations by image id (:func:`_id_text`): a sixth of the memory."""
    used: frozenset[int]
    """Categories that occur in annotations."""
    drawn: bool = True
    """Whether any annotation has an outline or runs, and not only a box."""
    orphans: int = 0
    """Number of annotations of images that the JSON does not list; they are left out, as pycocotools does."""

    def shapes_of(self, picture: Picture) -> bytes:
        """Return the pickled annotations of an image; empty if it has none."""
        return self.annotations.get(_id_text(picture.id), b"")


@dataclass(frozen=True)
class ImageShapes:
    """Annotations of one image, shared by both kinds of masks."""

    file: Member
    """The JSON file."""
    picture: Picture
    image: Member
    annotations: bytes
    """Pickled list of dictionaries."""
    values: Mapping[int, int]
    """Value of each category."""

    def __str__(self) -> str:
        return f"{self.file}, image {shown(self.picture.id)} ({self.image.filename})"

    @property
    def filename(self) -> str:
        """Name of the JSON."""
        return self.file.filename

    @property
    def size(self) -> int:
        """Size of the annotations in bytes."""
        return len(self.annotations)

    @property
    def stamp(self) -> int:
        """Stamp of the JSON."""
        return self.file.stamp

    def load(self) -> list[dict[str, Any]]:
        """Return the annotations, unpickled."""
        return pickle.loads(self.annotations) if self.annotations else []

    def value(self, entry: Mapping[str, Any], where: str) -> int:
        """Return the value of an annotation's category.

        Raises :class:`UserError`, which names ``where``, for a category that the JSON does not list.
        """
        category = entry.get("category_id")
        if not isinstance(category, int) or category not in self.values:
            raise UserError(
                f'{where} has the category_id {shown(category)}, which is none of "categories"; add the category or '
                "remove the annotation"
            )
        return self.values[category]


def coco_files(tree: Tree) -> list[str]:
    """Return the JSON files that begin as COCO's do."""
    names = [name for name in tree.ending(".json") if name.count("/") <= MAX_DEPTH]
    heads = ((name, tree[name].head(HEAD)) for name in names)
    return [
        name
        for name, head in heads
        if _COCO.search(head) and not _OTHERS.search(head) and (len(head) == HEAD or b'"images"' in head)
    ]


def is_panoptic(name: str) -> bool:
    """Return whether the name of a JSON file marks a panoptic set."""
    return "panoptic" in PurePosixPath(name).name.lower()


@lru_cache(maxsize=8)
def read_coco(file: Member) -> Document:
    """Read a JSON once per process: COCO's own has 450 MB."""
    document = read_json(file)
    lists: list[Any] = [document.get(key) for key in ("categories", "images")] if isinstance(document, dict) else []
    if not lists or not all(isinstance(e, list) and all(isinstance(x, dict) for x in e) for e in lists):
        raise UserError(f'{file} needs an object with lists of objects, "categories" and "images"; export it again')
    pictures = _parse_pictures(lists[1], file)
    entries = document.get("annotations", [])
    annotations, used, orphans = _parse_annotations(entries, pictures, file)
    drawn = any(entry.get("segmentation") for entry in entries)
    return Document(_parse_categories(lists[0], file), tuple(pictures.values()), annotations, used, drawn, orphans)


def _parse_categories(entries: list[dict[str, Any]], file: Member) -> dict[int, dict[str, Any]]:
    categories: dict[int, dict[str, Any]] = {}
    for entry in entries:
        number, name = entry.get("id"), entry.get("name")
        if type(number) is not int or not is_text(name):
            raise UserError(
                f"{file} has the category {shown(entry)}; each needs a whole number as its id and a name: add them"
            )
        if number in categories:
            raise UserError(f"{file} has the category id {shown(number)} twice; give each category its own")
        categories[number] = {**{key: entry.get(key) for key in ("supercategory", "color")}, "name": name.strip()}
    return categories


def _id_text(value: Any) -> str:
    """Return the id of an image as text, since tools write 12, 12.0 and "12" for one; empty for anything else."""
    if type(value) is int or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    return value.strip() if isinstance(value, str) else ""


def _parse_pictures(entries: list[dict[str, Any]], file: Member) -> dict[str, Picture]:
    pictures: dict[str, Picture] = {}
    for entry in entries:
        number, name = entry.get("id"), entry.get("file_name")
        if not (key := _id_text(number)) or not is_text(name):
            raise UserError(f"{file} has the image {shown(entry)}; each needs an id and a file_name: add them")
        if key in pictures:
            raise UserError(f"{file} has the image id {shown(number)} twice; give each image its own")
        pictures[key] = Picture(number, name, entry.get("height"), entry.get("width"))
    return pictures


def _parse_annotations(
    entries: Any, pictures: Mapping[str, Picture], file: Member
) -> tuple[dict[str, bytes], frozenset[int], int]:
    """Return the pickled annotations of each image, the categories in them, and the number of other annotations."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f'{file} has "annotations" that are no list of objects; export it again')
    grouped: dict[str, list[dict[str, Any]]] = {}
    orphans, used = list[Any](), set()
    for entry in entries:
        number = entry.get("image_id")
        if (image := _id_text(number)) in pictures:
            grouped.setdefault(image, []).append({key: entry[key] for key in _KEPT if key in entry})
            used |= {category} if type(category := entry.get("category_id")) is int else set()
        else:
            orphans.append(number)
    if orphans and not grouped:
        raise UserError(
            f"{file} has only annotations of images that it does not list, such as image_id {shown(orphans[0])}; "
            "export it again"
        )
    try:
        return {image: pickle.dumps(entries) for image, entries in grouped.items()}, frozenset(used), len(orphans)
    except RecursionError:
        raise UserError(f"{file} has annotations nested too deep; export it again") from None


def merge_categories(documents: Sequence[Document]) -> dict[int, dict[str, Any]]:
    """Return the categories of all files in the order of their ids."""
    categories: dict[int, dict[str, Any]] = {}
    for document in documents:
        for number, entry in document.categories.items():
            if (known := categories.setdefault(number, entry))["name"] != entry["name"]:
                raise UserError(
                    f"the JSON files call the category {number} {shown(known['name'])} and {shown(entry['name'])}; it "
                    "must have one name in all: export the splits together"
                )
    if not categories:
        raise UserError("the JSON files list no categories; export them with their classes")
    return dict(sorted(categories.items()))


def refuse_many(classes: int) -> None:
    """Raise :class:`UserError` if there are more classes than a mask can hold."""
    if classes > MAX_CLASSES:
        raise UserError(
            f"the JSON files have {classes:,} classes, the background among them; a mask holds {MAX_CLASSES}: merge or "
            "remove categories"
        )


def find_images(tree: Tree, name: str, document: Document) -> tuple[list[tuple[Picture, Found]], list[tuple[str, str]]]:
    """Return the images that the JSON ``name`` lists, and the missing ones with the reason.

    If no image is where its ``file_name`` says, as for absolute paths, URLs and paths of another machine, the images
    are found by the last parts of their paths. Raises :class:`UserError` if none exists.
    """
    found, missing = _find_images(tree, name, document, lambda file_name: [file_name])
    if not found:
        found, without = _find_images(tree, name, document, path_tails)
        still = {where for where, _ in without}
        missing = [entry for entry in missing if entry[0] in still]
    if missing and not found:
        raise UserError(
            f"none of the {len(missing)} images that {tree[name]} lists is there, such as {missing[0][0]}: "
            f"{missing[0][1]}; put them beside the JSON or into {tree.root / 'images'}"
        )
    return found, missing


def _find_images(
    tree: Tree, name: str, document: Document, forms: Callable[[str], Sequence[str]]
) -> tuple[list[tuple[Picture, Found]], list[tuple[str, str]]]:
    """Find images by the forms of their file_name, of which those before others are preferred."""
    of_file, file = find_split(name), tree[name]
    subset = PurePosixPath(name).stem.rpartition("_")[2]
    spelled = [word for word, split in SPLIT_WORDS.items() if split == of_file]
    bases = image_bases(name, dict.fromkeys((subset, subset.lower(), *spelled)))
    found, missing = list[tuple[Picture, Found]](), list[tuple[str, str]]()
    for picture in document.pictures:
        places = ((base, join(base, form)) for form in forms(picture.file_name) for base in bases)
        base, place = next(((base, place) for base, place in places if find_member(tree, place)), ("", None))
        if place is None:
            inside = any(join(base, picture.file_name) for base in bases)
            reason = "the image is not there" if inside else "file_name is no path inside the data set"
            missing.append((f"{file}, image {shown(picture.id)} ({shown(picture.file_name)})", reason))
            continue
        if base != bases[0]:
            bases = [base, *(other for other in bases if other != base)]
        within = place.removeprefix(f"{base}/")
        split = of_file or find_split(str(PurePosixPath(within).parent))
        found.append((picture, Found(split, stem_of(within), tree[place], place)))
    return found, missing


def orphans(file: Member, document: Document) -> list[tuple[str, str]]:
    """Return the file with the number of its annotations that are left out; nothing if there are none."""
    reason = f"has {document.orphans:,} annotations of images that it does not list"
    return [(str(file), reason)] if document.orphans else []


def is_text(value: Any) -> TypeGuard[str]:
    """Return whether a value is a string that is not blank."""
    return isinstance(value, str) and bool(value.strip())
