"""Sources: what is found in each layout, and every refusal by its sentence."""

import errno
import gzip
import hashlib
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from fastseg.errors import UserError
from fastseg.packing.sources import FindOptions, open_source, tree
from fastseg.packing.sources.samples import Sample, make_keys
from fastseg.packing.sources.tree import Member
from layouts import noise, write_cityscapes, write_folder_dataset, write_pair, zip_cityscapes


def contents(sample: Sample) -> tuple[object, ...]:
    assert sample.mask
    return sample.key, sample.split, sample.image.read(), sample.mask.decode().image.tobytes()


def write_tar(folder: Path) -> Path:
    with tarfile.open(folder.with_suffix(".tar"), "w") as archive:
        archive.add(folder, ".")
    return folder.with_suffix(".tar")


def test_zips_and_folders_hold_the_same_samples(tmp_path: Path) -> None:
    folder = write_cityscapes(tmp_path / "folder", train=3, val=2, test=1)
    zips = zip_cityscapes(folder, tmp_path / "zips")
    from_folder, from_zips = open_source(folder), open_source(zips)
    assert [(s.key, s.split) for s in from_folder.samples] == [
        ("aachen_000000_000019", "train"),
        ("aachen_000001_000019", "train"),
        ("aachen_000002_000019", "train"),
        ("lindau_000000_000019", "val"),
        ("lindau_000001_000019", "val"),
        ("berlin_000000_000019", "test"),
    ]
    for one, other in zip(from_folder.samples, from_zips.samples, strict=True):
        assert (one.key, one.split) == (other.key, other.split)
        assert one.image.read() == other.image.read()
        assert (one.mask is None) == (other.mask is None) == (one.split == "test")
        assert one.mask is None or other.mask is None or one.mask.read() == other.mask.read()
    assert from_folder.table.name == "cityscapes"
    assert pickle.loads(pickle.dumps(from_zips.samples)) == from_zips.samples


def test_a_zip_as_the_source_means_its_folder(tmp_path: Path) -> None:
    zips = zip_cityscapes(write_cityscapes(tmp_path / "folder"), tmp_path / "zips")
    assert len(open_source(zips / "leftImg8bit_trainvaltest.zip").samples) == 6


def test_default_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CITYSCAPES_DATASET", raising=False)
    with pytest.raises(UserError, match=rf"no Cityscapes.*{tmp_path}/data; download it with: csDownload -d data left"):
        open_source()
    write_cityscapes(tmp_path / "data", train=1, val=0)
    monkeypatch.setenv("CITYSCAPES_DATASET", str(tmp_path / "elsewhere"))
    assert len(open_source().samples) == 1
    write_cityscapes(tmp_path / "elsewhere", train=3, val=0)
    assert len(open_source().samples) == 3


def test_folder_dataset(tmp_path: Path) -> None:
    write_folder_dataset(tmp_path, train=1, val=1)
    write_pair(tmp_path, "train", "0001TP_006690")
    noise(1, (8, 8)).save(tmp_path / "train" / "images" / ".hidden.png")
    (tmp_path / "train" / "images" / "notes.txt").write_text("no image")
    source = open_source(tmp_path)
    assert [sample.key for sample in source.samples] == ["0001tp_006690", "train_000", "val_000"]
    assert source.table.name == "shapes"
    assert [sample.split for sample in open_source(tmp_path, splits=("val",)).samples] == ["val"]


def test_a_test_split_needs_no_masks_but_may_have_them(tmp_path: Path) -> None:
    write_folder_dataset(tmp_path, train=1, val=0)
    write_pair(tmp_path, "test", "a")
    write_pair(tmp_path, "test", "b")
    assert all(sample.mask for sample in open_source(tmp_path).samples)
    (tmp_path / "test" / "masks" / "a.png").unlink()
    with pytest.raises(
        UserError, match=r"test/images/a\.png: the image has no mask; add it, say which .* or leave the file out"
    ):
        open_source(tmp_path)
    (tmp_path / "test" / "masks" / "b.png").unlink()
    assert [sample.mask for sample in open_source(tmp_path, splits=("test",)).samples] == [None, None]


