"""``fastseg-predict``: images, folders and videos, each under its own name and in its own size."""

import errno
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

import commands
import layouts
from checkpoints import write_checkpoint
from fastseg.commands import predict
from fastseg.deploy.output_paths import disambiguate
from fastseg.deploy.predict_io import Input, Outputs, find_inputs, read_image
from fastseg.deploy.predictor import Predictor, load
from fastseg.deploy.video import Video, probe, read_video
from fastseg.errors import UserError
from fastseg.model import checkpoint
from videos import write_video


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "ckpt.pt")


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all kinds of pictures."""
    folder = tmp_path_factory.mktemp("album")
    (folder / "deep" / "er").mkdir(parents=True)
    layouts.noise(0, (64, 40)).save(folder / "a.jpg")
    layouts.noise(1, (64, 40)).save(folder / "b.png")
    layouts.noise(2, (51, 73)).convert("P").save(folder / "deep" / "palette.png")
    exif = Image.Exif()
    exif[0x112] = 6
    layouts.noise(3, (48, 33)).save(folder / "deep" / "er" / "turned.JPG", exif=exif)
    Image.fromarray(np.full((35, 42), 40000, np.uint16)).save(folder / "deep" / "sixteen.tif")
    (folder / "notes.txt").write_text("no picture")
    return folder


def run(trained: Path, *paths: Path, out: Path, **options: object) -> None:
    """The command's work, in this process."""
    settings = predict.Options(str(trained), paths, out, device="cpu", precision="fp32", **options)  # type: ignore[arg-type]
    predict.predict(settings, find_inputs(paths, out, print), Console(file=sys.stderr, width=300, markup=False))


def below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_keeps_its_names_and_sizes(trained: Path, album: Path, tmp_path: Path) -> None:
    run(trained, album, out=tmp_path, masks=True, probabilities=True, batch=2, threads=2)
    stems = ("a", "b", "deep/palette", "deep/sixteen", "deep/er/turned")
    overlays = ("a.jpg", "b.png", "deep/palette.png", "deep/sixteen.png", "deep/er/turned.JPG")
    assert below(tmp_path) == {
        *(f"overlays/{name}" for name in overlays),
        *(f"masks/{stem}.png" for stem in stems),
        *(f"probabilities/{stem}.npz" for stem in stems),
    }
    model = load(trained, "cpu", "fp32")
    for source, stem, overlay in zip(map(album.joinpath, sources()), stems, overlays, strict=True):
        mask = Image.open(tmp_path / "masks" / f"{stem}.png")
        expected = model(source, probabilities=True)
        assert mask.size == Image.open(tmp_path / "overlays" / overlay).size == read_image(source).size
        assert (np.asarray(mask) == expected.mask).mean() > 0.999
        assert mask.convert("RGB").getpixel((3, 5)) == model.classes[mask.getpixel((3, 5))].color
        with np.load(tmp_path / "probabilities" / f"{stem}.npz") as file:
            assert file["probabilities"].dtype == np.float16
            np.testing.assert_allclose(file["probabilities"], expected.probabilities, atol=2e-3)
            assert list(file["classes"]) == [c.name for c in model.classes]
    assert (np.asarray(Image.open(tmp_path / "overlays/b.png")) == model(album / "b.png").overlay()).mean() > 0.999


def test_12_bits_in_16_are_not_black_in_silence(tmp_path: Path) -> None:
    deep = np.arange(16 * 16, dtype=np.uint16).reshape(16, 16) * 16
    Image.fromarray(deep).save(tmp_path / "deep.png")
    with pytest.raises(UserError, match=r"deep\.png has 16 bits, but no value above 4,080, .* such as --white 4095"):
        read_image(tmp_path / "deep.png")
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "deep.png", 4080))[..., 0], deep // 16)


