"""Files that others published, downloaded and converted once into a model folder of the cache.

What the files are is said by a registry, or by the `config.json` of a hub's repository, as transformers writes it. They
are read as tensors and plain data, never executed, and removed once they are converted; their hashes stay on record.

>>> main_file(["config.json", "folder/SpeechTokenizer.pt"])
'SpeechTokenizer.pt'
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from codec.errors import CodecError, MissingExtraError, ModelError
from codec.files import describe_os_error
from codec.hub.cachefolder import cache_home, key_of, models_folder, one_at_a_time
from codec.hub.downloadview import progress_bar, say
from codec.hub.fetch import Fetched, MissingFileError, Progress, Wanted, clean, fetch, short_size
from codec.hub.modelsource import MODEL_JSON, is_commit
from codec.hub.record import Request, commit_of, compare_with_first, final_of, publish, read_record, write_ref
from codec.modelfolder import checksum, read_model

CONFIG = "config.json"
TRANSFORMERS_FILES = (CONFIG, "model.safetensors")
# model_type of a transformers folder -> the extra that it needs: some have a network of ours, others run in theirs.
MODEL_TYPES = {"dac": "torch", "encodec": "torch", "mimi": "torch", "xcodec": "interop", "xcodec2": "interop"}
SYSTEMS = (
    *("dac", "distilcodec", "encodec", "esc", "facodec", "hf", "hificodec", "languagecodec", "mimi", "snac"),
    *("speechtokenizer", "vocos"),
)
PACKAGES = {"torch": ("torch",), "interop": ("torch", "transformers")}
MOST_CONFIG_BYTES = 1 << 20
# What a file of a stranger can raise in a converter; each is a wrong checkpoint, and no fault of ours.
DAMAGED = (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)


def find_transformers(request: Request, staging: Path, token: str | None, missing: MissingFileError) -> Request:
    """The request for a repository without model.json: its `config.json` says whether it is a model of transformers.

    Raises:
        MissingFileError: `missing`, as it is no hub's repository, or a model.json of a certain hash was asked for.
        ModelError: its config.json is of no model that runs here.
    """
    source = request.source
    if not source.is_hub or source.sha256 is not None:
        raise missing
    wanted = Wanted(source.file_url(CONFIG), None, token, limit=MOST_CONFIG_BYTES)
    try:
        fetch(wanted, staging / CONFIG)
    except MissingFileError:
        raise missing from None
    kind = read_model_type(staging / CONFIG)
    if kind not in MODEL_TYPES:
        known = ", ".join(MODEL_TYPES)
        raise ModelError(f"{source.text}: no model.json, and a config.json of {clean(str(kind))!r}; known are {known}")
    check_extra(MODEL_TYPES[kind], source.text)
    name = source.place.rpartition("/")[2]
    return replace(request, system="hf", files=dict.fromkeys(TRANSFORMERS_FILES), name=name)


def read_model_type(path: Path) -> str | None:
    """What a `config.json` says that it is of; None where it does not."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    kind = data.get("model_type") if isinstance(data, dict) else None
    return kind if isinstance(kind, str) else None


def check_extra(extra: str, name: str) -> None:
    """Raises: MissingExtraError: a package that a model needs is not installed."""
    for package in PACKAGES.get(extra, ()):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, extra, need=f"the model {name}")


def download_published(request: Request, staging: Path, token: str | None) -> Path:
    """Fetch, check, convert and publish, under the lock; the model's folder.

    Raises:
        ModelError: refused, damaged, or of another system.
        LostConnectionError: the connection broke.
    """
    source, files = request.source, request.files or {}
    shutil.rmtree(staging / "converted", ignore_errors=True)
    hashes: dict[str, str] = {}
    revision = source.commit
    is_settled = revision is not None or not source.is_hub
    if is_settled and _is_whole(final_of(request, revision)):
        return _keep(request, staging, revision)
    if request.licence is not None:
        say(f"{request.address}: licence {clean(request.licence)}")
    with progress_bar() as progress:
        for place, stated in files.items():
            fetched = _fetch(request, place, stated, staging, revision=revision, token=token, progress=progress)
            hashes[_name_of(place)] = fetched.sha256
            if not is_settled:
                revision, is_settled = commit_of(source, fetched), True
                if _is_whole(final_of(request, revision)):
                    return _keep(request, staging, revision)
    final = final_of(request, revision)
    compare_with_first(final, hashes)
    size = sum((staging / name).stat().st_size for name in hashes)
    licence = convert_files(staging / main_file(files), request.system, staging / "converted", request.name)
    if request.licence is None:
        say(f"{request.address}: licence {clean(licence or 'not stated')}")
    publish(request, staging / "converted", final, revision, hashes=hashes, size_bytes=size)
    shutil.rmtree(staging)
    write_ref(request, revision)
    _tell(request, final, hashes)
    return final


