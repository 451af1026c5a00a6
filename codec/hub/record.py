"""What the cache remembers of downloads: what each folder was made of, and which commit a branch meant.

>>> from codec.hub.modelsource import parse_source
>>> final_of(Request(parse_source("hf://org/repo@v1")), "v1").name
'hf--org--repo--v1'
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codec.errors import ModelError
from codec.files import atomic_path
from codec.hub.cachefolder import cache_home, key_of, models_folder
from codec.hub.fetch import Fetched, clean
from codec.hub.modelsource import Source, is_commit

Files = Mapping[str, str | None]


@dataclass(frozen=True)
class Request:
    """What to download, and what is known of it before."""

    source: Source
    licence: str | None = None  # where a registry states it
    system: str = "codec"  # `codec` is a model folder; of another system the name of its converter
    files: Files | None = None  # of another system: each file's place, and its SHA-256 or the first digits of it
    name: str = ""  # of another system: what the model is called once it is converted

    @property
    def key(self) -> str:
        """Its name in the cache folder; files of several models may lie in one place."""
        return self.source.key if self.system in ("codec", "hf") else key_of(f"known://{self.name}")

    @property
    def address(self) -> str:
        """What `load` takes for it, but for the commit and hash."""
        return self.source.text if self.system in ("codec", "hf") else self.name


def final_of(request: Request, revision: str | None) -> Path:
    """The folder of a model in the cache."""
    return models_folder() / (f"{request.key}--{key_of(revision)}" if revision else request.key)


def load_address(request: Request, revision: str | None) -> str:
    """What gives exactly this model again: the commit instead of a branch, the hash where there is one."""
    source = request.source
    if request.address == request.name:
        return request.name
    place = f"hf://{source.place}@{revision}" if source.is_hub else source.text
    return place + (f"#sha256={source.sha256}" if source.sha256 else "")


def commit_of(source: Source, first: Fetched) -> str | None:
    """The commit behind the revision; the revision itself where the server does not say. Raises: ModelError."""
    if not source.is_hub:
        return None
    said = first.header("X-Repo-Commit")
    if source.commit is not None:
        if said not in (None, source.commit):
            raise ModelError(f"{source.text}: the hub gives commit {clean(str(said), 12)}; not the wanted one")
        return source.commit
    return said if is_commit(said) else source.revision


def publish(
    request: Request, built: Path, final: Path, revision: str | None, *, hashes: Mapping[str, str], size_bytes: int
) -> None:
    """Give a whole model its name, and write down what it was made of.

    Args:
        request: what was asked for.
        built: the folder that is ready.
        final: its name.
        revision: of the hub's repository.
        hashes: file name to SHA-256 of what was downloaded.
        size_bytes: of what was downloaded.
    """
    record = {
        "load": load_address(request, revision),
        "licence": request.licence,
        "size_bytes": size_bytes,
        "sha256": dict(hashes),
    }
    with atomic_path(_record_path(final), overwrite=True, error=ModelError) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")
    if final.exists():  # damaged: it was asked for again
        shutil.rmtree(final)
    built.rename(final)


def compare_with_first(final: Path, hashes: Mapping[str, str]) -> None:
    """Raises: ModelError: other content than at the first download from there."""
    first = first_hashes(final)
    for name, sha256 in hashes.items():
        before = first.get(name, sha256)
        if before != sha256:
            raise ModelError(
                f"{name}: SHA-256 {sha256[:12]}, at the first download from there {clean(before, 12)}; "
                f"if you expect the change, remove {_record_path(final)}"
            )


def read_record(final: Path) -> dict[str, Any]:
    """What was written at the first download of a folder; empty where there was none."""
    return _read_json(_record_path(final))


def first_hashes(final: Path) -> dict[str, str]:
    """Name to SHA-256 at the first download; empty where there was none."""
    found = read_record(final).get("sha256")
    return {name: str(sha256) for name, sha256 in found.items()} if isinstance(found, dict) else {}


def read_ref(request: Request) -> str | None:
    """The commit that a hub's revision meant when it was first downloaded."""
    commit = _read_json(_refs_path(request)).get(request.source.revision or "")
    return None if commit is None else str(commit)


def write_ref(request: Request, revision: str | None) -> None:
    """Write down what a branch or tag means."""
    source = request.source
    if not source.is_hub or source.commit or revision is None:
        return
    path = _refs_path(request)
    path.parent.mkdir(exist_ok=True)
    refs = _read_json(path) | {source.revision or "": revision}
    with atomic_path(path, overwrite=True, error=ModelError) as temporary:
        temporary.write_text(json.dumps(refs, indent=1) + "\n")


def _record_path(final: Path) -> Path:
    return final.with_name(f"{final.name}.json")


def _refs_path(request: Request) -> Path:
    return cache_home() / "refs" / f"{request.key}.json"


def _read_json(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        data = json.loads(path.read_text())
        if isinstance(data, dict):
            return data
    return {}
