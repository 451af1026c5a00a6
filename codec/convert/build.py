"""The sources of published checkpoints by name."""

from __future__ import annotations

from pathlib import Path

from codec.convert.dac import convert_dac
from codec.convert.distilcodec import convert_distilcodec
from codec.convert.encodec import convert_encodec
from codec.convert.esc import convert_esc
from codec.convert.facodec import convert_facodec
from codec.convert.hf import convert_hf
from codec.convert.hificodec import convert_hificodec
from codec.convert.languagecodec import convert_languagecodec
from codec.convert.mimi import convert_mimi
from codec.convert.snac import convert_snac
from codec.convert.speechtokenizer import convert_speechtokenizer
from codec.convert.state import Converted, Converter
from codec.convert.vocos import convert_vocos
from codec.errors import ConfigError

# name -> convert(path of the checkpoint file or folder)
CONVERTERS: dict[str, Converter] = {
    "dac": convert_dac,
    "distilcodec": convert_distilcodec,
    "encodec": convert_encodec,
    "esc": convert_esc,
    "facodec": convert_facodec,
    "hf": convert_hf,
    "hificodec": convert_hificodec,
    "languagecodec": convert_languagecodec,
    "mimi": convert_mimi,
    "snac": convert_snac,
    "speechtokenizer": convert_speechtokenizer,
    "vocos": convert_vocos,
}


def convert_checkpoint(path: Path, source: str) -> Converted:
    """Configuration and weights of a published checkpoint.

    Raises:
        ConfigError: an unknown source.
        ModelError: a file that is damaged or of another system.
    """
    if source not in CONVERTERS:
        raise ConfigError(f"--from {source}: unknown; known are {', '.join(sorted(CONVERTERS))}")
    return CONVERTERS[source](path)
