"""HiFi-Codec: the `g_` file of AcademiCodec, with the state dicts of generator, encoder and quantizer.

Source: Yang et al. 2023 (HiFi-Codec); the layout of keys as in AcademiCodec's training code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

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

LICENCE = "LicenseRef-AcademiCodec"  # its readme says MIT, without a word on the weights
ROOMS = {"encoder": "encoder", "decoder": "generator"}  # ours, theirs


def convert_hificodec(path: Path) -> Converted:
    """A file such as `HiFi-Codec-24k-320d`; no tensor tells its sample rate, its name or `config.json` does.

    Raises:
        ModelError: damaged, of another system, or of no known sample rate.
    """
    data = read_checkpoint(path)
    state: State = {}
    for room in ("encoder", "generator", "quantizer"):
        part = data.get(room) if isinstance(data, Mapping) else None
        if not isinstance(part, Mapping):
            raise ModelError(f"{path}: no {room} in it; give the file g_..., not do_... or another system's")
        state |= {f"{room}.{key}": x for key, x in fold_weight_norm(take_tensors(part, path)).items()}
    config = _config(state, path)
    n_stages = len(config.encoder.options["rates"])
    return Converted(config, translate(state, config, find_rules(n_stages), where=path), LICENCE)


def find_rules(n_stages: int) -> Rules:
    """The names of the parts of `n_stages` stages: their blocks are numbered through, 3 a stage."""
    rules: list[tuple[str, str]] = [
        (r"bottleneck\.groups\.(\d+)\.levels\.0\.embed", r"quantizer.quantizer_modules.\1.embedding.weight"),
        (r"bottleneck\.groups\.(\d+)\.levels\.1\.embed", r"quantizer.quantizer_modules2.\1.embedding.weight"),
    ]
    for ours, theirs in ROOMS.items():
        for stage in range(n_stages):
            fusion = rf"{ours}\.layers\.{stage + 1}\.layers\.2"
            for block in range(3):
                number = 3 * stage + block
                for place, name in ((1, "convs1"), (3, "convs2")):
                    pattern = rf"{fusion}\.blocks\.{block}\.layers\.(\d)\.body\.layers\.{place}\.conv\.(.*)"
                    rules.append((pattern, rf"{theirs}.resblocks.{number}.{name}.\1.\2"))
                rules.append((rf"{fusion}\.norms\.{block}\.norm\.(.*)", rf"{theirs}.normalize.{number}.\1"))
            rules.append((rf"{ours}\.layers\.{stage + 1}\.layers\.1\.conv\.(.*)", rf"{theirs}.ups.{stage}.\1"))
        for place, name in ((0, "conv_pre"), (n_stages + 2, "conv_post")):
            rules.append((rf"{ours}\.layers\.{place}\.conv\.(.*)", rf"{theirs}.{name}.\1"))
    return tuple(rules)


def _config(state: State, path: Path) -> ModelConfig:
    """The sizes that the tensors show; a kernel is its rate twice, the odd ones and one more."""
    first, table = (
        state.get("encoder.conv_pre.weight"),
        state.get("quantizer.quantizer_modules.0.embedding.weight"),
    )
    n_stages = sum(re.fullmatch(r"generator\.ups\.\d+\.weight", key) is not None for key in state)
    if first is None or table is None or not n_stages:
        raise ModelError(f"{path}: no conv_pre, ups and quantizer_modules in it; is it of another system?")
    kernels = tuple(state[f"generator.ups.{i}.weight"].shape[-1] for i in range(n_stages))
    rates = tuple(kernel // 2 for kernel in kernels)
    n_groups = sum(
        re.fullmatch(r"quantizer\.quantizer_modules\.\d+\.embedding\.weight", key) is not None for key in state
    )
    quantizer = {
        "n_groups": n_groups,
        "n_levels": 2,
        "codebook_size": table.shape[0],
        "learn": "gradient",
        "commitment": 0.25,
    }
    width = state["generator.ups.0.weight"].shape[0]
    return ModelConfig(
        encoder=Part("hifi", {"rates": rates, "kernels": kernels, "n_filters": first.shape[0]}),
        bottleneck=Part("grouped", quantizer),
        decoder=Part("hifi", {"rates": rates, "kernels": kernels, "width": width}),
        sample_rate=_sample_rate(path),
        hop_length=math.prod(rates),
        latent_dim=n_groups * table.shape[1],
    )


def _sample_rate(path: Path) -> int:
    found = re.search(r"(?<!\d)(8|16|24|32|44|48)k", path.name, re.IGNORECASE)
    if found:
        return {44: 44100}.get(int(found[1]), 1000 * int(found[1]))
    if (path.parent / "config.json").is_file():
        rate = read_settings(path).get("sampling_rate")
        if isinstance(rate, int) and rate > 0:
            return rate
    raise ModelError(f"{path}: which sample rate? put 16k or 24k into its name, or its config.json beside it")
