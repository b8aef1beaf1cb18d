"""Networks on the Hugging Face Hub: the real huggingface_hub, against a server on this machine."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import commands
import layouts
from checkpoints import write_checkpoint
from fastseg import hub
from fastseg.deploy.predictor import load
from fastseg.errors import UserError
from model_hub import ModelHub, Repository, model_hub

NAME = "ada/streets"


@pytest.fixture(scope="module")
def server() -> Iterator[ModelHub]:
    with model_hub() as served:
        yield served


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("run") / "checkpoints" / "best.pt")


@pytest.fixture(scope="module")
def pushed(server: ModelHub, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``fastseg-export --push`` wrote here; the server has it, too."""
    home = tmp_path_factory.mktemp("home")
    done = commands.typed("fastseg-export", trained.parent, "--push", NAME, "--json", **server.variables(home))
    assert done.returncode == 0, done.stderr
    assert f"pushed to {server.url}/{NAME}" in done.stderr
    document = json.loads(done.stdout)
    assert document["pushed"] == f"{server.url}/{NAME}"
    assert document["bytes"] == Path(document["file"]).stat().st_size
    assert all(difference["largest"] < 1e-3 for difference in document["differences"])
    return trained.with_name("best-safetensors") / "best.safetensors"


def test_weights_and_card_arrive(server: ModelHub, pushed: Path) -> None:
    repository = server.repositories[NAME]
    assert repository.private  # until its owner says otherwise
    files = repository.revisions["main"]
    assert files.keys() == {"model.safetensors", "README.md"}
    assert files["model.safetensors"] == pushed.read_bytes()
    card = files["README.md"].decode()
    assert f'network = fastseg.load("hf://{NAME}")' in card
    assert 'load_file("model.safetensors")' in card
    assert "library_name: fastseg" in card


LOAD = """
import sys
import fastseg, numpy
model = fastseg.load(sys.argv[1], "cpu", "fp32")
numpy.save(sys.argv[3], model(sys.argv[2]).mask)
"""


def test_what_was_pushed_predicts_what_the_checkpoint_does(
    server: ModelHub, pushed: Path, trained: Path, tmp_path: Path
) -> None:
    picture, variables = tmp_path / "street.png", server.variables(tmp_path / "home")
    layouts.noise(3, (80, 56)).save(picture)
    server.repositories[NAME].revisions["v1"] = dict(server.repositories[NAME].revisions["main"])
    expected = load(trained, "cpu", "fp32")(picture).mask
    for i, address in enumerate((f"hf://{NAME}", f"hf://{NAME}@v1")):
        done = commands.typed(sys.executable, "-c", LOAD, address, picture, tmp_path / f"{i}.npy", **variables)
        assert done.returncode == 0, done.stderr
        np.testing.assert_array_equal(np.load(tmp_path / f"{i}.npy"), expected)
    np.testing.assert_array_equal(load(pushed, "cpu", "fp32")(picture).mask, expected)
    # Without a network the cache is enough, and the commands take the same address.
    offline = {**variables, "HF_HUB_OFFLINE": "1"}
    done = commands.typed("fastseg-predict", f"hf://{NAME}", picture, "--out", tmp_path / "out", **offline)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/overlays/street.png").is_file()


REFUSED = """
import json, sys
from fastseg import hub
from fastseg.errors import UserError
for name in json.loads(sys.argv[1]):
    try:
        hub.push(name.removeprefix("push "), {"a": b"a"}) if name.startswith("push ") else hub.download(name)
    except UserError as error:
        print(error)
"""


def refused(names: list[str], **variables: str) -> list[str]:
    done = commands.typed(sys.executable, "-c", REFUSED, json.dumps(names), **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.usefixtures("pushed")
def test_what_cannot_be_had_is_said_in_a_sentence(server: ModelHub, tmp_path: Path) -> None:
    server.repositories["ada/gated"] = Repository(gated=True)
    server.repositories["ada/empty"] = Repository()
    says = {
        "hf://ada/none": "hf://ada/none is not on the Hub, or not for you to see: check the name, or log in with",
        f"hf://{NAME}@v9": f"hf://{NAME} has no revision v9; name another",
        "hf://ada/gated": "hf://ada/gated is gated; ask for access on its page, then log in",
        "hf://ada/empty": "hf://ada/empty holds no model.safetensors; fastseg-export CKPT --push USER/NAME puts one",
    }
    for sentence, words in zip(refused(list(says), **server.variables(tmp_path)), says.values(), strict=True):
        assert sentence.startswith(words)
    (hidden, unwritten) = refused([f"hf://{NAME}", "push ada/mine"], **server.variables(tmp_path, token=None))
    assert "or not for you to see" in hidden
    assert "log in with: hf auth login" in unwritten
    gone = {**server.variables(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
    (absent, lost) = refused(["hf://ada/never", "push ada/mine"], **gone)
    assert "hf://ada/never cannot be reached, and is not in the Hub's cache here" in absent
    assert "the Hub does not answer as it should for hf://ada/mine" in lost


@pytest.mark.parametrize("text", ["hf://streets", "hf://a/b/c", "hf://a/b@", "hf://a/b@v 1", "hf://"])
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="names no model on the Hugging Face Hub; write USER/NAME"):
        hub.download(text)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"needs huggingface_hub; install it: pip install 'fastseg-deeplab\[hub\]'"):
        hub.download(f"hf://{NAME}")
