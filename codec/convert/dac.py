"""DAC: the `.pth` of its authors, and the folder of transformers' DacModel.

Source: Kumar et al. 2023 (DAC); the layout of keys as in `descript-audio-codec` 1.0 and `transformers` 5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codec.config import ModelConfig, Part
from codec.convert.state import (
    Converted,
    Rules,
    State,
    fold_weight_norm,
    read_checkpoint,
    read_settings,
    read_state,
    take_tensors,
    translate,
)
from codec.errors import ModelError

LICENCE = "MIT"  # of the published weights

QUANTIZER: Rules = (
    (r"bottleneck\.levels\.(\d+)\.project_(in|out)\.(.*)", r"quantizer.quantizers.\1.\2_proj.\3"),
    (r"bottleneck\.levels\.(\d+)\.book\.embed", r"quantizer.quantizers.\1.codebook.weight"),
)
# Ours: a stage is layers.1 to layers.N; the encoder's has three units, snake, conv, the decoder's snake, conv, units.
AUTHORS: Rules = (
    *QUANTIZER,
    (
        r"encoder\.layers\.(\d+)\.layers\.(\d)\.body\.layers\.(\d)\.(?:conv\.)?(.*)",
        r"encoder.block.\1.block.\2.block.\3.\4",
    ),
    (r"encoder\.layers\.(\d+)\.layers\.(\d)\.(?:conv\.)?(.*)", r"encoder.block.\1.block.\2.\3"),
    (r"encoder\.layers\.(\d+)\.(?:conv\.)?(.*)", r"encoder.block.\1.\2"),
    (
        r"decoder\.layers\.(\d+)\.layers\.(\d)\.body\.layers\.(\d)\.(?:conv\.)?(.*)",
        r"decoder.model.\1.block.\2.block.\3.\4",
    ),
    (r"decoder\.layers\.(\d+)\.layers\.(\d)\.(?:conv\.|linear\.)?(.*)", r"decoder.model.\1.block.\2.\3"),
    (r"decoder\.layers\.(\d+)\.(?:conv\.)?(.*)", r"decoder.model.\1.\2"),
)


def convert_dac(path: Path) -> Converted:
    """A `.pth` with its `metadata`, or a transformers folder.

    Raises:
        ModelError: damaged, or of another system.
    """
    if path.is_dir():
        state = read_state(path)
        settings = read_settings(path)
        config = _config(
            state,
            strides=_sizes(settings, "downsampling_ratios", path),
            rate=_number(settings, "sampling_rate", path),
            width=_number(settings, "decoder_hidden_size", path),
            path=path,
        )
        rules = transformers_rules(len(config.encoder.options["strides"]))
    else:
        data = read_checkpoint(path)
        metadata = data.get("metadata") if isinstance(data, Mapping) else None
        kwargs = metadata.get("kwargs") if isinstance(metadata, Mapping) else None
        if not isinstance(kwargs, Mapping):
            raise ModelError(f"{path}: no metadata with kwargs beside its weights; is it a checkpoint of DAC?")
        state = fold_weight_norm(take_tensors(data, path, "state_dict"))
        config = _config(
            state,
            strides=_sizes(kwargs, "encoder_rates", path),
            rate=_number(kwargs, "sample_rate", path),
            width=_number(kwargs, "decoder_dim", path),
            path=path,
        )
        rules = AUTHORS
    return Converted(config, squeeze(translate(state, config, rules, where=path)), LICENCE)


def squeeze(weights: State) -> State:
    """Convolutions of one step that are matrices here, and activations per channel: axes of length 1 dropped."""

    def shaped(key: str) -> tuple[int, ...]:
        x = weights[key]
        if key.endswith(".alpha"):
            return (x.numel(),)
        flat = key.endswith((".project_in.weight", ".project_out.weight", ".linear.weight"))
        return tuple(x.shape[:2]) if flat else tuple(x.shape)

    return {key: x.reshape(shaped(key)) for key, x in weights.items()}


def transformers_rules(n_stages: int) -> Rules:
    """The names that transformers gives the parts of `n_stages` stages; its units have their number from 1."""
    rules: list[tuple[str, str]] = list(QUANTIZER)
    units = {0: "snake1", 1: "conv1", 2: "snake2", 3: "conv2"}
    for stage in range(n_stages):
        for room, first, parts in (
            ("encoder", 0, {3: "snake1", 4: "conv1"}),
            ("decoder", 2, {0: "snake1", 1: "conv_t1"}),
        ):
            ours, theirs = rf"{room}\.layers\.{stage + 1}\.layers", f"{room}.block.{stage}"
            for unit in range(3):
                for place, name in units.items():
                    pattern = rf"{ours}\.{first + unit}\.body\.layers\.{place}\.(?:conv\.)?(.*)"
                    rules.append((pattern, rf"{theirs}.res_unit{unit + 1}.{name}.\1"))
            for place, name in parts.items():
                rules.append((rf"{ours}\.{place}\.(?:conv\.)?(.*)", rf"{theirs}.{name}.\1"))
    for room in ("encoder", "decoder"):
        for place, name in ((0, "conv1"), (n_stages + 1, "snake1"), (n_stages + 2, "conv2")):
            rules.append((rf"{room}\.layers\.{place}\.(?:conv\.)?(.*)", rf"{room}.{name}.\1"))
    return tuple(rules)


def _config(state: State, *, strides: tuple[int, ...], rate: int, width: int, path: Path) -> ModelConfig:
    first = state.get("encoder.block.0.weight", state.get("encoder.conv1.weight"))
    project, table = (state.get(f"quantizer.quantizers.0.{name}.weight") for name in ("in_proj", "codebook"))
    if first is None or project is None or table is None:
        raise ModelError(f"{path}: neither the authors' nor transformers' layout of DAC; is it of another system?")
    n_codebooks = sum(key.endswith(".codebook.weight") for key in state)
    bottleneck = {"n_codebooks": n_codebooks, "codebook_size": table.shape[0], "codebook_dim": table.shape[1]}
    return ModelConfig(
        encoder=Part("snake", {"n_filters": first.shape[0], "strides": strides}),
        bottleneck=Part("factorised", bottleneck),
        decoder=Part("snake", {"width": width, "strides": strides}),
        sample_rate=rate,
        hop_length=math.prod(strides),
        latent_dim=project.shape[1],
    )


def _number(settings: Mapping[str, Any], name: str, path: Path) -> int:
    value = settings.get(name)
    if not isinstance(value, int) or value < 1:
        raise ModelError(f"{path}: {name} is {value!r}, expected a number of at least 1")
    return value


def _sizes(settings: Mapping[str, Any], name: str, path: Path) -> tuple[int, ...]:
    value = settings.get(name)
    if not isinstance(value, list | tuple) or not value or not all(isinstance(x, int) and x > 0 for x in value):
        raise ModelError(f"{path}: {name} is {value!r}, expected numbers")
    return tuple(value)
