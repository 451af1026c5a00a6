"""Language-Codec at 24 kHz: the Lightning `.ckpt` of its authors.

Its four conditions for the norms of the decoder (all of one bitrate) mean nothing; the first is kept, as in its demos.

Source: Ji et al. 2024 (Language-Codec); the layout of keys as in its repository and the package `vocos` 0.1.0.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from codec.config import ModelConfig, Part
from codec.convert.state import Converted, Rules, State, read_state, translate
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
BLOCK = r"decoder\.layers\.0\.layers\.2\.layers\.(\d+)\.body\.layers\."
RULES: Rules = (
    (r"bottleneck\.books\.(\d+)\.embed", rf"{BOOKS}.\1._codebook.embed"),
    (r"encoder\.layers\.(\d+)\.lstm\.(.*)", rf"{ENCODER}.\1.lstm.\2"),
    (r"encoder\.layers\.(\d+)\.body\.layers\.(\d)\.conv\.(.*)", rf"{ENCODER}.\1.block.\2.conv.conv.\3"),
    (r"encoder\.layers\.(\d+)\.shortcut\.conv\.(.*)", rf"{ENCODER}.\1.shortcut.conv.conv.\2"),
    (r"encoder\.layers\.(\d+)\.conv\.(.*)", rf"{ENCODER}.\1.conv.conv.\2"),
    (r"decoder\.layers\.0\.layers\.0\.conv\.(.*)", r"backbone.embed.\1"),
    (r"decoder\.layers\.0\.layers\.1\.norm\.(.*)", r"backbone.norm.\1"),
    (BLOCK + r"0\.conv\.(.*)", r"backbone.convnext.\1.dwconv.\2"),
    (BLOCK + r"1\.norm\.(.*)", r"backbone.convnext.\1.norm.\2"),
    (BLOCK + r"2\.linear\.(.*)", r"backbone.convnext.\1.pwconv1.\2"),
    (BLOCK + r"4\.linear\.(.*)", r"backbone.convnext.\1.pwconv2.\2"),
    (BLOCK + r"5\.scale", r"backbone.convnext.\1.gamma"),
    (r"decoder\.layers\.0\.layers\.3\.norm\.(.*)", r"backbone.final_layer_norm.\1"),
    (r"decoder\.layers\.0\.layers\.4\.linear\.(.*)", r"head.out.\1"),
)


def convert_languagecodec(path: Path) -> Converted:
    """A `.ckpt` of Language-Codec.

    Raises:
        ModelError: damaged, or of another system.
    """
    state = _plain_norms(read_state(path, "state_dict"))
    config = _config(state, path)
    return Converted(config, translate(state, config, RULES, where=path, ignored=IGNORED), LICENCE)


def _plain_norms(state: State) -> State:
    """Norms with a scale and a shift for each condition become plain ones, of the first."""
    plain = {}
    for key, x in state.items():
        norm = re.fullmatch(r"(backbone\..*norm)\.(scale|shift)\.weight", key)
        if norm:
            plain[f"{norm[1]}.{'weight' if norm[2] == 'scale' else 'bias'}"] = x[0]
        else:
            plain[key] = x
    return plain


def _config(state: State, path: Path) -> ModelConfig:
    """The sizes that the tensors show."""
    needed = (f"{ENCODER}.0.conv.conv.weight", f"{BOOKS}.0._codebook.embed", "backbone.embed.weight", "head.out.weight")
    for key in (*needed, "backbone.convnext.0.pwconv1.weight"):
        if key not in state:
            raise ModelError(f"{path}: not Language-Codec's state dict (no {key})")
    first, book, embed, head = (state[key] for key in needed)
    # Of each stage the strided convolution is third, with a kernel of twice its stride.
    strides = tuple(state[f"{ENCODER}.{i}.conv.conv.weight"].shape[-1] // 2 for i in (3, 6, 9, 12))
    dim, _, kernel_size = embed.shape
    options = {"n_filters": first.shape[0], "strides": strides, "causal": False, "padding": "mirror", "ragged": True}
    return ModelConfig(
        encoder=Part("conv", options),
        bottleneck=Part("masked", {"n_codebooks": _count(state, BOOKS), "codebook_size": len(book)}),
        decoder=Part(
            "vocos",
            {
                "dim": dim,
                "hidden_dim": len(state["backbone.convnext.0.pwconv1.weight"]),
                "n_blocks": _count(state, "backbone.convnext"),
                "kernel_size": kernel_size,
                "n_fft": len(head) - 2,
            },
        ),
        sample_rate=24000,
        hop_length=math.prod(strides),
        latent_dim=book.shape[1],
    )


def _count(state: State, prefix: str) -> int:
    """Parts `prefix.0`, `prefix.1`, ..."""
    return len({key.removeprefix(f"{prefix}.").partition(".")[0] for key in state if key.startswith(f"{prefix}.")})
