"""Which files are meant, and of which split they are, where a person says more than the layout does."""

import hashlib
import re
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from fastseg.errors import UserError
from fastseg.labels import IGNORE
from fastseg.packing.guess_classes import guess_classes
from fastseg.packing.sources import DataSet, FindOptions, find_masks, open_source
from fastseg.packing.sources.words import read_path
from layouts import LAYOUTS, Layout, write_folder_dataset

ANY = "images and masks by their names"


def write(folder: Path, *pairs: tuple[str, str], split: str = "train") -> Path:
    """Write pairs of an image and its mask, by their paths."""
    return Layout(ANY, tuple((split, image, mask) for image, mask in pairs)).write(folder)


def write_videos(folder: Path) -> Path:
    """Write 5 videos of 8 frames in 2 folders."""
    stems = [f"{'day' if video % 2 else 'night'}/cam{video}_{frame:04d}" for video in range(5) for frame in range(8)]
    return write(folder, *((f"images/{stem}.png", f"masks/{stem}.png") for stem in stems))


def of_split(found: DataSet, split: str) -> set[str]:
    return {sample.name.partition("/")[2].removesuffix(".png") for sample in found.samples if sample.split == split}


def test_files_by_hand(tmp_path: Path) -> None:
    write(
        tmp_path,
        ("footage/one/1 [a].jpg", "drawn/one/1 [a]_done.png"),
        ("footage/one/2.JPG", "drawn/one/2_done.png"),
        ("footage/two/1 [a].jpg", "drawn/two/1 [a]_done.png"),
    )
    for images, masks in (
        ("footage/**/{stem}.jpg", "drawn/**/{stem}_done.png"),
        ("footage/**/*.jpg", f"{tmp_path}/drawn/**/*_done.*"),
        ("./footage/**.jpg", "drawn/**_done.png"),
    ):
        found = open_source(tmp_path, options=FindOptions(images, masks))
        assert found.summary() == "by hand: 3 train"
        assert [sample.key for sample in found.samples] == ["one_1-a", "one_2", "two_1-a"]
        for sample in found.samples:
            assert str(sample.mask) == str(sample.image).replace("footage", "drawn")[:-4] + "_done.png"
    assert len(guess_classes(find_masks(tmp_path, FindOptions("footage/**/*.jpg", "drawn/**/*.png"))).pixels) == 4


def test_splits_by_hand(tmp_path: Path) -> None:
    write(tmp_path, ("a/Training/1.jpg", "drawn/1.png"), ("a/validation/2.jpg", "drawn/2.png"))
    found = open_source(tmp_path, options=FindOptions("a/{split}/{stem}.jpg", "drawn/{stem}.png"))
    assert [(sample.split, sample.key, str(sample.mask)) for sample in found.samples] == [
        ("train", "1", f"{tmp_path}/drawn/1.png"),
        ("val", "2", f"{tmp_path}/drawn/2.png"),
    ]
    found = open_source(tmp_path, options=FindOptions("**/{stem}.jpg", "drawn/{stem}.png"))
    assert found.summary() == "by hand: 2 train"


@pytest.mark.parametrize(
    ("images", "masks", "sentence"),
    [
        ("a/{stem}.jpg", None, "--images is given without --masks; say where both lie"),
        (None, "a/{stem}.jpg", "--masks is given without --images; say where both lie"),
        ("a/{name}.jpg", "b/*.png", "--images has {name}; it takes {stem}, {split}, *, ** and ?"),
        ("/a/{stem}.jpg", "b/*.png", "--images is '/a/{stem}.jpg', outside of"),
        ("a/1.jpg", "b/*.png", "--images is 'a/1.jpg'; it needs {stem}, what an image and its mask share, or a *"),
        ("train/images/{stem}.*", "b/*.png", "--masks is 'b/{stem}.png', which no image file below"),
    ],
)
def test_patterns_that_find_nothing_are_refused(
    images: str | None, masks: str | None, sentence: str, tmp_path: Path
) -> None:
    write_folder_dataset(tmp_path)
    with pytest.raises(UserError, match=re.escape(sentence)):
        open_source(tmp_path, options=FindOptions(images, masks))


def test_a_suffix_tells_which_masks_are_meant(tmp_path: Path) -> None:
    write(tmp_path, *((f"pics/{s}.png", f"gt/{s}_{kind}.png") for s in "ab" for kind in ("labelIds", "color")))
    assert [sample.mask and sample.mask.filename for sample in open_source(tmp_path).samples] == [
        "a_labelIds.png",
        "b_labelIds.png",
    ]
    found = open_source(tmp_path, options=FindOptions(mask_suffix="_color"))
    assert [sample.mask and sample.mask.filename for sample in found.samples] == ["a_color.png", "b_color.png"]
    assert found.skipped == tuple((f"gt/{s}_labelIds.png", "does not end with _color") for s in "ab")
    with pytest.raises(UserError, match="--mask-suffix does not go with --masks"):
        FindOptions("*", "*", "_color")


