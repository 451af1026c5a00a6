"""Weights of two editions mixed: in between, with the codes they share, and never of two networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from codec.config import Part, replace
from codec.errors import ConfigError
from codec.export.blend import blend
from codec.export.folder import write_folder
from codec.modelfolder import read_model
from codec.network import Network


@pytest.fixture
def newer(tiny_path: Path, tmp_path: Path) -> Path:
    """The tiny model with another decoder."""
    tiny = read_model(tiny_path)
    weights = load_file(tiny.weights_path)
    louder = {key: x + 0.5 if key.startswith("decoder.") else x for key, x in weights.items()}
    return write_folder(tmp_path / "newer", "tiny", tiny.config, louder, licence="MIT").path


def test_each_weight_is_in_between_and_the_codes_stay(newer: Path, tiny_path: Path, tmp_path: Path) -> None:
    folder = blend(newer, tiny_path, tmp_path / "out", share=0.25)
    mixed, old = load_file(folder.weights_path), load_file(tiny_path / "weights.safetensors")
    for key, x in old.items():
        moved = 0.375 if key.startswith("decoder.") else 0.0
        torch.testing.assert_close(mixed[key].float(), x.float() + moved, atol=2e-3, rtol=0)
    assert folder.info.same_codes == (read_model(tiny_path).info.weights_hash,)


def test_a_share_of_all_is_the_old_model(newer: Path, tiny_path: Path, tmp_path: Path) -> None:
    blend(newer, tiny_path, tmp_path / "out", share=1.0)
    mixed, old = (load_file(path / "weights.safetensors") for path in (tmp_path / "out", tiny_path))
    assert all(torch.equal(mixed[key], old[key].half()) for key in old)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(share: float, newer: Path, tiny_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--share: from 0 to 1"):
        blend(newer, tiny_path, tmp_path / "out", share=share)
    assert not (tmp_path / "out").exists()


def test_other_networks_are_refused(tiny_path: Path, tmp_path: Path) -> None:
    tiny = read_model(tiny_path)
    config = replace(tiny.config, decoder=Part("spectral", dict(tiny.config.decoder.options) | {"n_blocks": 2}))
    other = write_folder(tmp_path / "other", "tiny", config, Network(config).state_dict(), licence="MIT").path
    with pytest.raises(ConfigError, match="networks differ; mix weights of one configuration"):
        blend(other, tiny_path, tmp_path / "out", share=0.5)