def test_the_white_of_training_is_that_of_predicting(trained: Path, tmp_path: Path) -> None:
    """A set of 14 bits, whose pictures reach no more than 12 of them, or all 16."""
    saved = checkpoint.load(trained)
    path = tmp_path / "14 bits.pt"
    checkpoint.save(path, {**saved, "dataset": {**saved["dataset"], "white": 16000}})
    shown = np.asarray(layouts.noise(3, (64, 48))) // 4
    for name, factor in (("dim.png", 16000 / 255), ("bright.png", 65535 / shown.max())):
        cv2.imwrite(str(tmp_path / name), np.rint(shown[..., ::-1] * factor).astype(np.uint16))
    Image.fromarray(shown).save(tmp_path / "same.png")
    model = load(path, "cpu", "fp32")
    dim, same = (model(tmp_path / name) for name in ("dim.png", "same.png"))
    assert model.white == 16000
    assert (dim.image == same.image).all()
    says = r"bright\.png has 16 bits with values up to 6\d,\d{3}, but in training 16,000 was white; name"
    with pytest.raises(UserError, match=says):
        model(tmp_path / "bright.png")
    run(path, tmp_path / "dim.png", out=tmp_path / "out", masks=True, no_overlays=True)
    run(path, tmp_path / "bright.png", out=tmp_path / "out", masks=True, no_overlays=True, white=65535)
    with Image.open(tmp_path / "out/masks/dim.png") as mask:
        assert (np.asarray(mask) == same.mask).mean() > 0.999
    checkpoint.save(path, {**saved, "dataset": {**saved["dataset"], "white": "16000"}})
    with pytest.raises(UserError, match=r"14 bits\.pt is damaged \(ValueError: '16000' instead of a whole number"):
        load(path)


def sources() -> tuple[str, ...]:
    return ("a.jpg", "b.png", "deep/palette.png", "deep/sixteen.tif", "deep/er/turned.JPG")


@pytest.mark.parametrize(("name", "size", "rate"), [("even.mp4", (64, 40), 12.5), ("odd.avi", (51, 33), 15)])
def test_a_video_stays_one(trained: Path, tmp_path: Path, name: str, size: tuple[int, int], rate: float) -> None:
    source = write_video(tmp_path / name, size, rate, 5)
    run(trained, source, out=tmp_path / "out", masks=True, batch=2)
    there = probe(tmp_path / "out" / "overlays" / name)
    assert (there.width, there.height, there.rate, there.frames) == (*size, rate, 5)
    assert len(list((tmp_path / "out" / "masks" / Path(name).stem).iterdir())) == 5
    model = load(trained, "cpu", "fp32")
    for frame, shown in zip(read_video(source), read_video(there.path), strict=True):
        assert np.abs(np.asarray(model(frame).overlay()).astype(int) - shown).mean() < 25  # lossy, but of this frame