def test_lonely_files_are_named_all_at_once_or_left_out(tmp_path: Path) -> None:
    write_folder_dataset(tmp_path, train=30)
    for number in range(23):
        (tmp_path / "train" / "masks" / f"train_{number:03d}.png").unlink()
    (tmp_path / "val" / "images" / "val_001.png").unlink()
    (tmp_path / "val" / "masks" / "val_002.npy").touch()
    with pytest.raises(UserError, match=r"25 files belong to no pair of an image and its mask; add .*bad") as e:
        open_source(tmp_path)
    images, mask, other = e.value.details
    assert images.startswith(f"the image has no mask: {tmp_path}/train/images/train_000.png, ")
    assert images.count(".png") == 20
    assert images.endswith("train_019.png and 3 more")
    assert mask == f"the mask has no image: {tmp_path}/val/masks/val_001.png"
    assert other == f"no image or mask can be read from .npy, save it as PNG: {tmp_path}/val/masks/val_002.npy"
    left = open_source(tmp_path, skip_bad=True)
    assert left.summary() == "images and masks by their names: 7 train, 1 val"
    assert len(left.skipped) == 25
    assert left.warnings() == [
        f"25 files are left out: 23: the image has no mask (such as {tmp_path}/train/images/train_000.png); "
        f"1: the mask has no image (such as {tmp_path}/val/masks/val_001.png); "
        f"1: no image or mask can be read from .npy, save it as PNG (such as {tmp_path}/val/masks/val_002.npy)"
    ]


def test_lonely_cityscapes_files_are_refused(tmp_path: Path) -> None:
    folder = write_cityscapes(tmp_path / "folder")
    (folder / "gtFine/val/lindau/lindau_000001_000019_gtFine_labelIds.png").unlink()
    zips = zip_cityscapes(folder, tmp_path / "zips")
    for place in (folder, zips):
        with pytest.raises(UserError, match=r"lindau_000001_000019_leftImg8bit\.png: the image has no mask"):
            open_source(place)


def test_any_name_becomes_a_key_of_its_own(tmp_path: Path) -> None:
    write_folder_dataset(tmp_path, train=1, val=0)
    stems = ["with space", "dot.ted", "Straße Ü", "(1)", "1", "TRAIN_000", "x" * 91, "犬", "猫", "a/b/Ü 2"]
    for stem in stems:
        write_pair(tmp_path, "train", stem)
    samples = open_source(tmp_path).samples
    digest = {stem: hashlib.sha256(stem.encode()).hexdigest()[:8] for stem in stems}
    assert {sample.name.removeprefix("train/images/").removesuffix(".png"): sample.key for sample in samples} == {
        "train_000": "train_000",
        "with space": "with-space",
        "dot.ted": "dot-ted",
        "Straße Ü": "strasse-u",
        "1": "1",
        "(1)": f"1-{digest['(1)']}",
        "TRAIN_000": f"train_000-{digest['TRAIN_000']}",
        "x" * 91: f"{'x' * 81}-{digest['x' * 91]}",
        "犬": f"x-{digest['犬']}",
        "猫": f"x-{digest['猫']}",
        "a/b/Ü 2": "a_b_u-2",
    }
    assert make_keys(reversed(stems)) == make_keys(stems) | {}


def test_files_that_could_be_of_one_sample_are_refused(tmp_path: Path) -> None:
    write_folder_dataset(tmp_path)
    noise(1, (8, 8)).save(tmp_path / "train" / "images" / "train_000.jpg")
    says = (
        r"masks/train_000\.png could be of train/images/train_000\.jpg and of train/images/train_000\.png; say which "
    )
    with pytest.raises(
        UserError, match=says + r"images are meant, such as --images '\{split\}/images/\{stem\}\.jpg' --masks"
    ):
        open_source(tmp_path)
    (tmp_path / "train" / "images" / "train_000.jpg").unlink()
    shutil.copytree(tmp_path / "train" / "masks", tmp_path / "train" / "labels")
    with pytest.raises(UserError, match=r"labels/\S+ and \S+masks/\S+ could both be the mask of .*--masks"):
        open_source(tmp_path)
    chosen = FindOptions("train/images/{stem}.*", "train/masks/{stem}.*")
    assert len(open_source(tmp_path, options=chosen).samples) == 4


def test_a_mask_of_two_images_is_refused(tmp_path: Path) -> None:
    write_folder_dataset(tmp_path, train=0, val=0)
    for name in ("img_1", "photo_1"):
        write_pair(tmp_path, "train", name)
        (tmp_path / "train" / "masks" / f"{name}.png").rename(tmp_path / "train" / "masks" / "mask_1.png")
    with pytest.raises(UserError, match=r"mask_1\.png could be of train/images/img_1\.png and of \S+photo_1\.png; say"):
        open_source(tmp_path)


