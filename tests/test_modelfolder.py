"""codec.modelfolder: a folder whose files are damaged, missing or of another network is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from codec.api import load
from codec.errors import ModelError
from codec.modelfolder import WEIGHTS, checksum


@pytest.fixture
def copy(tiny_path: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_path, tmp_path / "tiny"))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the weights of a folder and make its checksums right again."""
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    change_json(folder, lambda data: None)


def change_json(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "model.json"
    data = json.loads(path.read_text())
    data["files"][WEIGHTS] = data["info"]["weights_hash"] = checksum(folder / WEIGHTS)
    change(data)
    path.write_text(json.dumps(data))


def test_one_flipped_bit_in_the_weights_is_detected(copy: Path) -> None:
    data = bytearray((copy / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (copy / WEIGHTS).write_bytes(data)
    with pytest.raises(ModelError, match=r"weights\.safetensors: damaged: SHA-256"):
        load(copy)


def test_missing_weights_are_named(copy: Path) -> None:
    (copy / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=r"weights\.safetensors: missing"):
        load(copy)


def test_weights_that_are_no_safetensors_are_refused(copy: Path) -> None:
    (copy / WEIGHTS).write_bytes(b"\x80\x04pickle")
    change_json(copy, lambda data: None)
    with pytest.raises(ModelError, match=r"weights\.safetensors: cannot be read"):
        load(copy)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda weights: weights.pop(min(weights)), "missing weight {first}"),
        (lambda weights: weights.update(stranger=torch.zeros(1)), "unknown weight stranger"),
        (lambda weights: weights.update({min(weights): torch.zeros(1, 2, 3)}), r"weight {first} has shape \(1, 2, 3\)"),
    ],
)
def test_weights_of_another_network_are_refused_by_name(copy: Path, change: Callable[..., object], text: str) -> None:
    first = min(load_file(copy / WEIGHTS))
    change_weights(copy, change)
    with pytest.raises(ModelError, match=text.format(first=first.replace(".", r"\."))):
        load(copy)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda data: data.update(format=2), "model format 2, this build reads 1"),
        (lambda data: data.pop("info"), "incomplete: no 'info'"),
        (lambda data: data.pop("files"), "incomplete: no 'files'"),
        (lambda data: data.update(files=["ab"]), "wrong"),
        (lambda data: data.update(files={}), "weights_hash is not the checksum"),
        (lambda data: data.update(info=[]), "expected keys and values"),
        (lambda data: data["info"].update(hop_length=0), r"ModelInfo\.hop_length: 0 cannot be"),
        (lambda data: data["info"].update(hop_length="320"), "expected int"),
        (lambda data: data["info"].update(prefixes=[]), "prefixes"),
        (lambda data: data["info"].update(divisors=[1]), "divisors"),
        (lambda data: data["info"].update(delay=0), "delay is 0, its network has"),
        (lambda data: data["info"].update(codebook_sizes=[2, 2, 2, 2]), "codebook_sizes"),
        (lambda data: data["info"].update(weights_hash="0" * 64), "weights_hash is not the checksum"),
        (lambda data: data["config"]["encoder"].update(kind="os.system"), "os.system"),
        (lambda data: data["config"].update(surprise=1), "unknown key 'surprise'"),
    ],
)
def test_a_wrong_model_json_is_refused(copy: Path, change: Callable[..., object], text: str) -> None:
    change_json(copy, change)
    with pytest.raises(ModelError, match=text) as caught:
        load(copy)
    assert str(copy) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100000, "\0", '"x"'])
def test_a_model_json_that_is_no_json_is_refused(copy: Path, text: str) -> None:
    (copy / "model.json").write_text(text)
    with pytest.raises(ModelError, match=r"model\.json"):
        load(copy)
