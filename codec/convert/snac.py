"""SNAC at 24 kHz: the folder with `config.json` and `pytorch_model.bin`.

Source: Siuzdak et al. 2024 (SNAC); the layout of keys as in the package `snac` 1.2.
"""

from __future__ import annotations

import math
from pathlib import Path

from codec.config import ModelConfig, Part
from codec.convert.dac import AUTHORS, squeeze
from codec.convert.state import (
    Converted,
    Rules,
    fold_weight_norm,
    map_keys,
    read_checkpoint,
    read_settings,
    rename,
    take_tensors,
)
from codec.errors import ModelError
from codec.network import Network

LICENCE = "MIT"  # of the published weights

# Its stages are named as DAC's, but for the noise block between conv and units.
RULES: Rules = (
    (r"decoder\.layers\.(\d+)\.layers\.2\.linear\.(.*)", r"decoder.model.\1.block.2.linear.\2"),
    *AUTHORS,
)
NAMES = ("sampling_rate", "encoder_dim", "encoder_rates", "decoder_dim", "codebook_size", "codebook_dim", "vq_strides")


def convert_snac(path: Path) -> Converted:
    """The published folder, or the weights' file in it. The noise blocks add nothing: decoding twice gives one result.

    Raises:
        ModelError: damaged, of another system, or one with attention (32 and 44 kHz).
    """
    settings = read_settings(path)
    missing = [name for name in NAMES if name not in settings]
    if missing:
        raise ModelError(f"{path}: its config.json has no {missing[0]}; is it a folder of SNAC?")
    if settings.get("attn_window_size") is not None or not settings.get("depthwise", True):
        raise ModelError(
            f"{path}: windowed attention or full convolutions, as SNAC at 32 and 44 kHz; only 24 kHz converts"
        )
    state = fold_weight_norm(take_tensors(read_checkpoint(path), path))
    strides, divisors = tuple(settings["encoder_rates"]), tuple(settings["vq_strides"])
    common = {"strides": strides, "depthwise": True}
    noise = bool(settings.get("noise", True))
    config = ModelConfig(
        encoder=Part("snake", common | {"n_filters": settings["encoder_dim"]}),
        bottleneck=Part(
            "factorised",
            {
                "n_codebooks": len(divisors),
                "codebook_size": settings["codebook_size"],
                "codebook_dim": settings["codebook_dim"],
                "divisors": divisors,
            },
        ),
        decoder=Part("snake", common | {"width": settings["decoder_dim"], "noise": noise}),
        sample_rate=settings["sampling_rate"],
        hop_length=math.prod(strides),
        latent_dim=settings.get("latent_dim") or settings["encoder_dim"] << len(strides),
    )
    keys = map_keys(Network(config).state_dict(), RULES, where=str(path))
    return Converted(config, squeeze(rename(state, keys, where=str(path))), LICENCE)
