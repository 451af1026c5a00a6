"""ESC: the `.pth` of its authors, a state dict under `model_state_dict`.

Source: Gu and Diao 2024 (ESC); the layout of keys as in its code.
"""

from __future__ import annotations

import re
from pathlib import Path

from codec.config import ModelConfig, Part
from codec.convert.state import Converted, Rules, State, read_checkpoint, take_tensors, translate
from codec.errors import ModelError
from codec.nn.esc import FRAME, EscConfig

LICENCE = "MIT"  # of its code; it names no other for the weights
# Windows and distances are made anew; a flag of their start.
IGNORED = (r"i?ft\.window", r".*\.relative_position_index", r"quantizers\.\d+\.codebook_initialized")
OLDER = (("encoder.pre_swin.", "encoder.pre_nn."), ("decoder.post_swin.", "decoder.post_nn."))
STAGES = (
    (r"encoder\.first", "encoder.pre_nn"),
    (r"encoder\.stages\.(\d+)", r"encoder.blocks.\1"),
    (r"bottleneck\.inner\.(\d+)", r"decoder.blocks.\1"),
    (r"decoder\.last", "decoder.post_nn"),
)
BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    r"attention\.project_in": "attn.qkv",
    r"attention\.project_out": "attn.proj",
    "expand": "mlp.linear_1",
    "project": "mlp.linear_2",
}


def find_rules() -> Rules:
    """The names of all parts."""
    rules: list[tuple[str, str]] = []
    for ours, theirs in STAGES:
        n = ours.count("(")
        block, place = rf"{ours}\.blocks\.(\d+)", rf"{theirs}.swint_blocks.\{n + 1}"
        rules += [(rf"{block}\.{a}\.(weight|bias)", rf"{place}.{b}.\{n + 2}") for a, b in BLOCK.items()]
        rules.append((rf"{block}\.attention\.bias", f"{place}.attn.relative_position_bias_table"))
        rules.append((rf"{ours}\.norm\.(.*)", rf"{theirs}.subsample.norm.\{n + 1}"))
        name = "up" if "decoder" in theirs else "down"
        rules.append((rf"{ours}\.resize\.weight", f"{theirs}.subsample.{name}.weight"))
    group = r"bottleneck\.streams\.(\d+)\.groups\.(\d+)"
    return (
        *rules,
        (r"encoder\.patch\.(.*)", r"encoder.patch_embed.proj.\1"),
        (r"encoder\.norm\.(.*)", r"encoder.patch_embed.norm.\1"),
        (r"decoder\.spread\.(.*)", r"decoder.patch_deembed.de_proj1.\1"),
        (r"decoder\.mix\.(.*)", r"decoder.patch_deembed.de_proj2.\1"),
        (rf"{group}\.book\.embed", r"quantizers.\1.vqs.\2.embedding.weight"),
        (rf"{group}\.project_in\.weight", r"quantizers.\1.down_projs.\2.weight"),
        (rf"{group}\.project_out\.weight", r"quantizers.\1.up_projs.\2.weight"),
    )


def convert_esc(path: Path) -> Converted:
    """A file such as `esc9kbps_base.pth`; its `config.yaml` is not needed, the tensors show the sizes.

    Raises:
        ModelError: damaged, of another system, or of another backbone.
    """
    state = take_tensors(read_checkpoint(path), path, "model_state_dict")
    for older, newer in OLDER:
        state = {newer + key.removeprefix(older) if key.startswith(older) else key: x for key, x in state.items()}
    config = _config(state, path)
    return Converted(config, translate(state, config, find_rules(), where=path, ignored=IGNORED), LICENCE)


def _config(state: State, path: Path) -> ModelConfig:
    """The sizes that the tensors show."""
    stages = _count(state, r"encoder\.blocks\.(\d+)\..*")
    streams = _count(state, r"quantizers\.(\d+)\..*")
    table = "attn.relative_position_bias_table"
    wanted = [f"encoder.blocks.{i}.swint_blocks.0.{table}" for i in range(stages)]
    wanted += [f"quantizers.{i}.vqs.0.embedding.weight" for i in range(streams)]
    wanted += [f"encoder.blocks.{i}.subsample.down.weight" for i in range(stages)]
    if (
        not stages
        or streams != stages + 1
        or "encoder.patch_embed.proj.weight" not in state
        or set(wanted) - set(state)
    ):
        raise ModelError(f"{path}: no ESC with window attention in it; is it of another system or backbone?")
    widths = [state["encoder.patch_embed.proj.weight"].shape[0]]
    widths += [state[f"encoder.blocks.{i}.subsample.down.weight"].shape[0] for i in range(stages)]
    sizes = {
        "widths": tuple(widths),
        "n_heads": tuple(state[key].shape[1] for key in wanted[:stages]),
        "n_blocks": _count(state, r"encoder\.blocks\.0\.swint_blocks\.(\d+)\..*"),
    }
    tables = [state[f"quantizers.{i}.vqs.0.embedding.weight"] for i in range(streams)]
    quantizer = {
        "n_groups": _count(state, r"quantizers\.0\.vqs\.(\d+)\..*"),
        "codebook_size": tables[0].shape[0],
        "codebook_dims": tuple(one.shape[1] for one in tables),
    }
    return ModelConfig(
        encoder=Part("esc", dict(sizes)),
        bottleneck=Part("cross_scale", sizes | quantizer),
        decoder=Part("esc", dict(sizes)),
        sample_rate=16000,
        hop_length=FRAME,
        latent_dim=EscConfig(**sizes).latent_dim,  # type: ignore[arg-type]
    )


def _count(state: State, pattern: str) -> int:
    return 1 + max((int(found[1]) for key in state if (found := re.fullmatch(pattern, key))), default=-1)
