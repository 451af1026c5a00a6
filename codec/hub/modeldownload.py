"""A model on a network to a checked folder in the cache.

Everything is fetched into `models/NAME.part/` by one process at a time, checked there, and renamed: a model is here
whole or not at all. Files are data: safetensors, ONNX graphs and JSON; anything else is refused by its name.

>>> check_names(["weights.safetensors", "encoder.onnx"], where="here")
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codec.errors import ModelError
from codec.files import atomic_path, describe_os_error
from codec.hub.cachefolder import cache_home, is_offline, key_of, models_folder, one_at_a_time
from codec.hub.downloadview import progress_bar, say
from codec.hub.fetch import Fetched, LostConnectionError, Progress, Wanted, clean, fetch, short_size
from codec.hub.modelsource import MODEL_JSON, Source, is_commit
from codec.modelfolder import WEIGHTS, checksum, read_facts, read_model

MOST_JSON_BYTES = 1 << 20
SUFFIXES = (".safetensors", ".onnx", ".json", ".yaml", ".txt", ".md")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

Files = Mapping[str, str | None]


@dataclass(frozen=True)
class Request:
    """What to download, and what is known of it before."""

    source: Source
    licence: str | None = None  # where a registry states it
    files: Files | None = None  # of another system than ours; None where a model.json lists them


def cached_folder(source: Source) -> Path | None:
    """The folder of a model that is here already; no network is asked.

    Raises:
        ModelError: it is not the one of the wanted hash.
    """
    revision = source.commit or (_read_refs(source).get(source.revision or "") if source.is_hub else None)
    if source.is_hub and revision is None:
        return None
    folder = _final(source, revision)
    if not folder.is_dir():
        return None
    file = folder / MODEL_JSON
    wanted = source.sha256 or _first_hashes(folder).get(MODEL_JSON)
    if wanted is not None and (not file.is_file() or checksum(file) != wanted):
        raise ModelError(
            f"{file}: its SHA-256 is not {wanted[:12]}; it is another one or damaged, `codec download {source.text}`"
        )
    return folder


def download_model(request: Request, *, refresh: bool = False) -> Path:
    """The folder of a model, downloaded where it is not here.

    Args:
        request: what.
        refresh: ask the network also for what is here: a branch may have moved, a file may be damaged.

    Raises:
        ModelError: offline, refused, damaged, not a model, no space; one line, and nothing is left behind.
        LostConnectionError: the connection broke; the next call goes on there.
    """
    source = request.source
    found = None if refresh else cached_folder(source)
    if found is not None:
        return found
    if is_offline():
        raise ModelError(f"{source.text}: not among the downloaded models, and HF_HUB_OFFLINE forbids the network")
    with one_at_a_time(source.key, waiting=lambda: say(f"{source.text}: waiting for another process's download")):
        found = None if refresh else cached_folder(source)
        if found is not None:
            return found
        staging = models_folder() / f"{source.key}.part"
        try:
            staging.mkdir(exist_ok=True)
            return _download(request, staging)
        except LostConnectionError:
            if not any(path.suffix == ".part" or path.name == WEIGHTS for path in staging.iterdir()):
                shutil.rmtree(staging, ignore_errors=True)
            raise
        except ModelError as error:
            shutil.rmtree(staging, ignore_errors=True)
            raise ModelError(str(error).replace(f"{staging}{os.sep}", f"{source.text}: ")) from None
        except OSError as failure:
            shutil.rmtree(staging, ignore_errors=True)
            raise ModelError(f"{cache_home()}: cannot be written: {describe_os_error(failure)}") from None


def _begin(request: Request, staging: Path, token: str | None) -> tuple[str | None, Files, str, dict[str, str]]:
    """Revision, files, licence and the hashes so far, of what is to come; with the model.json of a model folder."""
    source = request.source
    (staging / MODEL_JSON).unlink(missing_ok=True)
    if request.files is not None:
        return source.commit, request.files, "", {}
    wanted = Wanted(source.file_url(MODEL_JSON), source.sha256, token, limit=MOST_JSON_BYTES)
    first = fetch(wanted, staging / MODEL_JSON)
    revision = _commit_of(source, first)
    files, licence = _read_card(staging)
    return revision, files, licence, {MODEL_JSON: first.sha256}


def _download(request: Request, staging: Path) -> Path:
    """Fetch, check and publish, under the lock."""
    source = request.source
    token = _token() if source.is_hub else None
    revision, files, licence, hashes = _begin(request, staging, token)
    check_names(files, where=source.text)
    final = _final(source, revision)
    _compare_with_first(final, hashes)
    if request.files is None and _is_whole(final, hashes[MODEL_JSON]):
        shutil.rmtree(staging)
        _write_ref(source, revision)
        return final
    say(f"{source.text}: licence {clean(request.licence or licence or 'not stated')}")
    with progress_bar() as progress:
        hashes |= _fetch_files(source, files, staging, revision, token, progress)
    _compare_with_first(final, hashes)
    if request.files is None:
        read_model(staging)
        _check_weights(staging / WEIGHTS)
    _publish(request, staging, final, hashes, revision)
    _write_ref(source, revision)
    _tell(request, final, hashes)
    return final


def _fetch_files(
    source: Source, files: Files, staging: Path, revision: str | None, token: str | None, progress: Progress
) -> dict[str, str]:
    """Name to SHA-256."""
    for path in staging.iterdir():  # of an earlier run, at another revision
        if path.name != MODEL_JSON and path.name.removesuffix(".part.json").removesuffix(".part") not in files:
            path.unlink()
    return {
        name: fetch(Wanted(source.file_url(name, revision=revision), sha256, token), staging / name, progress).sha256
        for name, sha256 in files.items()
    }


def check_names(names: Iterable[str], *, where: str) -> None:
    """Refuse files that are not plain names of data files; `where` is for the message.

    Raises:
        ModelError: named.
    """
    for name in names:
        if not _NAME.fullmatch(name) or not name.endswith(SUFFIXES) or name == MODEL_JSON:
            allowed = ", ".join(SUFFIXES)
            raise ModelError(
                f"{where}: {clean(name)!r}: a model's files are plain names that end in {allowed}; not downloaded"
            )


def _read_card(staging: Path) -> tuple[dict[str, str], str]:
    """The files that a model.json lists, with their hashes, and the licence. Raises: ModelError."""
    data = (staging / MODEL_JSON).read_bytes()
    if not data.lstrip().startswith(b"{"):
        raise ModelError(f"{staging / MODEL_JSON}: not JSON; check the address")
    folder, files = read_facts(staging)
    for name, sha256 in files.items():
        if not _SHA256.fullmatch(sha256):
            raise ModelError(f"{staging / MODEL_JSON}: {clean(name)!r} has no SHA-256; the model is not whole")
    if files.get(WEIGHTS) != folder.info.weights_hash:
        raise ModelError(f"{staging / MODEL_JSON}: weights_hash is not the SHA-256 of {WEIGHTS}; not downloaded")
    return files, folder.info.licence


def _commit_of(source: Source, first: Fetched) -> str | None:
    """The commit behind the revision; the revision itself where the server does not say. Raises: ModelError."""
    if not source.is_hub:
        return None
    said = first.header("X-Repo-Commit")
    if source.commit is not None:
        if said not in (None, source.commit):
            raise ModelError(f"{source.text}: the hub gives commit {clean(str(said), 12)}; not the wanted one")
        return source.commit
    return said if is_commit(said) else source.revision


def _final(source: Source, revision: str | None) -> Path:
    return models_folder() / (f"{source.key}--{key_of(revision)}" if revision else source.key)


def _is_whole(folder: Path, sha256: str) -> bool:
    """Whether a folder has this model.json and everything that it lists."""
    try:
        read_model(folder)
        return checksum(folder / MODEL_JSON) == sha256
    except ModelError:
        return False


def _check_weights(path: Path) -> None:
    """Open the weights' table of contents. Raises: ModelError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as weights:
            weights.keys()
    except SafetensorError as error:
        raise ModelError(f"{path}: not a safetensors file ({clean(str(error))}); not downloaded") from None