def test_lists_say_the_splits(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", *((f"images/d/{s} x.png", f"masks/d/{s} x.png") for s in "abcde"))
    for name, lines in {
        "train": "a x\n\nb x.png 1 0\n",
        "val": "/some/root/images/d/c x.png /some/root/masks/d/c x.png\n",
        "test": "images/d/d x.png\n",
    }.items():
        (tmp_path / name).write_text(lines)
    lists = tuple(f"{name}={tmp_path / name}" for name in ("train", "val", "test"))
    found = open_source(folder, options=FindOptions(split_file=lists[:2]))
    assert {split: of_split(found, split) for split in ("train", "val")} == {
        "train": {"d/a x", "d/b x"},
        "val": {"d/c x"},
    }
    assert found.skipped == tuple((f"images/d/{s} x.png", "no --split-file names it") for s in "de")
    found = open_source(folder, options=FindOptions(split_file=lists[2:]))
    assert (of_split(found, "train"), of_split(found, "test")) == ({f"d/{s} x" for s in "abce"}, {"d/d x"})
    (tmp_path / "wrong").write_text("a x\nnobody\nno one\n")
    for entry, sentence in (
        (f"val={tmp_path}/wrong", r"wrong names 'nobody' \(and 1 more\), which is no image of the set; mend the list"),
        (f"valley={tmp_path}/wrong", "--split-file is 'valley=.*; it must be train, val, test and a list: val=val.txt"),
        (f"val={tmp_path}/gone", "gone cannot be read"),
    ):
        with pytest.raises(UserError, match=sentence):
            open_source(folder, options=FindOptions(split_file=(entry,)))
    twice = FindOptions(split_file=(lists[0], f"val={tmp_path}/wrong"))
    with pytest.raises(UserError, match="wrong names d/a x, which another --split-file puts into train"):
        open_source(folder, options=twice, skip_bad=True)


def test_a_line_that_names_several_images_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", *((f"images/{d}/a.png", f"masks/{d}/a.png") for d in "xz"))
    (tmp_path / "val").write_text("a\n")
    with pytest.raises(UserError, match="names 'a', which 2 images are called; write their folders, too"):
        open_source(folder, options=FindOptions(split_file=(f"val={tmp_path}/val",)))
    (tmp_path / "val").write_text("z/a\n")
    found = open_source(folder, options=FindOptions(split_file=(f"val={tmp_path}/val",)))
    assert of_split(found, "val") == {"z/a"}


def test_a_fraction_becomes_val_whatever_the_order(tmp_path: Path) -> None:
    folder = write_videos(tmp_path)
    found = open_source(folder, options=FindOptions(val_fraction=0.25))
    stems = of_split(found, "train") | of_split(found, "val")
    order = sorted(stems, key=lambda stem: hashlib.sha256(f"0/{stem}".encode()).digest())
    assert of_split(found, "val") == set(order[:10])
    assert of_split(open_source(folder, options=FindOptions(val_fraction=0.25, split_seed=1)), "val") != set(order[:10])
    for by, groups in (("folder", {"day": 16, "night": 24}), ("video", {f"cam{i}": 8 for i in range(5)})):
        val = of_split(open_source(folder, options=FindOptions(val_fraction=0.25, split_by=by)), "val")  # type: ignore[arg-type]
        counts = Counter(stem.split("/")[0] if by == "folder" else stem.split("/")[1].split("_")[0] for stem in val)
        assert counts.items() <= groups.items()
        assert len(counts) == (1 if by == "folder" else 2)


def test_fractions_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    folder = write_folder_dataset(tmp_path)
    for fraction in (0, 1, -1, 2.5):
        with pytest.raises(UserError, match=f"--val-fraction is {fraction:g}; it must be between 0 and 1"):
            FindOptions(val_fraction=fraction)
    with pytest.raises(UserError, match="--val-fraction makes a val split, but there is one already"):
        open_source(folder, options=FindOptions(val_fraction=0.5))
    flat = write(tmp_path / "flat", *((f"images/{n}.png", f"masks/{n}.png") for n in (1, 2, 3)))
    with pytest.raises(UserError, match="all files of train are of one video; choose another --split-by"):
        open_source(flat, options=FindOptions(val_fraction=0.5, split_by="video"))


def test_files_of_no_split_beside_others_are_refused(tmp_path: Path) -> None:
    write_folder_dataset(tmp_path)
    write(tmp_path, ("images/a.png", "masks/a.png"))
    with pytest.raises(
        UserError, match=r"12 files lie in folders of splits, such as \S+, and 2 do not, such as images/a"
    ):
        open_source(tmp_path)


def test_reduce_zero_label_shifts_the_values(tmp_path: Path) -> None:
    folder = write_folder_dataset(tmp_path)
    table = open_source(folder, options=FindOptions(reduce_zero_label=True)).table
    assert table.train_ids == {0: IGNORE, 1: 0, 2: 1, 5: 2, 10: IGNORE, 255: IGNORE}
    with pytest.raises(UserError, match="--reduce-zero-label does not go with the classes of ade20k, which ignores 0"):
        open_source(folder, Path("ade20k"), options=FindOptions(reduce_zero_label=True))


def test_classes_by_name_or_file(tmp_path: Path) -> None:
    folder = write_folder_dataset(tmp_path)
    assert open_source(folder, Path("voc")).table.classes[7].name == "car"
    assert open_source(folder, folder / "classes.json").table.name == "shapes"
    (folder / "classes.json").unlink()
    with pytest.raises(UserError, match=r"classes\.json does not exist; .* --classes ade20k, "):
        open_source(folder)


def test_a_tar_in_a_full_folder_is_its_own_set(tmp_path: Path) -> None:
    voc = LAYOUTS["voc"].write(tmp_path / "voc")
    for year in (2007, 2012):
        with tarfile.open(tmp_path / f"VOCtrainval_{year}.tar", "w") as archive:
            archive.add(voc, f"VOCdevkit/VOC{year}")
    found = open_source(tmp_path / "VOCtrainval_2012.tar")
    assert found.summary() == "PASCAL VOC, tar: 2 train, 1 val, 1 test"
    (tmp_path / "VOCdevkit").mkdir()
    for year in (2007, 2012):
        (tmp_path / "VOCdevkit" / f"VOC{year}").symlink_to(LAYOUTS["voc"].write(tmp_path / f"voc{year}"))
    with pytest.raises(UserError, match="VOCdevkit holds several sets, VOC2007/ and VOC2012/; name the folder of one"):
        open_source(tmp_path / "VOCdevkit")


def test_camvid_of_colors_asks_which_table(tmp_path: Path) -> None:
    names = ("0001TP_006690", "Seq05VD_f00000")
    write(tmp_path, *((f"701_StillsRaw_full/{n}.png", f"LabeledApproved_full/{n}_L.png") for n in names))
    (tmp_path / "classes.json").unlink()
    for path in (tmp_path / "LabeledApproved_full").iterdir():
        Image.open(path).convert("RGB").save(path)
    with pytest.raises(UserError, match=r"is CamVid with masks of colors.*--classes camvid or --classes camvid32"):
        open_source(tmp_path)
    found = open_source(tmp_path, Path("camvid32"), options=FindOptions(val_fraction=0.5, split_by="video"))
    assert found.summary() == "CamVid: 1 train, 1 val"


def test_voc_names_what_its_lists_do_not_agree_with(tmp_path: Path) -> None:
    folder = LAYOUTS["voc"].write(tmp_path)
    found = open_source(folder)
    assert found.skipped == (("JPEGImages/2008_000009.jpg", "no list in ImageSets/Segmentation names it"),)
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text("2007_000002\n2007_000777\n")
    with pytest.raises(
        UserError, match=r"JPEGImages/2007_000777: a list in ImageSets/Segmentation names it, but it is not"
    ):
        open_source(folder)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("train/images/a.b.png", ("image", "train", "a.b")),
        ("SegmentationClass/a.png", ("mask", None, "a")),
        ("Data/TrainVal/City A/car_masks/1.png", ("mask", "train", "Data/City A/car/1")),
        ("trn/JPEGImages/y/1.jpg", ("image", "train", "y/1")),
        ("validationlabels/1.png", ("mask", "val", "1")),
        ("images_2024/testing/1.png", ("image", "test", "2024/1")),
        ("segmentation data/tile 1/images/1.jpg", ("image", None, "tile 1/1")),
        ("maskara/trainer/1.png", (None, None, "maskara/trainer/1")),
    ],
)
def test_words_in_paths(path: str, said: tuple[str | None, str | None, str]) -> None:
    assert read_path(path) == said


