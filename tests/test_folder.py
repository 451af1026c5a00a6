"""A model folder is written whole or not at all, and holds nothing of the model before it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from codec.api import check_same_model, load
from codec.errors import ModelError
from codec.export.folder import write_folder
from codec.hub import DEFAULT, find_by_weights, find_model
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


# codes that outlive a decoder


def changed(model: ModelFolder, part: str) -> dict[str, Tensor]:
    """Its weights, one of a part's another."""
    weights = dict(Network(model.config).state_dict()) | load_file(model.weights_path)
    name = next(key for key in weights if key.startswith(part))
    return weights | {name: weights[name] + 0.25}


def test_another_decoder_decodes_the_codes_of_those_before_it(tmp_path: Path, tiny_path: Path) -> None:
    first = read_model(tiny_path)
    second = write_folder(tmp_path / "2", "tiny", first.config, changed(first, "decoder"), licence="MIT", before=first)
    third = write_folder(
        tmp_path / "3", "voice", first.config, changed(second, "decoder"), licence="MIT", before=second
    )
    assert second.info.same_codes == (first.info.weights_hash,)
    assert third.info.same_codes == (first.info.weights_hash, second.info.weights_hash)
    assert read_model(third.path) == third
    audio = np.random.default_rng(0).normal(0, 0.1, 6400).astype(np.float32)
    codes = load(first.path).encode(audio)
    newest = load(third.path)
    assert np.array_equal(codes.data, newest.encode(audio).data)
    assert np.array_equal(newest.decode(codes), newest.decode(newest.encode(audio)))
    assert not np.array_equal(newest.decode(codes), load(first.path).decode(codes))
    with pytest.raises(ModelError, match="load the model that made them"):
        load(first.path).decode(newest.encode(audio))  # it cannot know what came after it


def test_the_model_that_made_a_file_comes_before_a_newer_decoder(
    tmp_path: Path, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read_model(tiny_path)
    second = write_folder(tmp_path / "2", "tiny", first.config, changed(first, "decoder"), licence="MIT", before=first)
    made_with = first.info.weights_hash[:32]
    for there, found in (([], None), ([second], second), ([second, first], first), ([first, second], first)):
        monkeypatch.setattr("codec.hub.downloaded", lambda there=there: [folder.path for folder in there])
        assert find_by_weights("tiny", made_with) == (found and found.path)


@pytest.mark.parametrize("part", ["encoder", "bottleneck"])
def test_other_codes_are_refused_as_ever(part: str, tmp_path: Path, tiny_path: Path) -> None:
    first = read_model(tiny_path)
    second = write_folder(tmp_path / "2", "tiny", first.config, changed(first, part), licence="MIT", before=first)
    assert second.info.same_codes == ()
    with pytest.raises(ModelError, match="load the model that made them"):
        check_same_model(first.info, second.info)


def test_rounding_the_encoder_makes_other_codes(tmp_path: Path, tiny_path: Path) -> None:
    config = read_model(tiny_path).config
    weights = Network(config).state_dict()
    whole = write_folder(tmp_path / "whole", "tiny", config, weights, licence="MIT", half=False)
    learned = changed(whole, "decoder")
    half = write_folder(tmp_path / "half", "tiny", config, learned, licence="MIT", before=whole)
    again = write_folder(tmp_path / "again", "tiny", config, learned, licence="MIT", half=False, before=whole)
    assert half.info.same_codes == ()
    assert again.info.same_codes == (whole.info.weights_hash,)


def test_a_files_half_of_the_hash_is_enough_and_less_is_not(tmp_path: Path, tiny_path: Path) -> None:
    first = read_model(tiny_path)
    second = write_folder(tmp_path / "2", "tiny", first.config, changed(first, "decoder"), licence="MIT", before=first)
    for info in (first.info, second.info):
        assert second.info.knows_codes_of("tiny", info.weights_hash)
        assert second.info.knows_codes_of("tiny", info.weights_hash[:32])
        assert not second.info.knows_codes_of("tiny", info.weights_hash[:31])
    assert second.info.knows_codes_of("another name", first.info.weights_hash)
    assert not second.info.knows_codes_of("another name", second.info.weights_hash)
    assert not second.info.knows_codes_of("tiny", "")
