"""Language-Codec at 24 kHz: the Lightning `.ckpt` of its authors.

Its four conditions for the norms of the decoder (all of one bitrate) mean nothing; the first is kept, as in its demos.

Source: Ji et al. 2024 (Language-Codec); the layout of keys as in its repository and the package `vocos` 0.1.0.
"""

from __future__ import annotations

import math
from pathlib import Path

from codec.config import ModelConfig, Part
from codec.convert.state import Converted, Rules, State, read_state, translate
from codec.convert.vocos import DECODER, NEEDED, plain_norms, vocos_part
from codec.errors import ModelError

LICENCE = "MIT"  # of its repository, which names no other for the weights

ENCODER, BOOKS = "feature_extractor.encodec.encoder.model", "feature_extractor.encodec.quantizer.vq.layers"
# Discriminators, losses, EnCodec's own decoder that was never trained, and what training left in the codebooks.
IGNORED = (
    r"(multiperioddisc|multiresddisc|dac|dacdiscriminator|melspec_loss)\..*",
    r"feature_extractor\.encodec\.decoder\..*",
    r".*_codebook\.(inited|cluster_size|embed_avg)",
    r"head\.istft\.window",
)
RULES: Rules = (
    (r"bottleneck\.books\.(\d+)\.embed", rf"{BOOKS}.\1._codebook.embed"),
    (r"encoder\.layers\.(\d+)\.lstm\.(.*)", rf"{ENCODER}.\1.lstm.\2"),
    (r"encoder\.layers\.(\d+)\.body\.layers\.(\d)\.conv\.(.*)", rf"{ENCODER}.\1.block.\2.conv.conv.\3"),
    (r"encoder\.layers\.(\d+)\.shortcut\.conv\.(.*)", rf"{ENCODER}.\1.shortcut.conv.conv.\2"),
    (r"encoder\.layers\.(\d+)\.conv\.(.*)", rf"{ENCODER}.\1.conv.conv.\2"),
    *DECODER,
)


def convert_languagecodec(path: Path) -> Converted:
    """A `.ckpt` of Language-Codec.

    Raises:
        ModelError: damaged, or of another system.
    """
    state = plain_norms(read_state(path, "state_dict"), 0)
    config = _config(state, path)
    return Converted(config, translate(state, config, RULES, where=path, ignored=IGNORED), LICENCE)


def _config(state: State, path: Path) -> ModelConfig:
    """The sizes that the tensors show."""
    needed = (f"{ENCODER}.0.conv.conv.weight", f"{BOOKS}.0._codebook.embed")
    for key in (*needed, *NEEDED):
        if key not in state:
            raise ModelError(f"{path}: not Language-Codec's state dict (no {key})")
    first, book = (state[key] for key in needed)
    # Of each stage the strided convolution is third, with a kernel of twice its stride.
    strides = tuple(state[f"{ENCODER}.{i}.conv.conv.weight"].shape[-1] // 2 for i in (3, 6, 9, 12))
    options = {"n_filters": first.shape[0], "strides": strides, "causal": False, "padding": "mirror", "ragged": True}
    return ModelConfig(
        encoder=Part("conv", options),
        bottleneck=Part("masked", {"n_codebooks": _count(state, BOOKS), "codebook_size": len(book)}),
        decoder=vocos_part(state),
        sample_rate=24000,
        hop_length=math.prod(strides),
        latent_dim=book.shape[1],
    )


def _count(state: State, prefix: str) -> int:
    """Parts `prefix.0`, `prefix.1`, ..."""
    return len({key.removeprefix(f"{prefix}.").partition(".")[0] for key in state if key.startswith(f"{prefix}.")})
