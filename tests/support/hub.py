"""A small model to lay out on a hub of the test's own, and what is here of it afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from codec.config import ModelConfig, ModelInfo, Part
from codec.modelfolder import write_model

COMMIT = "a" * 40
REPO = "org/small"
WEIGHTS = "weights.safetensors"


def make_model(folder: Path, seed: int = 0, licence: str = "CC-BY-4.0") -> Path:
    """A model folder with weights that no network was ever built of."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    noise = np.random.default_rng(seed).normal(size=(300, 500)).astype(np.float16)
    save_file({"x": noise}, folder / WEIGHTS)
    info = ModelInfo("small", 16000, 320, 0, (8,), (1,), (1,), {"encoder": 1}, licence)
    write_model(folder, info, ModelConfig(Part("spectral"), Part("vq"), Part("spectral")))
    return folder


def models_of(home: Path) -> list[str]:
    """All names under models/; empty where nothing is there."""
    return sorted(path.name for path in (home / "models").glob("*"))
