"""Model name to local folder: inside the package, on this disk, or downloaded.

>>> find_model("default_16k").name
'default_16k'
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from codec.errors import ModelError
from codec.hub.cachefolder import cache_home, downloaded
from codec.hub.registry import Entry, known_models
from codec.modelfolder import read_facts

if TYPE_CHECKING:
    from codec.hub.record import Request

# What reaches a network (urllib, ssl) is imported in the functions that do: `import codec` stays quick.

EMBEDDED = Path(__file__).parent.parent / "models"
DEFAULT = "default_16k"


def list_models() -> list[str]:
    """Names of the models inside the package."""
    return sorted(p.parent.name for p in EMBEDDED.glob("*/model.json"))


def registry() -> dict[str, Entry]:
    """The known models by name. Raises: ModelError: a wrong registry."""
    return known_models(cache_home() / "registry.json")


def find_model(name: str | Path) -> Path:
    """The folder of a model.

    Args:
        name: a known model's name, a model folder's path, or an address: `hf://org/repo@revision` or
            `https://host/folder/model.json#sha256=...`. A model on a network is downloaded the first time, and a folder
            or repository that transformers wrote is converted.

    Raises:
        ModelError: unknown, or it cannot be downloaded or converted.
        MissingExtraError: a package that it needs is not installed.
    """
    if isinstance(name, str):
        if name in list_models():
            return EMBEDDED / name
        if "://" in name:
            from codec.hub.modeldownload import download_model
            from codec.hub.modelsource import parse_source
            from codec.hub.record import Request

            return download_model(Request(parse_source(name)))
    path = Path(name)
    entry = registry().get(name) if isinstance(name, str) else None
    if entry is not None and not entry.is_packaged:
        from codec.hub.modeldownload import download_model

        check_runs(entry)
        return download_model(request_of(entry))
    if path.is_dir():
        from codec.hub.published import adopt, is_foreign

        return adopt(path) if is_foreign(path) else path
    raise ModelError(f"{name}: no such model; give a model folder or one of {', '.join(sorted(registry()))}")


def download(name: str) -> Path:
    """Bring a model here, asking the network also where it is here already; its folder.

    Raises:
        ModelError: unknown, or it cannot be downloaded.
    """
    from codec.hub.modeldownload import download_model
    from codec.hub.modelsource import parse_source
    from codec.hub.record import Request

    if "://" in name:
        return download_model(Request(parse_source(name)), refresh=True)
    entry = registry().get(name)
    if entry is None:
        raise ModelError(
            f"{name}: no such model; give hf://org/repo@revision or one of {', '.join(sorted(registry()))}"
        )
    if entry.is_packaged:
        return EMBEDDED / name
    check_runs(entry)
    return download_model(request_of(entry), refresh=True)


def find_by_weights(name: str, weights_hash: str) -> Path | None:
    """The folder of the model that made some codes, among those inside the package and the downloaded ones.

    Where that is not here, one under its name that has the same codes.

    Args:
        name: of the model, from a file; it is compared, never used as a path.
        weights_hash: SHA-256 of its weights, hex, whole or its first half.
    """
    found = None
    for folder in [*(EMBEDDED / name for name in list_models()), *downloaded()]:
        try:
            info = read_facts(folder)[0].info
        except ModelError:
            continue
        if info.name == name and info.knows_codes_of(name, weights_hash):
            if info.weights_hash.startswith(weights_hash):
                return folder
            found = found or folder
    return found


def list_sources() -> list[tuple[str, Path]]:
    """What `load` takes for each downloaded model folder, and the folder."""
    from codec.hub.record import read_record

    return [(str(read_record(folder).get("load", folder)), folder) for folder in downloaded()]


def is_here(entry: Entry) -> bool:
    """Whether a known model needs no network."""
    from codec.hub.modeldownload import cached_folder

    return entry.is_packaged or (not entry.by_hand and cached_folder(request_of(entry)) is not None)


def check_runs(entry: Entry) -> None:
    """Check that a known model can run here, before it is downloaded.

    Raises:
        ModelError: it is of a system that this build does not know, or only a browser gets it.
        MissingExtraError: a package that it needs is not installed.
    """
    from codec.hub.published import SYSTEMS, check_extra

    if entry.system not in ("codec", *SYSTEMS):
        raise ModelError(f"{entry.name}: a model of {entry.system}; this build cannot run it, upgrade codec")
    if entry.by_hand:
        raise ModelError(
            f"{entry.name}: cannot be downloaded from here: save it from {entry.source} with a browser, then "
            f"`codec convert FILE FOLDER --from {entry.system}`"
        )
    if entry.extra is not None:
        check_extra(entry.extra, entry.name)


def request_of(entry: Entry) -> Request:
    """What to download for a known model."""
    from codec.hub.modelsource import parse_source
    from codec.hub.record import Request

    hashes = (entry.files or {}).values()
    source = parse_source(entry.address, has_hashes=bool(hashes) and all(len(one or "") == 64 for one in hashes))
    return Request(source, entry.licence, entry.system, entry.files, entry.name)
