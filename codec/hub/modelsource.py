"""Where a model comes from, as text: `hf://org/repo@revision` or `https://host/folder/model.json`, and `#sha256=...`.

The hash is that of `model.json`, which holds the SHA-256 of each other file: one hash stands for all of them.

>>> parse_source("hf://org/repo@v1").file_url("model.json", endpoint="https://hub.example")
'https://hub.example/org/repo/resolve/v1/model.json'
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from codec.errors import ModelError
from codec.hub.cachefolder import key_of
from codec.hub.fetch import clean

MODEL_JSON = "model.json"
HUB = "https://huggingface.co"

_REPO = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}/[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]{0,199}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Source:
    """A model on a network."""

    text: str  # as given, without the hash
    place: str  # of a hub: org/repo; of the web: the folder's address, with its last slash
    revision: str | None = None  # of a hub; None is the web
    sha256: str | None = None  # of model.json

    @property
    def is_hub(self) -> bool:
        """Whether it is a hub's repository."""
        return self.revision is not None

    @property
    def commit(self) -> str | None:
        """The revision, where it is a commit and therefore never changes."""
        return self.revision if self.revision and _COMMIT.fullmatch(self.revision) else None

    @property
    def key(self) -> str:
        """Its name in the cache folder; all revisions of a repository share it."""
        if self.is_hub:
            return key_of(f"hf://{self.place}")
        digest = hashlib.sha256(f"{self.place}#{self.sha256 or ''}".encode()).hexdigest()[:16]
        return key_of(f"web://{urlsplit(self.place).netloc}/{digest}")

    def file_url(self, name: str, *, revision: str | None = None, endpoint: str | None = None) -> str:
        """The address of one file, at another revision if given. Source: the Hugging Face hub's `resolve` addresses."""
        if not self.is_hub:
            return self.place + quote(name)
        host = (endpoint or hub_endpoint()).rstrip("/")
        return f"{host}/{self.place}/resolve/{quote(revision or self.revision or '', safe='')}/{quote(name)}"


def hub_endpoint() -> str:
    """`HF_ENDPOINT`, else the Hugging Face hub."""
    return (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def is_commit(text: str | None) -> bool:
    """Whether it is a whole commit, 40 digits."""
    return _COMMIT.fullmatch(text or "") is not None


def parse_source(text: str, *, has_hashes: bool = False) -> Source:
    """Read an address.

    Args:
        text: the address.
        has_hashes: the whole SHA-256 of each file is known from elsewhere, which makes http:// safe.

    Raises:
        ModelError: of another form.
    """
    bare, mark, fragment = text.partition("#")
    sha256 = fragment.removeprefix("sha256=").lower() if mark else None
    if mark and (not fragment.startswith("sha256=") or not _SHA256.fullmatch(sha256 or "")):
        raise ModelError(f"{clean(text, 200)}: after # comes sha256= and 64 hexadecimal digits, those of model.json")
    if bare.startswith("hf://"):
        return _parse_hub(bare, sha256)
    return _parse_web(bare, sha256, is_safe=has_hashes or sha256 is not None)


def _parse_hub(bare: str, sha256: str | None) -> Source:
    repo, mark, revision = bare.removeprefix("hf://").partition("@")
    if not _REPO.fullmatch(repo) or (mark and (not _REVISION.fullmatch(revision) or ".." in revision)):
        raise ModelError(f"{clean(bare, 200)}: write hf://org/repo or hf://org/repo@revision")
    return Source(bare, repo, revision or "main", sha256)


def _parse_web(bare: str, sha256: str | None, *, is_safe: bool) -> Source:
    shown = clean(bare, 200)
    try:
        parts = urlsplit(bare)
        host, user = parts.hostname, parts.username
    except ValueError:
        host = user = None
    if not host or user or parts.query or parts.scheme not in ("https", "http"):
        raise ModelError(f"{shown}: write hf://org/repo@revision or https://host/folder/model.json#sha256=...")
    if parts.scheme == "http" and not is_safe:
        raise ModelError(f"{shown}: http:// can be changed on its way; use https://, or add #sha256= of model.json")
    if not parts.path.endswith((f"/{MODEL_JSON}", "/")):
        raise ModelError(f"{shown}: name the model's folder with a slash at its end, or the {MODEL_JSON} in it")
    return Source(bare, bare.removesuffix(MODEL_JSON), None, sha256)