def convert_files(source: Path, system: str, target: Path, name: str) -> str:
    """Make a model folder of published files; its licence.

    Raises:
        ModelError: they are damaged, or of another system.
    """
    from codec.convert.run import convert  # torch

    try:
        return convert(source, target, system, lambda line: None, name=name, graphs=False).info.licence
    except ModelError:
        raise
    except CodecError as error:
        raise ModelError(f"{source}: not a checkpoint of {system} ({error})") from None
    except DAMAGED as error:
        reason = clean(str(error).partition("\n")[0] or type(error).__name__)
        raise ModelError(f"{source}: not a checkpoint of {system} ({reason})") from error


def main_file(places: Iterable[str]) -> str:
    """The file that the converter takes: the first that is not the settings beside it."""
    return next(_name_of(place) for place in places if not place.endswith(".json"))


def is_foreign(folder: Path) -> bool:
    """Whether a folder is one that transformers wrote, and not yet a model folder."""
    return not (folder / MODEL_JSON).is_file() and (folder / CONFIG).is_file()


def adopt(folder: Path) -> Path:
    """The model folder of a transformers folder on this disk, converted into the cache where it is not there.

    Raises:
        ModelError: damaged, or of a model that does not run here.
        MissingExtraError: a package that it needs is not installed.
    """
    kind = read_model_type(folder / CONFIG)
    if kind not in MODEL_TYPES:
        known = ", ".join(MODEL_TYPES)
        raise ModelError(f"{folder}: no model.json, and a config.json of {clean(str(kind))!r}; known are {known}")
    check_extra(MODEL_TYPES[kind], str(folder))
    weights = folder / TRANSFORMERS_FILES[1]
    if not weights.is_file():
        raise ModelError(f"{folder}: no {weights.name} beside its {CONFIG}; save it again with save_pretrained")
    name = key_of(folder.resolve().name)
    digest = hashlib.sha256(f"{checksum(folder / CONFIG)} {checksum(weights)}".encode()).hexdigest()[:16]
    key = f"local--{name}--{digest}"
    final = models_folder() / key
    if (final / MODEL_JSON).is_file():
        return final
    with one_at_a_time(key, waiting=lambda: say(f"{folder}: waiting for another process that converts it")):
        if (final / MODEL_JSON).is_file():
            return final
        staging = models_folder() / f"{key}.part"
        shutil.rmtree(staging, ignore_errors=True)
        try:
            convert_files(folder, "hf", staging, name)
            staging.rename(final)
        except ModelError as error:
            raise ModelError(str(error).replace(f"{staging}{os.sep}", f"{folder}: ")) from None
        except OSError as failure:
            raise ModelError(f"{cache_home()}: cannot be written: {describe_os_error(failure)}") from None
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return final


def _fetch(
    request: Request,
    place: str,
    stated: str | None,
    staging: Path,
    *,
    revision: str | None,
    token: str | None,
    progress: Progress,
) -> Fetched:
    target = staging / _name_of(place)
    if not is_commit(revision):
        target.unlink(missing_ok=True)  # of an earlier run, perhaps of another commit
    return fetch(Wanted(request.source.file_url(place, revision=revision), stated, token), target, progress)


def _keep(request: Request, staging: Path, revision: str | None) -> Path:
    """What is here is what was asked for."""
    shutil.rmtree(staging)
    write_ref(request, revision)
    return final_of(request, revision)


def _is_whole(folder: Path) -> bool:
    try:
        read_model(folder)
    except ModelError:
        return False
    return True


def _name_of(place: str) -> str:
    return PurePosixPath(place).name


def _tell(request: Request, final: Path, hashes: Mapping[str, str]) -> None:
    """What came, and the hashes that nobody had stated."""
    record = read_record(final)
    say(f"{request.address}: {short_size(record['size_bytes'])}, {record['load']}, converted in {final}")
    for place, stated in (request.files or {}).items():
        if stated is None or len(stated) < 64:
            say(f"{place} recorded as SHA-256 {hashes[_name_of(place)]}")