def test_damaged_files_do_not_stop_the_others(
    trained: Path, album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.jpg"
    cut.write_bytes((album / "a.jpg").read_bytes()[:900])
    (tmp_path / "noise.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match="2 of 3 files could not be predicted"):
        run(trained, cut, tmp_path / "noise.mp4", album / "a.jpg", out=tmp_path / "out")
    assert below(tmp_path / "out") == {"overlays/a.jpg"}
    said = capsys.readouterr().err
    assert "cut.jpg is damaged" in said
    assert "predicting: 1/1, " in said  # what failed is no progress
    with pytest.raises(UserError, match="1 of 1 files"):
        run(trained, cut, out=tmp_path / "out")
    assert "predicting" not in capsys.readouterr().err
    assert "noise.mp4 is no video" in said


def test_a_result_that_cannot_be_written_does_not_stop_the_others(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("a" * 251 + ".png", "b" * 251 + ".jpg", "b" * 251 + ".png", "c.png"):
        layouts.noise(0, (64, 40)).save(source / name)
    write_video(source / "d.mp4", (64, 40), 10, 1)
    (tmp_path / "out/masks").mkdir(parents=True)
    (tmp_path / "out/masks/d").touch()
    with pytest.raises(UserError, match="3 of 5 files could not be predicted"):
        run(trained, source, out=tmp_path / "out", masks=True, overwrite=True)
    # Both of the b's would be called b.jpg.png and so on, which is too long.
    assert below(tmp_path / "out/masks") == {"a" * 251 + ".png", "c.png", "d"}
    said = capsys.readouterr().err
    assert said.count("cannot be written (File name too long); rename it, or name another --out") == 2
    assert "d.mp4 cannot be written (" in said


def test_too_little_memory_has_a_cure(
    trained: Path, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the size of what goes through the network, as where other processes have taken all."""

    def infer(*_: object) -> Tensor:
        return torch.empty(1 << 46)

    monkeypatch.setattr(Predictor, "_infer", infer)
    with pytest.raises(
        UserError, match=r"GiB of memory are too little to predict .* pixels; make the pictures smaller"
    ):
        run(trained, album, out=tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_more_is_predicted_than_packed(tmp_path: Path) -> None:
    Image.new("1", (10_000, 9_000)).save(tmp_path / "large.png")
    assert read_image(tmp_path / "large.png").size == (10_000, 9_000)


def test_a_full_disk_stops_all(trained: Path, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Outputs, "write_image", full)
    with pytest.raises(OSError, match="No space left"):
        run(trained, album, out=tmp_path)


def test_a_video_that_ends_early_is_said(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_video(tmp_path / "cut.avi", (51, 33), 15, 12)
    data = source.read_bytes()
    source.write_bytes(data[: len(data) // 2])
    if probe(source).frames < 12:
        pytest.skip("this OpenCV counts the frames itself")
    with pytest.raises(UserError, match="1 of 1 files"):
        run(trained, source, out=tmp_path / "out")
    assert "of its 12 frames" in capsys.readouterr().err


def test_nothing_is_replaced_unasked(trained: Path, album: Path, tmp_path: Path) -> None:
    run(trained, album / "a.jpg", out=tmp_path)
    before = (tmp_path / "overlays/a.jpg").read_bytes()
    (tmp_path / "overlays/a.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"a.jpg exists; --overwrite"):
        run(trained, album / "a.jpg", out=tmp_path)
    assert (tmp_path / "overlays/a.jpg").read_bytes() == b"mine"
    run(trained, album / "a.jpg", out=tmp_path, overwrite=True)
    assert (tmp_path / "overlays/a.jpg").read_bytes() == before


def test_a_shorter_video_leaves_no_frames_of_a_longer_one(trained: Path, tmp_path: Path) -> None:
    options = {"out": tmp_path / "out", "masks": True, "probabilities": True, "overwrite": True}
    for frames in (3, 1):
        run(trained, write_video(tmp_path / "clip.mp4", (64, 40), 10, frames), **options)  # type: ignore[arg-type]
        for kind, suffix in (("masks", "png"), ("probabilities", "npz")):
            assert below(tmp_path / "out" / kind) == {f"clip/{i:06d}.{suffix}" for i in range(frames)}


def test_two_results_in_one_file_are_refused(trained: Path, album: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="would both go to"):
        run(trained, album / "a.jpg", album / "a.jpg", out=tmp_path)


def test_one_name_with_two_suffixes_is_told_apart(trained: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for i, name in enumerate(("a.jpg", "a.png", "b.jpg")):
        layouts.noise(i, (64, 40)).save(source / name)
    run(trained, source, out=tmp_path / "plain")
    assert below(tmp_path / "plain/overlays") == {"a.jpg", "a.png", "b.jpg"}
    run(trained, source, out=tmp_path / "out", masks=True)
    assert below(tmp_path / "out/overlays") == {"a.jpg.jpg", "a.png.png", "b.jpg"}
    assert below(tmp_path / "out/masks") == {"a.jpg.png", "a.png.png", "b.png"}
    expected = load(trained, "cpu", "fp32")(source / "a.png").mask
    assert (np.asarray(Image.open(tmp_path / "out/masks/a.png.png")) == expected).mean() > 0.999


def test_videos_of_one_name_are_told_apart(tmp_path: Path) -> None:
    clips = {tmp_path / name: Video(tmp_path / name, 4, 4, 25.0, 1) for name in ("clip.mov", "clip.mp4")}
    files = disambiguate(Outputs(tmp_path, (), masks=True), [Input(path, Path(path.name)) for path in clips], clips)
    places = [list(Outputs(tmp_path, (), masks=True).video_paths(file.name, ".mp4")) for file in files]
    assert places == [[tmp_path / f"overlays/{n}.mp4", tmp_path / "masks" / n] for n in ("clip.mov", "clip.mp4")]


def test_a_video_and_its_own_frames_are_told_apart(trained: Path, tmp_path: Path) -> None:
    """The layout of ffmpeg -i clip.mp4 clip/%06d.jpg."""
    source = tmp_path / "album"
    (source / "clip").mkdir(parents=True)
    write_video(source / "clip.mp4", (64, 40), 10, 2)
    layouts.noise(0, (51, 33)).save(source / "clip" / "000000.jpg")
    run(trained, source, out=tmp_path / "out", masks=True)
    assert below(tmp_path / "out") == {
        *("overlays/clip.mp4.mp4", "overlays/clip/000000.jpg"),
        *("masks/clip.mp4/000000.png", "masks/clip.mp4/000001.png", "masks/clip/000000.png"),
    }
    assert Image.open(tmp_path / "out/masks/clip/000000.png").size == (51, 33)


def test_a_place_within_another_is_refused(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    files = [Input(clip, Path("clip.mp4")), *(Input(tmp_path / n, Path(n)) for n in ("clip/0.jpg", "clip.mp4/0.jpg"))]
    with pytest.raises(UserError, match="would both go to"):
        disambiguate(Outputs(tmp_path, (), masks=True), files, {clip: Video(clip, 4, 4, 25.0, 1)})


def test_what_cannot_be_done_is_said_before_torch_is_imported(trained: Path, album: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/overlays").touch()
    (tmp_path / "old/overlays").mkdir(parents=True)
    (tmp_path / "old/overlays/a.jpg").touch()
    requests = {
        "none.pt does not exist": (tmp_path / "none.pt", album, tmp_path / "out"),
        "the checkpoint comes first": (album, trained, tmp_path / "out"),
        "file, which is a file; name a folder": (trained, album, tmp_path / "file"),
        "overlays, which is a file": (trained, album, tmp_path / "full"),
        "a.jpg exists; --overwrite": (trained, album, tmp_path / "old"),
    }
    code = f"""
import sys
from fastseg.commands.predict import UserError, _main
for checkpoint, source, out in {[tuple(map(str, paths)) for paths in requests.values()]}:
    sys.argv = ["fastseg-predict", checkpoint, source, "--out", out]
    try:
        _main()
    except UserError as error:
        print(error)
print(sys.modules.keys() & {{"torch", "nvidia"}})
"""
    *said, imported = commands.typed(sys.executable, "-c", code).stdout.splitlines()
    for sentence, words in zip(said, requests, strict=True):
        assert words in sentence
    assert imported == "set()"


def test_results_below_the_folder_are_no_inputs(album: Path, tmp_path: Path) -> None:
    assert [file.name.as_posix() for file in find_inputs([album], album / "deep", print)] == ["a.jpg", "b.png"]
    for name in ("overlays/a.jpg", "masks/a.png", "own/masks/a.png", "b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [file.name.as_posix() for file in find_inputs([tmp_path], tmp_path, print)] == ["b.png", "own/masks/a.png"]
    with pytest.raises(UserError, match="holds no images"):
        find_inputs([tmp_path / "own"], tmp_path / "own", print)
    with pytest.raises(UserError, match=r"nowhere.png does not exist"):
        find_inputs([tmp_path / "nowhere.png"], tmp_path / "out", print)
    with pytest.raises(UserError, match=r"^https://a\.org/street\.png is an address; download it"):
        find_inputs([Path("https://a.org/street.png")], tmp_path / "out", print)


def test_a_folder_is_no_image(album: Path) -> None:
    with pytest.raises(UserError, match=r"is a folder; name an image in it$"):
        read_image(album)
    with pytest.raises(UserError, match=r"none\.jpg does not exist; name an image"):
        read_image(album / "none.jpg")


def test_what_is_left_out_is_named_and_links_are_followed_once(tmp_path: Path) -> None:
    inside, elsewhere, skipped = tmp_path / "in", tmp_path / "elsewhere", list[str]()
    for path in (
        inside / "a.png",
        elsewhere / "b.gif",
        elsewhere / "notes.txt",
        inside / "Thumbs.db",
        inside / "x.npy",
    ):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (inside / "link").symlink_to(elsewhere)
    (inside / "again").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(inside)
    (inside / "linked.jpg").symlink_to(inside / "a.png")
    os.mkfifo(inside / "pipe.png")
    found = find_inputs([inside], tmp_path / "out", skipped.append)
    assert [file.name.as_posix() for file in found] == ["a.png", "linked.jpg", "again/b.gif"]
    assert sorted(skipped) == sorted(
        [
            f"{inside / 'pipe.png'} is no plain file",
            f"{inside} holds 1 file .db, neither images nor videos",
            f"{inside} holds 1 file .npy, neither images nor videos",
            f"{inside} holds 1 file .txt, neither images nor videos",
        ]
    )


def test_the_command(trained: Path, album: Path, tmp_path: Path) -> None:
    script = ("fastseg-predict",)
    (tmp_path / "cut.png").write_bytes((album / "b.png").read_bytes()[:500])
    done = commands.typed(*script, trained, album / "b.png", tmp_path / "cut.png", "--out", tmp_path / "out", "--masks")
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "cut.png is damaged" in errors[0]
    assert "1 of 2 files could not be predicted, see above" in errors[1]
    assert "Traceback" not in done.stderr
    assert below(tmp_path / "out") == {"overlays/b.png", "masks/b.png"}
    commands.refused(commands.run(*script, trained, "--out", tmp_path), "there is nothing to predict")
    commands.refused(commands.run(*script, trained, album, "--out", tmp_path, "--batch", 0), "--batch is 0")
    assert len(commands.run(*script, "--help").stdout.splitlines()) <= 56
    commands.refused(commands.run(*script, trained, album, "--alpha", 2), "--alpha is 2.0; it must be from 0")


def test_without_out_there_is_a_place(trained: Path, album: Path, tmp_path: Path) -> None:
    done = commands.run("fastseg-predict", trained, album / "b.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert below(tmp_path) == {"predictions/overlays/b.png"}
