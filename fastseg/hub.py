"""Trained networks on the Hugging Face Hub: fetch ``hf://USER/NAME[@REVISION]``, and push one there."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from fastseg.errors import UserError, disk_full

SCHEME = "hf://"
WEIGHTS = "model.safetensors"
"""Name of the weights in a repository, as transformers and timm have it."""
_LOGIN = "log in with: hf auth login (or set HF_TOKEN)"


class Address(NamedTuple):
    """A model repository and one of its revisions."""

    repository: str
    """``USER/NAME``."""
    revision: str | None
    """Branch, tag or commit; None: the main branch."""

    def __str__(self) -> str:
        return f"{SCHEME}{self.repository}" + (f"@{self.revision}" if self.revision else "")


def parse_address(text: str) -> Address:
    """Parse ``USER/NAME`` with an optional ``hf://`` before and ``@REVISION`` behind it.

    Raises :class:`UserError` for anything else.

    >>> parse_address("hf://ada/streets@v1")
    Address(repository='ada/streets', revision='v1')
    """
    found = re.fullmatch(r"(?:hf://)?([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", text, re.ASCII)
    if not found:
        raise UserError(
            f"{text} names no model on the Hugging Face Hub; write USER/NAME, or hf://USER/NAME@REVISION to load one"
        )
    return Address(found[1], found[2])


def check_installed() -> None:
    """Raise :class:`UserError` if huggingface_hub is not installed."""
    if find_spec("huggingface_hub") is None:
        raise UserError("the Hugging Face Hub needs huggingface_hub; install it: pip install 'fastseg-deeplab[hub]'")


def download(text: str) -> Path:
    """Return the weights of ``hf://USER/NAME[@REVISION]`` in the Hub's cache, downloaded if they are new.

    Raises :class:`UserError` if they are not there or cannot be reached.
    """
    address = parse_address(text)
    check_installed()
    from huggingface_hub import hf_hub_download

    with _explain(address):
        return Path(hf_hub_download(address.repository, WEIGHTS, revision=address.revision))


def push(text: str, files: Mapping[str, Path | bytes]) -> str:
    """Put ``files`` (path there → file here, or bytes) into the repository ``USER/NAME``, in one commit.

    A new repository is private until its owner changes that on its page, whose address is returned. Raises
    :class:`UserError` if the Hub cannot be reached or does not accept the files.
    """
    address = parse_address(text)
    check_installed()
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(library_name="fastseg")
    with _explain(address):
        page = api.create_repo(address.repository, private=True, exist_ok=True)
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        api.create_commit(
            address.repository, operations, commit_message="Network by fastseg", revision=address.revision
        )
    return str(page)


@contextmanager
def _explain(address: Address) -> Iterator[None]:
    """Turn the errors of huggingface_hub into sentences."""
    from httpx import HTTPError
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise UserError(f"{address} is gated; ask for access on its page, then {_LOGIN}") from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"{address} is not on the Hub, or not for you to see: check the name, or {_LOGIN}") from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{SCHEME}{address.repository} has no revision {address.revision}; name another") from None
    except errors.LocalEntryNotFoundError as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise UserError(f"{address} cannot be reached, and is not in the Hub's cache here ({reason})") from None
    except errors.EntryNotFoundError:
        raise UserError(f"{address} holds no {WEIGHTS}; fastseg-export CKPT --push USER/NAME puts one there") from None
    except errors.LocalTokenNotFoundError:
        raise UserError(f"{address} needs to know who you are; {_LOGIN}") from None
    except (OSError, HTTPError) as error:
        if disk_full(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the Hub does not answer as it should for {address} ({reason}); {_LOGIN}, or try later"
        ) from None