def test_pictures_beside_the_folders_are_left_out_and_named(tmp_path: Path) -> None:
    write_folder_dataset(tmp_path)
    noise(1, (8, 8)).save(tmp_path / "logo.png")
    found = open_source(tmp_path)
    assert len(found.samples) == 6
    assert found.skipped == (("logo.png", "lies in no folder of images or masks, as others do"),)


def test_names_that_differ_in_case_or_normal_form_are_paired(tmp_path: Path) -> None:
    write_folder_dataset(tmp_path, train=0, val=0)
    for image, mask in (("A.PNG", "a.png"), ("u\u0308.png", "\u00fc.png")):
        write_pair(tmp_path, "train", "x")
        (tmp_path / "train" / "images" / "x.png").rename(tmp_path / "train" / "images" / image)
        (tmp_path / "train" / "masks" / "x.png").rename(tmp_path / "train" / "masks" / mask)
    assert [sample.key for sample in open_source(tmp_path).samples] == ["a", "u"]


def test_missing_halves_and_splits_are_named(tmp_path: Path) -> None:
    folder = write_cityscapes(tmp_path / "folder", test=0)
    with pytest.raises(UserError, match="holds no image of the split test, only of: train, val"):
        open_source(folder, splits=("test",))
    with pytest.raises(UserError, match="--splits has 'training'; it takes train, val, test"):
        open_source(folder, splits=("training",))
    zips = zip_cityscapes(folder, tmp_path / "zips")
    (zips / "gtFine_trainvaltest.zip").unlink()
    with pytest.raises(UserError, match=r"has no gtFine \(neither the folder nor gtFine_trainvaltest\.zip\)"):
        open_source(zips)
    own = write_folder_dataset(tmp_path / "own")
    (own / "classes.json").unlink()
    with pytest.raises(UserError, match=r"classes\.json does not exist"):
        open_source(own)


def test_a_source_that_is_none_is_told_what_it_holds(tmp_path: Path) -> None:
    mix, two, packed, empty, archive = (tmp_path / name for name in ("mix", "two", "packed", "empty", "mine.zip"))
    for name in ("a.jpg", "b.jpg", "e.txt", ".hidden"):
        mix.mkdir(exist_ok=True)
        (mix / name).touch()
    for name in ("images/a.jpg", "depth/a.png", "depth/b.png"):
        (two / name).parent.mkdir(parents=True, exist_ok=True)
        (two / name).touch()
    for folder in (packed, empty):
        folder.mkdir()
    (packed / "manifest.json").touch()
    zipfile.ZipFile(archive, "w").close()
    for place, sentence in (
        (mix, r"mix holds images \(2 in it\), but nothing tells which are masks; give them .* _mask .*docs/data\.md"),
        (
            two,
            r"two holds images \(2 in depth, 1 in images\), but .*; say it, such as --images 'depth/\{stem\}\.png' "
            r"--masks 'images/\{stem\}\.jpg', or put",
        ),
        (packed, r"packed is a packed set already; train on it with --shards \S+packed"),
        (empty, r"empty is empty; name the folder of the data set, with images in train/images and"),
        (mix / "e.txt", r"e\.txt is neither a folder nor a \.zip or \.tar; name the folder"),
        (archive, r"mine\.zip holds no images; name the folder"),
        (tmp_path / "yours", "yours does not exist"),
        (Path("https://a.org/b.zip"), "https://a.org/b.zip is an address; download it"),
    ):
        with pytest.raises(UserError, match=sentence) as refused:
            open_source(place)
        assert "csDownload" not in str(refused.value)


def test_a_set_laid_out_as_cityscapes_may_have_a_name_of_its_own(tmp_path: Path) -> None:
    folder = write_cityscapes(tmp_path / "folder", train=1, val=0)
    before = open_source(folder)
    (folder / "leftImg8bit" / "name.txt").write_text("our streets\n")
    after = open_source(folder)
    assert after.table.name == "our streets"
    assert (after.table.classes, after.samples) == (before.table.classes, before.samples)
    classes = write_folder_dataset(tmp_path / "own") / "classes.json"
    assert open_source(folder, classes).table.name == "shapes"
    for wrong in (b"", b"x" * 101, b"\x1b[2J"):
        (folder / "leftImg8bit" / "name.txt").write_bytes(wrong)
        with pytest.raises(UserError, match=r"name\.txt has the name .*; it must be 1 to 100 printable characters"):
            open_source(folder)
    (folder / "leftImg8bit" / "name.txt").write_bytes(b"\xff\xff")
    with pytest.raises(UserError, match=r"name\.txt cannot be read .*; write the name of the set into it"):
        open_source(folder)


