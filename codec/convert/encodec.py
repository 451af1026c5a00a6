"""EnCodec at 24 and 48 kHz: the `.th` state dict of its authors, and the folder of transformers' EncodecModel.

Source: Défossez et al. 2022 (EnCodec); the layout of keys as in the packages `encodec` 0.1.1 and `transformers` 5.
"""

from __future__ import annotations

import math
from pathlib import Path

from codec.config import ModelConfig, Part
from codec.convert.state import Converted, Rules, State, read_state, translate
from codec.errors import ModelError
from codec.segments import Segments

LICENCE = "CC-BY-NC-4.0"  # of the published weights
SECOND = Segments(length=48000, stride=47520)  # the model at 48 kHz: one second, 1 % of it shared with the next

# What training left in the file.
IGNORED = (r".*codebook\.(inited|cluster_size|embed_avg)",)
PART = r"(?:\.layers\.[01])?\.(conv|norm)\."  # a convolution, or what normalises it, alone or both in a chain
RULES: dict[str, Rules] = {
    "authors": (
        (r"bottleneck\.levels\.(\d+)\.embed", r"quantizer.vq.layers.\1._codebook.embed"),
        (r"(encoder|decoder)\.layers\.(\d+)\.lstm\.(.*)", r"\1.model.\2.lstm.\3"),
        (rf"(encoder|decoder)\.layers\.(\d+)\.body\.layers\.(\d){PART}(.*)", r"\1.model.\2.block.\3.conv.\4.\5"),
        (rf"(encoder|decoder)\.layers\.(\d+)\.shortcut{PART}(.*)", r"\1.model.\2.shortcut.conv.\3.\4"),
        (r"decoder\.layers\.(3|6|9|12)\.conv\.(.*)", r"decoder.model.\1.convtr.convtr.\2"),
        (r"decoder\.layers\.(3|6|9|12)\.norm\.(.*)", r"decoder.model.\1.convtr.norm.\2"),
        (rf"(encoder|decoder)\.layers\.(\d+){PART}(.*)", r"\1.model.\2.conv.\3.\4"),
    ),
    "transformers": (
        (r"bottleneck\.levels\.(\d+)\.embed", r"quantizer.layers.\1.codebook.embed"),
        (r"(encoder|decoder)\.layers\.(\d+)\.lstm\.(.*)", r"\1.layers.\2.lstm.\3"),
        (rf"(encoder|decoder)\.layers\.(\d+)\.body\.layers\.(\d){PART}(.*)", r"\1.layers.\2.block.\3.\4.\5"),
        (rf"(encoder|decoder)\.layers\.(\d+)\.shortcut{PART}(.*)", r"\1.layers.\2.shortcut.\3.\4"),
        (rf"(encoder|decoder)\.layers\.(\d+){PART}(.*)", r"\1.layers.\2.\3.\4"),
    ),
}


def convert_encodec(path: Path) -> Converted:
    """A `.th` or `.safetensors` file, or a transformers folder, of either model.

    Raises:
        ModelError: damaged, or of another model.
    """
    state = read_state(path, "best_state", "model")
    style = "authors" if any(key.startswith("encoder.model.") for key in state) else "transformers"
    config = _config(state, style, path)
    return Converted(config, translate(state, config, RULES[style], where=path, ignored=IGNORED), LICENCE)


def read_encodec(path: Path) -> tuple[State, ModelConfig]:
    """The state dict of the authors' `.th`, weight norm folded, and its network. Raises: ModelError."""
    state = read_state(path, "best_state", "model")
    return state, _config(state, "authors", path)


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
    strides = tuple(state[f"{stem}{i}.{place}.weight"].shape[-1] // 2 for i in (3, 6, 9, 12))
    options = {"n_filters": first.shape[0], "strides": strides, "padding": "mirror"}
    is_stereo = first.shape[1] == 2
    if is_stereo:
        options |= {"causal": False, "norm": "conv"}
    size, dim = state[table.format(0)].shape
    return ModelConfig(
        encoder=Part("conv", options | {"ragged": True}),
        bottleneck=Part("residual", {"n_codebooks": n_codebooks, "codebook_size": size}),
        decoder=Part("conv", dict(options)),
        sample_rate=48000 if is_stereo else 24000,
        hop_length=math.prod(strides),
        channels=2 if is_stereo else 1,
        latent_dim=dim,
        segments=SECOND if is_stereo else None,
    )