def _compare_with_first(final: Path, hashes: Mapping[str, str]) -> None:
    """Raises: ModelError: other content than at the first download from there."""
    first = _first_hashes(final)
    for name, sha256 in hashes.items():
        before = first.get(name, sha256)
        if before != sha256:
            raise ModelError(
                f"{name}: SHA-256 {sha256[:12]}, at the first download from there {clean(before, 12)}; "
                f"if you expect the change, remove {_record_path(final)}"
            )


def _record_path(final: Path) -> Path:
    return final.with_name(f"{final.name}.json")


def read_record(final: Path) -> dict[str, Any]:
    """What was written at the first download of a folder; empty where there was none."""
    return _read_json(_record_path(final))


def _first_hashes(final: Path) -> dict[str, str]:
    """Name to SHA-256 at the first download; empty where there was none."""
    found = read_record(final).get("sha256")
    return {name: str(sha256) for name, sha256 in found.items()} if isinstance(found, dict) else {}


def _publish(request: Request, staging: Path, final: Path, hashes: Mapping[str, str], revision: str | None) -> None:
    record = {
        "load": _address(request.source, revision),
        "licence": request.licence,
        "size_bytes": sum((staging / name).stat().st_size for name in hashes),
        "sha256": dict(hashes),
    }
    with atomic_path(_record_path(final), overwrite=True, error=ModelError) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")
    if final.exists():  # damaged: it was asked for again
        shutil.rmtree(final)
    staging.rename(final)


def _address(source: Source, revision: str | None) -> str:
    """What gives exactly this model again: the commit instead of a branch, the hash where there is one."""
    place = f"hf://{source.place}@{revision}" if source.is_hub else source.text
    return place + (f"#sha256={source.sha256}" if source.sha256 else "")


def _tell(request: Request, final: Path, hashes: Mapping[str, str]) -> None:
    """What came, on the first download: size, commit, and the hash that nobody had stated."""
    record = read_record(final)
    say(f"{request.source.text}: {short_size(record['size_bytes'])}, {record['load']}, in {final}")
    if request.files is None and request.source.sha256 is None:
        say(f"{MODEL_JSON} recorded as #sha256={hashes[MODEL_JSON]}")
    for name, stated in (request.files or {}).items():
        if stated is None:
            say(f"{name} recorded as SHA-256 {hashes[name]}")


def _refs_path(source: Source) -> Path:
    return cache_home() / "refs" / f"{source.key}.json"


def _read_refs(source: Source) -> dict[str, str]:
    return {name: str(commit) for name, commit in _read_json(_refs_path(source)).items()}


def _write_ref(source: Source, revision: str | None) -> None:
    if not source.is_hub or source.commit or revision is None:
        return
    path = _refs_path(source)
    path.parent.mkdir(exist_ok=True)
    refs = _read_refs(source) | {source.revision or "": revision}
    with atomic_path(path, overwrite=True, error=ModelError) as temporary:
        temporary.write_text(json.dumps(refs, indent=1) + "\n")


def _read_json(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        data = json.loads(path.read_text())
        if isinstance(data, dict):
            return data
    return {}


def _token() -> str | None:
    """The user's token of the hub: `HF_TOKEN`, or what `hf auth login` kept."""
    from huggingface_hub import get_token

    return get_token()
