"""SNAC at 24, 32 and 44 kHz: the folder with `config.json` and `pytorch_model.bin`.

Source: Siuzdak et al. 2024 (SNAC); the layout of keys as in the package `snac` 1.2.
"""

from __future__ import annotations

import math
from pathlib import Path

from codec.config import ModelConfig, Part
from codec.convert.dac import AUTHORS, squeeze
from codec.convert.state import Converted, Rules, read_settings, read_state, translate
from codec.errors import ModelError

LICENCE = "MIT"  # of the published weights

# Its stages are named as DAC's, but for the noise block between conv and units, and attention at 32 and 44 kHz.
RULES: Rules = (
    *(
        (rf"{room}\.layers\.(\d+)\.body\.layers\.{ours}", rf"{room}.{theirs}")
        for room, place in (("encoder", "block"), ("decoder", "model"))
        for ours, theirs in (
            (r"0\.norm\.(.*)", rf"{place}.\1.norm.\2"),
            (r"1\.project_in\.weight", rf"{place}.\1.to_qkv.weight"),
            (r"1\.project_out\.weight", rf"{place}.\1.to_out.weight"),
        )
    ),
    (r"decoder\.layers\.(\d+)\.layers\.2\.linear\.(.*)", r"decoder.model.\1.block.2.linear.\2"),
    *AUTHORS,
)
NAMES = ("sampling_rate", "encoder_dim", "encoder_rates", "decoder_dim", "codebook_size", "codebook_dim", "vq_strides")
IGNORED = (r".*\.rel_pos\.inv_freq",)  # follows from the size of a head


def convert_snac(path: Path) -> Converted:
    """The published folder, or the weights' file in it. The noise blocks add nothing: decoding twice gives one result.

    Raises:
        ModelError: damaged, of another system, or one with full convolutions.
    """
    settings = read_settings(path)
    missing = [name for name in NAMES if name not in settings]
    if missing:
        raise ModelError(f"{path}: its config.json has no {missing[0]}; is it a folder of SNAC?")
    if not settings.get("depthwise", True):
        raise ModelError(f"{path}: full convolutions; only SNACs with depthwise ones, as all published, convert")
    state = read_state(path)
    strides, divisors = tuple(settings["encoder_rates"]), tuple(settings["vq_strides"])
    window = settings.get("attn_window_size", 32)  # their class's default; null is none
    common = {"strides": strides, "depthwise": True, "window": window or 0}
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
    return Converted(config, squeeze(translate(state, config, RULES, where=path, ignored=IGNORED)), LICENCE)
