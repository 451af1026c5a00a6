"""A model on a network to a checked folder in the cache.

Everything is fetched into `models/NAME.part/` by one process at a time, checked there, and renamed: a model is here
whole or not at all. Files are data: safetensors, ONNX graphs and JSON; anything else is refused by its name.

>>> check_names(["weights.safetensors", "encoder.onnx"], where="here")
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from codec.errors import CodecError, ModelError
from codec.files import describe_os_error
from codec.hub.cachefolder import cache_home, is_offline, models_folder, one_at_a_time
from codec.hub.downloadview import progress_bar, say
from codec.hub.fetch import LostConnectionError, MissingFileError, Progress, Wanted, clean, fetch, short_size
from codec.hub.modelsource import MODEL_JSON, Source
from codec.hub.published import download_published, find_transformers
from codec.hub.record import (
    Files,
    Request,
    commit_of,
    compare_with_first,
    final_of,
    first_hashes,
    publish,
    read_record,
    read_ref,
    write_ref,
)
from codec.modelfolder import WEIGHTS, checksum, read_facts, read_model

MOST_JSON_BYTES = 1 << 20
SUFFIXES = (".safetensors", ".onnx", ".json", ".yaml", ".txt", ".md")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def cached_folder(request: Request) -> Path | None:
    """The folder of a model that is here already; no network is asked.

    Raises:
        ModelError: it is not the one of the wanted hash.
    """
    source = request.source
    revision = source.commit or (read_ref(request) if source.is_hub else None)
    if source.is_hub and revision is None:
        return None
    folder = final_of(request, revision)
    if not folder.is_dir():
        return None
    file = folder / MODEL_JSON
    wanted = source.sha256 or first_hashes(folder).get(MODEL_JSON)
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
        MissingExtraError: a package without which it cannot be converted is not installed.
    """
    found = None if refresh else cached_folder(request)
    if found is not None:
        return found
    name = request.address
    if is_offline():
        raise ModelError(f"{name}: not among the downloaded models, and HF_HUB_OFFLINE forbids the network")
    with one_at_a_time(request.key, waiting=lambda: say(f"{name}: waiting for another process's download")):
        found = None if refresh else cached_folder(request)
        if found is not None:
            return found
        staging = models_folder() / f"{request.key}.part"
        try:
            staging.mkdir(exist_ok=True)
            return _download(request, staging)
        except LostConnectionError:
            if not any(path.suffix != ".json" for path in staging.iterdir()):
                shutil.rmtree(staging, ignore_errors=True)
            raise
        except CodecError as error:
            shutil.rmtree(staging, ignore_errors=True)
            if not isinstance(error, ModelError):
                raise
            raise ModelError(str(error).replace(f"{staging}{os.sep}", f"{name}: ")) from None
        except OSError as failure:
            shutil.rmtree(staging, ignore_errors=True)
            raise ModelError(f"{cache_home()}: cannot be written: {describe_os_error(failure)}") from None


def _download(request: Request, staging: Path) -> Path:
    """Fetch, check and publish, under the lock: a model folder, or files of another system that become one."""
    token = _token() if request.source.is_hub else None
    if request.system != "codec":
        return download_published(request, staging, token)
    try:
        return _download_folder(request, staging, token)
    except MissingFileError as error:
        found = find_transformers(request, staging, token, error)
    return download_published(found, staging, token)


def _download_folder(request: Request, staging: Path, token: str | None) -> Path:
    """A folder with a model.json, which lists its files."""
    source = request.source
    (staging / MODEL_JSON).unlink(missing_ok=True)
    wanted = Wanted(source.file_url(MODEL_JSON), source.sha256, token, limit=MOST_JSON_BYTES)
    first = fetch(wanted, staging / MODEL_JSON)
    revision, hashes = commit_of(source, first), {MODEL_JSON: first.sha256}
    files, licence = _read_card(staging)
    check_names(files, where=source.text)
    final = final_of(request, revision)
    compare_with_first(final, hashes)
    if _is_whole(final, first.sha256):
        shutil.rmtree(staging)
        write_ref(request, revision)
        return final
    say(f"{source.text}: licence {clean(request.licence or licence or 'not stated')}")
    with progress_bar() as progress:
        hashes |= _fetch_files(source, files, staging, revision, token, progress)
    compare_with_first(final, hashes)
    read_model(staging)
    _check_weights(staging / WEIGHTS)
    size = sum((staging / name).stat().st_size for name in hashes)
    publish(request, staging, final, revision, hashes=hashes, size_bytes=size)
    write_ref(request, revision)
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


def _tell(request: Request, final: Path, hashes: Mapping[str, str]) -> None:
    """What came, on the first download: size, commit, and the hash that nobody had stated."""
    record = read_record(final)
    say(f"{request.address}: {short_size(record['size_bytes'])}, {record['load']}, in {final}")
    if request.source.sha256 is None:
        say(f"{MODEL_JSON} recorded as #sha256={hashes[MODEL_JSON]}")


def _token() -> str | None:
    """The user's token of the hub: `HF_TOKEN`, or what `hf auth login` kept."""
    from huggingface_hub import get_token

    return get_token()
