"""Mimi at 24 kHz: the folder of transformers' MimiModel, as published at kyutai/mimi.

A codeword is `embed_sum / cluster_usage`: the stored sum alone is not it. The projections of both quantizers become one
matrix before the bottleneck and one behind it.

Source: Défossez et al. 2024 (Mimi); the layout of keys as in the package `transformers` 5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from codec.config import ModelConfig, Part
from codec.convert.state import Converted, Rules, State, read_checkpoint, read_settings, take_tensors, translate
from codec.errors import ModelError

LICENCE = "CC-BY-4.0"  # of the published weights

SIDE, BLOCK = r"(encoder|decoder)\.layers\.", r"\.layers\.(\d+)\.layers\."
RULES: Rules = (
    (r"bottleneck\.(semantic|acoustic)\.levels\.(\d+)\.embed", r"\1.\2.embed"),
    (r"(encoder)\.layers\.3\.linear\.weight", r"\1.projection"),
    (r"(decoder)\.layers\.0\.linear\.weight", r"\1.projection"),
    (r"encoder\.layers\.2\.conv\.weight", r"downsample.conv.weight"),
    (r"decoder\.layers\.1\.conv\.weight", r"upsample.conv.weight"),
    *(
        (SIDE + place + BLOCK + ours, rf"\1_transformer.layers.\2.{theirs}")
        for place in ("[12]",)
        for ours, theirs in (
            (r"0\.body\.layers\.0\.norm\.(.*)", r"input_layernorm.\3"),
            (r"0\.body\.layers\.1\.project_in\.weight", r"self_attn.qkv"),
            (r"0\.body\.layers\.1\.project_out\.weight", r"self_attn.o_proj.weight"),
            (r"0\.body\.layers\.2\.scale", r"self_attn_layer_scale.scale"),
            (r"1\.body\.layers\.0\.norm\.(.*)", r"post_attention_layernorm.\3"),
            (r"1\.body\.layers\.1\.linear\.weight", r"mlp.fc1.weight"),
            (r"1\.body\.layers\.3\.linear\.weight", r"mlp.fc2.weight"),
            (r"1\.body\.layers\.4\.scale", r"mlp_layer_scale.scale"),
        )
    ),
    (SIDE + r"[03]\.layers\.(\d+)\.body\.layers\.(\d)\.conv\.(.*)", r"\1.layers.\2.block.\3.conv.\4"),
    (SIDE + r"[03]\.layers\.(\d+)\.conv\.(.*)", r"\1.layers.\2.conv.\3"),
)
# What this network takes for granted, and what the settings must say of it.
FIXED = {
    "attention_bias": False,
    "audio_channels": 1,
    "compress": 2,
    "dilation_growth_rate": 2,
    "hidden_act": "gelu",
    "kernel_size": 7,
    "last_kernel_size": 3,
    "norm_eps": 1e-5,
    "num_residual_layers": 1,
    "pad_mode": "constant",
    "residual_kernel_size": 3,
    "trim_right_ratio": 1.0,
    "use_causal_conv": True,
    "use_conv_shortcut": False,
}


def convert_mimi(path: Path) -> Converted:
    """The folder of a MimiModel.

    Raises:
        ModelError: damaged, of another model, or of a Mimi with other layers than the published one's.
    """
    settings = read_settings(path)
    state = _own_layout(take_tensors(read_checkpoint(path), path), path)
    config = _config(settings, state, path)
    return Converted(config, translate(state, config, RULES, where=path), LICENCE)


def _config(settings: Mapping[str, Any], state: State, path: Path) -> ModelConfig:
    if settings.get("model_type") != "mimi":
        raise ModelError(f"{path}: config.json is of a {settings.get('model_type')!r}, not of a mimi")
    for name, value in FIXED.items():
        if settings.get(name, value) != value:
            raise ModelError(f"{path}: {name} is {settings[name]}; only Mimis with {value} convert")
    strides = tuple(reversed(settings["upsampling_ratios"]))
    convs_hop, rate = math.prod(strides), settings["sampling_rate"]
    n_heads = settings["num_attention_heads"]
    if "downsample.conv.weight" not in state:
        raise ModelError(f"{path}: no downsample.conv.weight; only Mimis with a last stride convert")
    frame_stride = state["downsample.conv.weight"].shape[-1] // 2  # the kernel is twice the stride
    if settings.get("num_key_value_heads", n_heads) != n_heads:
        raise ModelError(f"{path}: num_key_value_heads is not num_attention_heads; only plain attention converts")
    options = {
        "dim": settings["hidden_size"],
        "n_filters": settings["num_filters"],
        "strides": strides,
        "frame_stride": frame_stride,
        "n_blocks": settings["num_hidden_layers"],
        "n_heads": n_heads,
        "hidden_dim": settings["intermediate_size"],
        "context": settings["sliding_window"],
    }
    quantizer = {
        "codebook_size": settings["codebook_size"],
        "n_semantic": settings["num_semantic_quantizers"],
        "n_codebooks": settings["num_quantizers"],
    }
    return ModelConfig(
        encoder=Part("mimi", options | {"ragged": True}),
        bottleneck=Part("split", quantizer),
        decoder=Part("mimi", dict(options)),
        sample_rate=rate,
        hop_length=convs_hop * frame_stride,
        latent_dim=2 * settings["vector_quantization_hidden_dimension"],
    )


def _own_layout(state: State, path: Path) -> State:
    """Three matrices of an attention as one, codewords for their sums, both projections as one."""
    own = dict(state)
    try:
        for key in state:
            if key.endswith("self_attn.q_proj.weight"):
                stem = key.removesuffix("q_proj.weight")
                own[f"{stem}qkv"] = torch.cat([own.pop(f"{stem}{name}_proj.weight") for name in "qkv"])
            if key.endswith("codebook.embed_sum"):
                stem, part = key.removesuffix("embed_sum"), key.split(".")
                usage = own.pop(f"{stem}cluster_usage").clamp(min=1e-5)
                own[f"{part[1].partition('_')[0]}.{part[3]}.embed"] = own.pop(key) / usage[:, None]
                own.pop(f"{stem}initialized", None)
        parts = [f"quantizer.{part}_residual_vector_quantizer" for part in ("semantic", "acoustic")]
        own["encoder.projection"] = torch.cat([own.pop(f"{part}.input_proj.weight") for part in parts])[..., 0]
        own["decoder.projection"] = torch.cat([own.pop(f"{part}.output_proj.weight") for part in parts], 1)[..., 0]
    except KeyError as error:
        raise ModelError(f"{path}: not Mimi's state dict (no {error})") from None
    return own
