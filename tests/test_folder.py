"""A model folder is written whole or not at all, and holds nothing of the model before it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from codec.errors import ModelError
from codec.export.folder import write_folder
from codec.hub import DEFAULT, find_model
from codec.modelfolder import ModelFolder, read_facts, read_model
from codec.network import Network


def write(path: Path, like: ModelFolder, seed: int = 0) -> ModelFolder:
    """Random weights of a model's network."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        weights = Network(like.config).state_dict()
    return write_folder(path, "mine", like.config, weights, licence="MIT")


def test_graphs_and_golden_vectors_of_the_weights_before_go_and_the_card_stays(tmp_path: Path) -> None:
    """Else the folder would decode with the old weights' graphs under the new weights' name."""
    shipped = Path(shutil.copytree(find_model(DEFAULT), tmp_path / "mine"))
    assert read_model(shipped).has_graphs
    written = write(shipped, read_model(shipped))
    assert written == read_model(shipped)
    assert not written.has_graphs
    assert sorted(read_facts(shipped)[1]) == ["weights.safetensors"]
    assert sorted(path.name for path in shipped.iterdir()) == ["README.md", "model.json", "weights.safetensors"]


def test_whoever_may_read_the_folder_may_read_its_weights(tmp_path: Path, tiny_path: Path) -> None:
    written = write(tmp_path / "mine", read_model(tiny_path))
    assert {path.stat().st_mode & 0o777 for path in written.path.iterdir()} == {0o666 & ~umask()}


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path, tiny_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="that is no model; give a new folder"):
        write(tmp_path, read_model(tiny_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_weights_that_do_not_fit_leave_the_model_before_as_it_was(tmp_path: Path, tiny_path: Path) -> None:
    tiny = read_model(tiny_path)
    before = {path.name: path.read_bytes() for path in write(tmp_path / "mine", tiny).path.iterdir()}
    weights = Network(tiny.config).state_dict()
    weights.popitem()
    with pytest.raises(ModelError):
        write_folder(tmp_path / "mine", "mine", tiny.config, weights, licence="MIT")
    assert {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
