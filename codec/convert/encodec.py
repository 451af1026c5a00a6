"""EnCodec at 24 kHz: the `.th` state dict of its authors, and the folder of transformers' EncodecModel.

Source: Défossez et al. 2022 (EnCodec); the layout of keys as in the packages `encodec` 0.1.1 and `transformers` 5.
"""

from __future__ import annotations

from pathlib import Path

from codec.config import ModelConfig, Part
from codec.convert.state import Converted, Rules, State, read_state, translate
from codec.errors import ModelError

LICENCE = "CC-BY-NC-4.0"  # of the published weights

# What training left in the file.
IGNORED = (r".*codebook\.(inited|cluster_size|embed_avg)",)
RULES: dict[str, Rules] = {
    "authors": (
        (r"bottleneck\.levels\.(\d+)\.embed", r"quantizer.vq.layers.\1._codebook.embed"),
        (r"(encoder|decoder)\.layers\.(\d+)\.lstm\.(.*)", r"\1.model.\2.lstm.\3"),
        (r"(encoder|decoder)\.layers\.(\d+)\.body\.layers\.(\d)\.conv\.(.*)", r"\1.model.\2.block.\3.conv.conv.\4"),
        (r"(encoder|decoder)\.layers\.(\d+)\.shortcut\.conv\.(.*)", r"\1.model.\2.shortcut.conv.conv.\3"),
        (r"decoder\.layers\.(3|6|9|12)\.conv\.(.*)", r"decoder.model.\1.convtr.convtr.\2"),
        (r"(encoder|decoder)\.layers\.(\d+)\.conv\.(.*)", r"\1.model.\2.conv.conv.\3"),
    ),
    "transformers": (
        (r"bottleneck\.levels\.(\d+)\.embed", r"quantizer.layers.\1.codebook.embed"),
        (r"(encoder|decoder)\.layers\.(\d+)\.lstm\.(.*)", r"\1.layers.\2.lstm.\3"),
        (r"(encoder|decoder)\.layers\.(\d+)\.body\.layers\.(\d)\.conv\.(.*)", r"\1.layers.\2.block.\3.conv.\4"),
        (r"(encoder|decoder)\.layers\.(\d+)\.shortcut\.conv\.(.*)", r"\1.layers.\2.shortcut.conv.\3"),
        (r"(encoder|decoder)\.layers\.(\d+)\.conv\.(.*)", r"\1.layers.\2.conv.\3"),
    ),
}


def convert_encodec(path: Path) -> Converted:
    """A `.th` or `.safetensors` file, or a transformers folder, of the causal model at 24 kHz.

    Raises:
        ModelError: damaged, or of another model: the one at 48 kHz codes stereo, in overlapping seconds.
    """
    state = read_state(path, "best_state", "model")
    style = "authors" if any(key.startswith("encoder.model.") for key in state) else "transformers"
    config = _config(state, style, path)
    return Converted(config, translate(state, config, RULES[style], where=path, ignored=IGNORED), LICENCE)


def _config(state: State, style: str, path: Path) -> ModelConfig:
    """The sizes that the tensors show."""
    stem, place = {"authors": ("encoder.model.", "conv.conv"), "transformers": ("encoder.layers.", "conv")}[style]
    first = state.get(f"{stem}0.{place}.weight")
    end = state.get(f"{stem}15.{place}.weight")
    table = RULES[style][0][1].replace(r"\1", "{}")
    n_codebooks = 0
    while table.format(n_codebooks) in state:
        n_codebooks += 1
    if first is None or end is None or not n_codebooks:
        raise ModelError(f"{path}: not EnCodec's state dict (no {stem}0.{place}.weight, 15 or codebooks)")
    if any(".norm." in key for key in state) or first.shape[1] != 1:
        what = "EnCodec at 48 kHz, stereo in overlapping seconds with a loudness each, which no network here codes"
        raise ModelError(f"{path}: {what}; convert the one at 24 kHz")
    strides = tuple(state[f"{stem}{i}.{place}.weight"].shape[-1] // 2 for i in (3, 6, 9, 12))
    options = {"n_filters": first.shape[0], "strides": strides, "padding": "mirror"}
    size, dim = state[table.format(0)].shape
    hop = 1
    for stride in strides:
        hop *= stride
    return ModelConfig(
        encoder=Part("conv", options | {"ragged": True}),
        bottleneck=Part("residual", {"n_codebooks": n_codebooks, "codebook_size": size}),
        decoder=Part("conv", dict(options)),
        sample_rate=24000,
        hop_length=hop,
        latent_dim=dim,
    )
