"""A folder of a model that runs in transformers' own class to a model folder: the same weights, byte for byte.

Its `config.json` becomes the options of the encoder, so that `model.json` holds all that is not weights.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path

from safetensors import SafetensorError, safe_open

from codec.convert.state import read_settings
from codec.engine.hf_engine import CLASSES, describe, model_config, read_config
from codec.errors import ConfigError, ModelError
from codec.modelfolder import WEIGHTS, ModelFolder, write_model


def is_wrapped(source: Path) -> bool:
    """Whether a transformers folder, or the weights' file in it, is of such a model. Raises: ModelError."""
    return read_settings(source).get("model_type") in CLASSES


def wrap(source: Path, target: Path, name: str) -> ModelFolder:
    """Write the model folder.

    Args:
        source: the transformers folder, with `model.safetensors`, or that file.
        target: the folder, made if it is missing.
        name: of the model.

    Raises:
        ModelError: damaged, or refused by transformers.
    """
    room = source if source.is_dir() else source.parent
    settings, weights = read_settings(room), room / "model.safetensors"
    if not weights.is_file():
        raise ModelError(f"{room}: no {weights.name}; weights in other forms are not taken")
    try:
        info = describe(read_config(settings, str(room / "config.json")), name, licence="")
    except (ArithmeticError, AttributeError, ConfigError, TypeError, ValueError) as error:
        raise ModelError(f"{room / 'config.json'}: wrong ({str(error).partition(chr(10))[0]})") from None
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(weights, target / WEIGHTS)
    info = dataclasses.replace(info, parameters=_count(target / WEIGHTS))
    return write_model(target, info, model_config(settings, info))


def _count(weights: Path) -> dict[str, int]:
    """Numbers of each part, by the first word of their names. Raises: ModelError."""
    counts = dict.fromkeys(("encoder", "bottleneck", "decoder"), 0)
    try:
        with safe_open(weights, framework="numpy") as file:
            for key in file.keys():  # noqa: SIM118 (no dict)
                word = key.partition(".")[0]
                part = "bottleneck" if word == "quantizer" else "decoder" if "decoder" in word else "encoder"
                counts[part] += math.prod(file.get_slice(key).get_shape())
    except SafetensorError as error:
        raise ModelError(f"{weights}: not a safetensors file ({error}); download it again") from None
    return counts