def test_lists_that_nothing_reads_are_named(tmp_path: Path) -> None:
    """Oxford-IIIT Pet's layout: its lists have a flag, and follow it."""
    stems = [f"Abyssinian_{number}" for number in range(6)]
    write(tmp_path, *((f"images/{stem}.jpg", f"annotations/trimaps/{stem}.png") for stem in stems))
    lists = {"train": tmp_path / "annotations" / "trainval.txt", "val": tmp_path / "annotations" / "test.txt"}
    lists["train"].write_text("".join(f"{stem} 1 1 1\n" for stem in stems[:4]))
    lists["val"].write_text("".join(f"{stem} 1 1 1\n" for stem in stems[4:]))
    flags = [f"{split}={path}" for split, path in lists.items()]
    assert open_source(tmp_path).warnings() == [
        f"the set has lists that may tell its splits: --split-file {flags[0]} --split-file {flags[1]}"
    ]
    found = open_source(tmp_path, options=FindOptions(split_file=tuple(flags)))
    assert found.warnings() == []
    assert found.summary().endswith(": 4 train, 2 val")


def test_frames_of_cvat_without_a_subset_are_train(tmp_path: Path) -> None:
    folder = LAYOUTS["voc of CVAT"].write(tmp_path)
    lists = folder / "ImageSets" / "Segmentation"
    (lists / "Train.txt").rename(lists / "default.txt")
    assert open_source(folder).summary() == "PASCAL VOC: 2 train, 1 val"
    (lists / "Validation.txt").unlink()
    assert open_source(folder).summary() == "PASCAL VOC: 3 train"
