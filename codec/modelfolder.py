"""A model on disk: a folder with `model.json`, weights, and whatever else its card names.

`model.json` holds `format` (1), `info` (what is known without building the network), `config` (the network) and `files`
(name to SHA-256). Nothing in it is executable.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from codec.config import ModelConfig, ModelInfo, from_dict, to_dict
from codec.errors import ModelError

FORMAT = 1
WEIGHTS = "weights.safetensors"
GRAPHS = "encoder.onnx", "decoder.onnx"
INT8_GRAPHS = "encoder.int8.onnx", "decoder.int8.onnx"


@dataclass(frozen=True)
class ModelFolder:
    """What a model folder says of itself, checked."""

    path: Path
    info: ModelInfo
    config: ModelConfig

    @property
    def weights_path(self) -> Path:
        """The weights, safetensors."""
        return self.path / WEIGHTS

    @property
    def has_graphs(self) -> bool:
        """Whether ONNX graphs lie beside the weights."""
        return self.has(GRAPHS)

    @property
    def has_int8_graphs(self) -> bool:
        """Whether there are graphs with 8-bit products too."""
        return self.has(INT8_GRAPHS)

    def has(self, names: Iterable[str]) -> bool:
        """Whether these files lie in the folder."""
        return all((self.path / name).is_file() for name in names)


def read_model(path: Path) -> ModelFolder:
    """Read and check a model folder: its JSON, and its files against their checksums.

    Raises:
        ModelError: not a model folder, of a later format, incomplete or damaged.
    """
    folder, files = read_facts(path)
    for name, checksum in files.items():
        check_file(path / name, checksum)
    if files.get(WEIGHTS) != folder.info.weights_hash:
        raise ModelError(
            f"{path / 'model.json'}: weights_hash is not the checksum of {WEIGHTS}; install the model again"
        )
    return folder


def read_facts(path: Path) -> tuple[ModelFolder, dict[str, str]]:
    """A model folder's JSON alone: what it says of itself, and the checksums of its files, not yet compared.

    Raises:
        ModelError: not a model folder, of a later format, or a wrong model.json.
    """
    file = path / "model.json"
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{path}: not a model folder, it has no model.json; `codec models` lists the known ones"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file}: cannot be read ({error}); install the model again") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else None
        raise ModelError(f"{file}: model format {found!r}, this build reads {FORMAT}; upgrade codec")
    try:
        info = from_dict(ModelInfo, data["info"], where="info")
        config = from_dict(ModelConfig, data["config"], where="config")
        files = {Path(name).name: str(checksum) for name, checksum in dict(data["files"]).items()}
    except KeyError as error:
        raise ModelError(f"{file}: incomplete: no {error}; install the model again") from None
    except (TypeError, ValueError) as error:  # ConfigError is one
        raise ModelError(f"{file}: wrong: {error}; install the model again") from None
    return ModelFolder(path, info, config), files


def write_model(path: Path, info: ModelInfo, config: ModelConfig) -> ModelFolder:
    """Write `model.json` beside the files that lie in the folder already; the weights' checksum becomes `weights_hash`.

    Raises:
        ModelError: the folder has no weights.
    """
    files = {
        p.name: checksum(p)
        for p in sorted(path.iterdir())
        if p.is_file() and p.suffix != ".md" and p.name != "model.json"
    }
    if WEIGHTS not in files:
        raise ModelError(f"{path}: no {WEIGHTS}; write the weights first")
    info = from_dict(ModelInfo, to_dict(info) | {"weights_hash": files[WEIGHTS]})
    data = {"format": FORMAT, "info": to_dict(info), "config": to_dict(config), "files": files}
    (path / "model.json").write_text(json.dumps(data, indent=1) + "\n")
    return ModelFolder(path, info, config)


def checksum(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_file(path: Path, expected: str) -> None:
    """Compare a file with its checksum. Raises: ModelError: missing or damaged."""
    if not path.is_file():
        raise ModelError(f"{path}: missing; install the model again")
    found = checksum(path)
    if found != expected:
        raise ModelError(f"{path}: damaged: SHA-256 {found[:12]}, expected {expected[:12]}; install the model again")
