"""FACodec of NaturalSpeech 3: the folder with `ns3_facodec_encoder.bin` and `ns3_facodec_decoder.bin`.

Source: Ju et al. 2024 (NaturalSpeech 3); the layout of keys as in Amphion's code.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from codec.config import ModelConfig, Part
from codec.convert.state import Converted, Rules, State, read_state, translate
from codec.errors import ModelError

LICENCE = "Apache-2.0"  # of the weights, as their card on the hub says
FILES = ("ns3_facodec_encoder.bin", "ns3_facodec_decoder.bin")
HEADS = 4  # of the transformer's attention; no tensor tells them

# Filters and positions are made anew; the heads taught the parts what they are for, and are not needed to code.
IGNORED = (
    r".*\.(upsample|downsample\.lowpass)\.filter",
    r"decoder\.timbre_encoder\.position_emb\.pe",
    r"decoder\.(f0|phone|res_f0|res_phone|content_f0|prosody_phone|x_timbre)_predictor\..*",
)
PARTS = {"prosody": 0, "content": 1, "residual": 2}
NET = (r"encoder\.layers\.0", "encoder.block"), (r"decoder\.layers\.1", "decoder.model")
BLOCK = {"norm1": "ln_1", "norm2": "ln_2", "attention": "self_attn", "expand": "ffn.ffn_1", "project": "ffn.ffn_2"}


def find_rules() -> Rules:
    """The names of all parts."""
    rules: list[tuple[str, str]] = []
    for ours, theirs in NET:
        stage, unit = rf"{ours}\.layers\.(\d+)\.layers\.(\d)", r"body\.layers\.(\d)"
        rules += [
            (rf"{stage}\.{unit}\.(alpha|beta)", rf"{theirs}.\1.block.\2.block.\3.act.\4"),
            (rf"{stage}\.{unit}\.conv\.(.*)", rf"{theirs}.\1.block.\2.block.\3.\4"),
            (rf"{stage}\.(alpha|beta)", rf"{theirs}.\1.block.\2.act.\3"),
            (rf"{stage}\.conv\.(.*)", rf"{theirs}.\1.block.\2.\3"),
            (rf"{ours}\.layers\.(\d+)\.(alpha|beta)", rf"{theirs}.\1.act.\2"),
            (rf"{ours}\.layers\.(\d+)\.conv\.(.*)", rf"{theirs}.\1.\2"),
        ]
    for name, number in PARTS.items():
        level = rf"bottleneck\.{name}\.levels\.(\d+)"
        rules.append((rf"{level}\.book\.embed", rf"decoder.quantizer.{number}.layers.\1._codebook.weight"))
        for side in ("in", "out"):
            rules.append((rf"{level}\.project_{side}\.(.*)", rf"decoder.quantizer.{number}.layers.\1.{side}_proj.\2"))
    block = r"encoder\.layers\.1\.blocks\.(\d+)"
    rules += [(rf"{block}\.{a}\.(.*)", rf"decoder.timbre_encoder.layers.\1.{b}.\2") for a, b in BLOCK.items()]
    rules.append((r"encoder\.layers\.1\.norm\.(.*)", r"decoder.timbre_encoder.last_ln.\1"))
    rules.append((r"decoder\.layers\.0\.style\.(.*)", r"decoder.timbre_linear.\1"))
    return tuple(rules)


def convert_facodec(path: Path) -> Converted:
    """The folder, or one of its two files; the second version and the redecoder do not convert.

    Raises:
        ModelError: a file that is missing, damaged, or of another version.
    """
    folder = path if path.is_dir() else path.parent
    state: State = {}
    for room, name in zip(("encoder", "decoder"), FILES, strict=True):
        part = read_state(folder / name)
        state |= {f"{room}.{key}": x for key, x in part.items()}
    config = _config(state, folder)
    return Converted(config, translate(state, config, find_rules(), where=folder, ignored=IGNORED), LICENCE)


def _config(state: State, folder: Path) -> ModelConfig:
    """The sizes that the tensors show."""
    wanted = (
        "encoder.block.0.weight",
        "decoder.model.0.weight",
        "decoder.quantizer.0.layers.0._codebook.weight",
        "decoder.timbre_linear.weight",
    )
    first, last, table, style = (state.get(key) for key in wanted)
    if first is None or last is None or table is None or style is None:
        raise ModelError(f"{folder}: no FACodec of the first version in its files; is it of another system?")
    strides: list[int] = []
    while f"encoder.block.{len(strides) + 1}.block.4.weight" in state:
        strides.append(state[f"encoder.block.{len(strides) + 1}.block.4.weight"].shape[-1] // 2)
    counts = [_count(state, rf"decoder\.quantizer\.{i}\.layers\.(\d+)\..*") for i in PARTS.values()]
    dim = style.shape[1]
    inner = state.get("decoder.timbre_encoder.layers.0.ffn.ffn_1.weight")
    speaker = {
        "n_layers": _count(state, r"decoder\.timbre_encoder\.layers\.(\d+)\..*"),
        "n_heads": HEADS,
        "hidden_dim": 0 if inner is None else inner.shape[0],
        "positions": "none",
    }
    if not strides or min(counts) < 1 or not speaker["n_layers"] or not speaker["hidden_dim"]:
        raise ModelError(f"{folder}: parts of a FACodec are missing; is it the second version or the redecoder?")
    quantizer = {
        "codebook_size": table.shape[0],
        "codebook_dim": table.shape[1],
        "n_prosody": counts[0],
        "n_content": counts[1],
        "n_residual": counts[2],
        "n_passed": dim,
    }
    return ModelConfig(
        encoder=Part("speaker", {"n_filters": first.shape[0], "strides": tuple(strides), **speaker}),
        bottleneck=Part("attributes", quantizer),
        decoder=Part("speaker", {"width": last.shape[0], "strides": tuple(strides)}),
        sample_rate=16000,
        hop_length=math.prod(strides),
        latent_dim=2 * dim,
    )


def _count(state: State, pattern: str) -> int:
    return 1 + max((int(found[1]) for key in state if (found := re.fullmatch(pattern, key))), default=-1)