def _add(zips: Path, name: str, mode: int = 0o100644) -> None:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = mode << 16
    with zipfile.ZipFile(zips / "leftImg8bit_trainvaltest.zip", "a") as archive:
        archive.writestr(entry, b"x")


@pytest.mark.parametrize("name", ["../up.png", "leftImg8bit/../../up.png", "/etc/up.png"])
def test_zip_members_that_point_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    zips = zip_cityscapes(write_cityscapes(tmp_path / "folder"), tmp_path / "zips")
    _add(zips, name)
    with pytest.raises(UserError, match="has a member that points elsewhere"):
        open_source(zips)


def test_symbolic_links_in_zips_are_refused(tmp_path: Path) -> None:
    zips = zip_cityscapes(write_cityscapes(tmp_path / "folder"), tmp_path / "zips")
    _add(zips, "leftImg8bit/train/x/link.png", mode=0o120777)
    with pytest.raises(UserError, match=r"symbolic link as a member, 'leftImg8bit/train/x/link\.png'"):
        open_source(zips)


def test_encrypted_and_broken_zips_are_refused(tmp_path: Path) -> None:
    zips = zip_cityscapes(write_cityscapes(tmp_path / "folder"), tmp_path / "zips")
    path = zips / "gtFine_trainvaltest.zip"
    whole = path.read_bytes()
    directory = whole.index(b"PK\x01\x02")
    path.write_bytes(whole[: directory + 8] + b"\x01" + whole[directory + 9 :])
    with pytest.raises(UserError, match=r"gtFine_trainvaltest\.zip is encrypted"):
        open_source(zips)
    path.write_bytes(whole[:-30])
    with pytest.raises(UserError, match=r"gtFine_trainvaltest\.zip is not a readable zip"):
        open_source(zips)


def test_a_damaged_zip_member_is_named(tmp_path: Path) -> None:
    zips = zip_cityscapes(write_cityscapes(tmp_path / "folder"), tmp_path / "zips")
    path = zips / "leftImg8bit_trainvaltest.zip"
    member = open_source(zips).samples[0].image
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo(member.name).header_offset
    data = bytearray(path.read_bytes())
    data[start + 400] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"trainvaltest\.zip:leftImg8bit/train/aachen/aachen_000000\S+ cannot be read"):
        member.read()


def test_tars_that_would_do_harm_are_refused(tmp_path: Path) -> None:
    path = write_tar(write_folder_dataset(tmp_path / "own"))
    whole = path.read_bytes()
    for name, kind, says in (
        ("../up.png", tarfile.REGTYPE, "has a member that points elsewhere"),
        ("link.png", tarfile.SYMTYPE, r"has a symbolic link as a member, 'link\.png'"),
        ("twin.png", tarfile.LNKTYPE, "has a symbolic link as a member"),
        ("pipe.png", tarfile.FIFOTYPE, "has a device or pipe as a member"),
    ):
        entry = tarfile.TarInfo(name)
        entry.type = kind
        with tarfile.open(path, "w") as archive:
            archive.addfile(entry)
        with pytest.raises(UserError, match=says):
            open_source(path)
    for damaged in (whole[:700], gzip.compress(whole), b""):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"own\.tar is not a readable tar \(.+\); download it again"):
            open_source(path)
    path.write_bytes(whole)
    member = open_source(path).samples[0].image
    path.write_bytes(whole[: member.offset])
    with pytest.raises(UserError, match=rf"own\.tar:{member.name} cannot be read \(the tar ends early\); get the file"):
        member.read()


def test_linked_folders_are_read_once(tmp_path: Path) -> None:
    real = write_folder_dataset(tmp_path / "real")
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("train", "classes.json"):
        (linked / name).symlink_to(real / name)
    (real / "train" / "images" / "again").symlink_to(real / "train")  # for ever
    assert [contents(s) for s in open_source(linked).samples] == [contents(s) for s in open_source(real).samples][:4]


def test_files_that_vanish_or_are_huge_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.png cannot be read"):
        Member(tmp_path / "gone.png", 10, 0).read()
    with pytest.raises(UserError, match=r"big\.png has 2,147,483,648 bytes"):
        Member(tmp_path / "big.png", 1 << 31, 0).read()


def test_a_file_that_may_not_be_read_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:  # root may read everything
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tree, "read_bytes", refuse)
    with pytest.raises(UserError, match=r"a\.png cannot be read \(Permission denied\); check the permissions"):
        Member(tmp_path / "a.png", 10, 0).read()
