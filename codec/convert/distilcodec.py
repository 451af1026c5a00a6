"""DistilCodec: the `g_` file with the state dicts of generator, encoder and quantizer; its settings beside it.

Source: Wang et al. 2025 (DistilCodec); the layout of keys as in its published code.
"""

from __future__ import annotations

import math
import re
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
    take_tensors,
    translate,
)
from codec.errors import ModelError

LICENCE = "CC-BY-NC-ND-4.0"  # by its readme, for the whole work
# What training left in the codebooks.
IGNORED = (
    r"quantizer\.grvq\.rvqs\.\d+\.layers\.\d+\._codebook\.(initted|cluster_size|embed_avg|batch_mean|batch_variance)",
)
# Of the published weights; no tensor tells them. `config.json` beside a checkpoint says others.
PUBLISHED: dict[str, dict[str, Any]] = {
    "spec_transform": {
        "sampling_rate": 24000,
        "n_fft": 1024,
        "win_size": 1024,
        "hop_size": 256,
        "fmin": 0,
        "fmax": None,
    },
    "decoder": {"upsample_rates": [8, 4, 2, 2, 2]},
}
# a block of ours, place by place -> theirs
BLOCK = (
    (r"body\.layers\.0\.conv\.(weight|bias)", "dwconv"),
    (r"body\.layers\.1\.norm\.(weight|bias)", "norm"),
    (r"body\.layers\.2\.linear\.(weight|bias)", "pwconv1"),
    (r"body\.layers\.4\.linear\.(weight|bias)", "pwconv2"),
)


def convert_distilcodec(path: Path) -> Converted:
    """A file such as `g_00204000`; `config.json` beside it where it is not of the published sizes.

    Raises:
        ModelError: damaged, of another system, or of settings that do not fit.
    """
    data = read_checkpoint(path)
    state: State = {}
    for room in ("encoder", "generator", "quantizer"):
        part = data.get(room) if isinstance(data, Mapping) else None
        if not isinstance(part, Mapping):
            raise ModelError(f"{path}: no {room} in it; give the file g_..., not do_... or another system's")
        state |= {f"{room}.{key}": x for key, x in fold_weight_norm(take_tensors(part, path)).items()}
    # Their codebooks have a first axis of heads, always one.
    state = {key: x.squeeze(0) if key.endswith("_codebook.embed") else x for key, x in state.items()}
    settings = read_settings(path) if (path.parent / "config.json").is_file() else PUBLISHED
    config = _config(state, settings, path)
    rules = find_rules(config.encoder.options["depths"], len(config.decoder.options["rates"]), bridge=_bridged(state))
    return Converted(config, translate(state, config, rules, where=path, ignored=IGNORED), LICENCE)


def find_rules(depths: tuple[int, ...], n_rates: int, *, bridge: bool) -> Rules:
    """The names of the parts of an encoder with stages of `depths` blocks and of a generator of `n_rates`."""
    rules: list[tuple[str, str]] = []
    n_stages = len(depths)
    for i, depth in enumerate(depths):
        stage, theirs = rf"encoder\.layers\.{i + 1}\.layers", f"encoder.downsample_layers.{i}"
        kinds = ("conv", "norm") if i == 0 else ("norm", "conv")
        rules += [(rf"{stage}\.{n}\.{kind}\.(.*)", rf"{theirs}.{n}.\1") for n, kind in enumerate(kinds)]
        for j in range(depth):
            rules += _block(rf"{stage}\.{j + 2}", f"encoder.stages.{i}.{j}")
    rules.append((rf"encoder\.layers\.{n_stages + 1}\.norm\.(.*)", r"encoder.norm.\1"))
    body = r"decoder\.layers"
    if bridge:
        rules.append((rf"encoder\.layers\.{n_stages + 2}\.conv\.(.*)", r"quantizer.downsample.0.0.\1"))
        rules += _block(rf"encoder\.layers\.{n_stages + 3}", "quantizer.downsample.0.1")
        rules.append((r"decoder\.layers\.0\.conv\.(.*)", r"quantizer.upsample.0.0.\1"))
        rules += _block(r"decoder\.layers\.1", "quantizer.upsample.0.1")
        body = r"decoder\.layers\.2\.layers"
    rules.append((rf"{body}\.0\.conv\.(.*)", r"generator.conv_pre.\1"))
    for s in range(n_rates):
        rules.append((rf"{body}\.{s + 1}\.layers\.1\.conv\.(.*)", rf"generator.ups.{s}.\1"))
        for place, name in ((1, "convs1"), (3, "convs2")):
            unit = rf"{body}\.{s + 1}\.layers\.2\.blocks\.(\d+)\.layers\.(\d+)\.body\.layers\.{place}\.conv\.(.*)"
            rules.append((unit, rf"generator.resblocks.{s}.blocks.\1.{name}.\2.\3"))
    rules.append((rf"{body}\.{n_rates + 2}\.conv\.(.*)", r"generator.conv_post.\1"))
    group = r"bottleneck\.groups\.(\d+)"
    rules.append((rf"{group}\.(project_in|project_out)\.(.*)", r"quantizer.grvq.rvqs.\1.\2.\3"))
    rules.append((rf"{group}\.levels\.(\d+)\.embed", r"quantizer.grvq.rvqs.\1.layers.\2._codebook.embed"))
    return tuple(rules)


