"""A transformers folder of any model that converts: its `config.json` says which."""

from __future__ import annotations

from pathlib import Path

from codec.convert.dac import convert_dac
from codec.convert.encodec import convert_encodec
from codec.convert.mimi import convert_mimi
from codec.convert.state import Converted, Converter, read_settings
from codec.errors import ModelError

# model_type of config.json -> its converter
MODEL_TYPES: dict[str, Converter] = {"dac": convert_dac, "encodec": convert_encodec, "mimi": convert_mimi}


def convert_hf(path: Path) -> Converted:
    """A folder saved by `save_pretrained`, or the weights' file in it.

    Raises:
        ModelError: damaged, or of a model that has no converter.
    """
    kind = read_settings(path).get("model_type")
    if kind not in MODEL_TYPES:
        known = ", ".join(sorted(MODEL_TYPES))
        raise ModelError(f"{path}: model_type {kind!r} has no converter; known are {known}")
    return MODEL_TYPES[kind](path if path.is_dir() else path.parent)
