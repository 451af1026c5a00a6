"""SpeechTokenizer at 16 kHz: the `.pt` state dict of its authors, `config.json` beside it.

Source: Zhang et al. 2024 (SpeechTokenizer); the layout of keys as in the package `speechtokenizer` 1.0.1.
"""

from __future__ import annotations

import math
from pathlib import Path

from codec.config import ModelConfig, Part
from codec.convert.state import Converted, Rules, read_settings, read_state, translate
from codec.errors import ModelError

LICENCE = "Apache-2.0"  # of its repository, which names no other for the weights

# The projection to the teacher's features, and what training left in the codebooks.
IGNORED = (r"transform\..*", r".*_codebook\.(inited|cluster_size|embed_avg)")
SIDE = r"(encoder|decoder)\.layers\.(\d+)"
RULES: Rules = (
    (r"bottleneck\.levels\.(\d+)\.embed", r"quantizer.vq.layers.\1._codebook.embed"),
    (SIDE + r"\.lstm\.(.*)", r"\1.model.\2.lstm.\3"),
    (SIDE + r"\.body\.layers\.(\d)\.conv\.(.*)", r"\1.model.\2.block.\3.conv.conv.\4"),
    (SIDE + r"\.shortcut\.conv\.(.*)", r"\1.model.\2.shortcut.conv.conv.\3"),
    (r"decoder\.layers\.(3|6|9|12)\.conv\.(.*)", r"decoder.model.\1.convtr.convtr.\2"),
    (SIDE + r"\.conv\.(.*)", r"\1.model.\2.conv.conv.\3"),
)
# What this network takes for granted, and what the settings must say of it.
FIXED = {"activation": "ELU", "bidirectional": True}


def convert_speechtokenizer(path: Path) -> Converted:
    """The `.pt` of a SpeechTokenizer.

    Raises:
        ModelError: damaged, of another system, or with other layers than the published one's.
    """
    config = _config(path)
    state = read_state(path, "generator")
    return Converted(config, translate(state, config, RULES, where=path, ignored=IGNORED), LICENCE)


def _config(path: Path) -> ModelConfig:
    settings = read_settings(path)
    try:
        strides = tuple(int(stride) for stride in reversed(settings["strides"]))
        options = {
            "n_filters": settings["n_filters"],
            "strides": strides,
            "n_residual": settings["n_residual_layers"],
            "dilation_base": settings["dilation_base"],
            "residual_kernel_size": settings["residual_kernel_size"],
            "n_recurrent": settings["lstm_layers"],
            "causal": False,
            "padding": "mirror",
        }
        found = {name: settings[name] for name in FIXED}
        quantizer = {"n_codebooks": settings["n_q"], "codebook_size": settings["codebook_size"]}
        rate, dim = settings["sample_rate"], settings["dimension"]
    except KeyError as error:
        raise ModelError(f"{path}: its config.json has no {error}; is it of a SpeechTokenizer?") from None
    if found != FIXED or len(strides) != 4:
        raise ModelError(
            f"{path}: {found} and {len(strides)} strides; only SpeechTokenizers with {FIXED} and 4 convert"
        )
    return ModelConfig(
        encoder=Part("conv", options | {"recurrent": "bilstm", "ragged": True}),
        bottleneck=Part("residual", quantizer),
        decoder=Part("conv", options),
        sample_rate=rate,
        hop_length=math.prod(strides),
        latent_dim=dim,
    )