def _block(ours: str, theirs: str) -> Rules:
    rules = [(rf"{ours}\.{pattern}", rf"{theirs}.{name}.\1") for pattern, name in BLOCK]
    return (*rules, (rf"{ours}\.body\.layers\.\d+\.scale", f"{theirs}.gamma"))


def _bridged(state: State) -> bool:
    return "quantizer.downsample.0.0.weight" in state


def _config(state: State, settings: Mapping[str, Any], path: Path) -> ModelConfig:
    """What the tensors show, and what only the settings say."""
    wanted = (
        "encoder.downsample_layers.0.0.weight",
        "generator.conv_pre.weight",
        "quantizer.grvq.rvqs.0.project_in.weight",
    )
    first, last, project = (state.get(key) for key in wanted)
    table = state.get("quantizer.grvq.rvqs.0.layers.0._codebook.embed")
    if first is None or last is None or project is None or table is None:
        raise ModelError(f"{path}: no ConvNeXt encoder, HiFi-GAN generator and grvq in it; is it of another system?")
    bridge = _bridged(state)
    if bridge and (
        state["quantizer.downsample.0.0.weight"].shape[-1] != 1 or "quantizer.downsample.1.0.weight" in state
    ):
        raise ModelError(f"{path}: its quantizer takes several frames for one; only a factor of 1 converts")
    mel, rates = _mel(settings, path), _rates(settings, path)
    n_stages = _count(state, r"encoder\.downsample_layers\.(\d+)\..*")
    depths = tuple(_count(state, rf"encoder\.stages\.{i}\.(\d+)\..*") for i in range(n_stages))
    dims = tuple(state[f"encoder.stages.{i}.0.gamma"].shape[0] for i in range(n_stages))
    n_up = _count(state, r"generator\.ups\.(\d+)\..*")
    if n_up != len(rates) or math.prod(rates) != mel.pop("hop_length"):
        raise ModelError(
            f"{path}: {n_up} up-sampling layers, settings say rates {list(rates)}; put its config.json beside it"
        )
    encoder = mel | {"n_mels": first.shape[1], "depths": depths, "dims": dims, "kernel_size": first.shape[2]}
    decoder = {
        "width": last.shape[0],
        "rates": rates,
        "kernels": tuple(state[f"generator.ups.{i}.weight"].shape[-1] for i in range(n_up)),
        "kernel_size": last.shape[2],
        "activation": "silu",
    }
    quantizer = {
        "n_groups": _count(state, r"quantizer\.grvq\.rvqs\.(\d+)\..*"),
        "n_levels": _count(state, r"quantizer\.grvq\.rvqs\.0\.layers\.(\d+)\..*"),
        "codebook_size": table.shape[0],
        "codebook_dim": table.shape[1],
    }
    return ModelConfig(
        encoder=Part("mel", encoder | {"bridge": bridge}),
        bottleneck=Part("projected", quantizer),
        decoder=Part("hifi", decoder | {"bridge": bridge}),
        sample_rate=mel["sample_rate"],
        hop_length=math.prod(rates),
        latent_dim=dims[-1],
    )


def _count(state: State, pattern: str) -> int:
    return 1 + max((int(found[1]) for key in state if (found := re.fullmatch(pattern, key))), default=-1)


def _mel(settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
    said = settings.get("spec_transform")
    names = ("sampling_rate", "n_fft", "win_size", "hop_size")
    if not isinstance(said, Mapping) or not all(isinstance(said.get(name), int) for name in names):
        raise ModelError(f"{path}: its settings say no spec_transform with {', '.join(names)}")
    if said["win_size"] != said["n_fft"] or said.get("fmin"):
        raise ModelError(
            f"{path}: windows of {said['win_size']} in {said['n_fft']}, or bands not from 0 Hz; not known here"
        )
    top = float(said.get("fmax") or 0)
    return {"sample_rate": said["sampling_rate"], "n_fft": said["n_fft"], "hop_length": said["hop_size"], "top": top}


def _rates(settings: Mapping[str, Any], path: Path) -> tuple[int, ...]:
    said = settings.get("decoder")
    rates = said.get("upsample_rates") if isinstance(said, Mapping) else None
    if not isinstance(rates, list) or not rates or not all(isinstance(x, int) and x > 0 for x in rates):
        raise ModelError(f"{path}: its settings say no decoder.upsample_rates")
    return tuple(rates)
