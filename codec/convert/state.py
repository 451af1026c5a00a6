"""The state dict of a stranger: read without running it, unwrapped, weight norm folded, its keys renamed.

>>> import torch
>>> state = fold_weight_norm({"a.weight_g": torch.ones(1, 1), "a.weight_v": torch.tensor([[3.0, 4.0]])})
>>> rename(state, {"a.weight": "b.weight"}, where="x.pth")["b.weight"].tolist()
[[0.6000000238418579, 0.800000011920929]]
"""

from __future__ import annotations

import json
import pickle
import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from codec.config import ModelConfig
from codec.errors import ModelError
from codec.network import Network

State = dict[str, Tensor]
Rules = tuple[tuple[str, str], ...]  # pattern of one of our whole keys, and how theirs is written

# how weight norm names what it stores, old and new style, behind the name of the weight: (length, direction)
WEIGHT_NORM = (
    (re.compile(r"^(.*?)(\w+)_g$"), "{0}{1}_v", "{0}{1}"),
    (re.compile(r"^(.*)parametrizations\.(\w+)\.original0$"), "{0}parametrizations.{1}.original1", "{0}{1}"),
)


# What readers raise on bytes that are no checkpoint; torch's unpickler checks little.
DAMAGED = (
    *(OSError, RuntimeError, ValueError, EOFError, LookupError, TypeError, AttributeError),
    *(struct.error, SafetensorError),
)


@dataclass(frozen=True)
class Converted:
    """What a converter gives.

    Attributes:
        config: of the network.
        weights: its state dict, float32.
        licence: SPDX name of the published weights' licence, or `LicenseRef-` and a word where it has none.
    """

    config: ModelConfig
    weights: State
    licence: str


Converter = Callable[[Path], Converted]


def read_checkpoint(path: Path) -> Any:
    """A checkpoint file, or the weights of a Hugging Face folder, as plain data: nothing in it is executed.

    Raises:
        ModelError: missing, damaged, or with something else than tensors and plain data in it.
    """
    if path.is_dir():
        path = _find_weights(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; name a checkpoint or a model's folder") from None
    except pickle.UnpicklingError as error:
        what = str(error).split("\n")[0].partition(". ")[0]
        raise ModelError(
            f"{path}: not tensors and plain data alone ({what}); save its state dict and convert that"
        ) from None
    except DAMAGED as error:
        reason = (str(error) or type(error).__name__).split("\n")[0]
        raise ModelError(f"{path}: cannot be read ({reason}); download it again") from None


def _find_weights(folder: Path) -> Path:
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    raise ModelError(f"{folder}: neither model.safetensors nor pytorch_model.bin lies there; name the file itself")


def read_settings(path: Path) -> dict[str, Any]:
    """The `config.json` beside a checkpoint. Raises: ModelError."""
    file = (path if path.is_dir() else path.parent) / "config.json"
    try:
        data = json.loads(file.read_text())
    except FileNotFoundError:
        raise ModelError(f"{file}: missing; it lies beside the weights where they were published") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file}: cannot be read ({error}); download it again") from None
    if not isinstance(data, dict):
        raise ModelError(f"{file}: expected keys and values")
    return data


def take_tensors(data: Any, path: Path, *wrappers: str) -> State:
    """The state dict inside a checkpoint's data: under the first of `wrappers` it has, or bare; `module.` cut off.

    Raises:
        ModelError: what lies there is no state dict.
    """
    for name in wrappers:
        if isinstance(data, Mapping) and isinstance(data.get(name), Mapping):
            data = data[name]
            break
    if not isinstance(data, Mapping) or not data or not all(isinstance(x, Tensor) for x in data.values()):
        known = f" under {' or '.join(wrappers)}" if wrappers else ""
        raise ModelError(f"{path}: no state dict{known}; is it a checkpoint of another system?")
    return {str(key).removeprefix("module."): x for key, x in data.items()}


def read_state(path: Path, *wrappers: str) -> State:
    """The state dict of a checkpoint, weight norm folded. Raises: ModelError."""
    return fold_weight_norm(take_tensors(read_checkpoint(path), path, *wrappers))


def fold_weight_norm(state: Mapping[str, Tensor]) -> State:
    """Length and direction become the weight itself, w = g * v / |v|, the norm over all axes but the first.

    Source: Salimans and Kingma 2016; torch.nn.utils.weight_norm with dim 0, old and new style.
    """
    folded = dict(state)
    for key in state:
        for pattern, other, result in WEIGHT_NORM:
            match = pattern.match(key)
            direction = other.format(*match.groups()) if match else ""
            if match and direction in state:
                g, v = folded.pop(key).float(), folded.pop(direction).float()
                # Sums in double precision, then rounded: the weights, and their hash, are the same on every machine.
                norm = v.double().flatten(1).norm(dim=1).float().view(-1, *[1] * (v.ndim - 1))
                folded[result.format(*match.groups())] = v * (g / norm)
    return folded


def rename(state: Mapping[str, Tensor], keys: Mapping[str, str], *, where: str, ignored: Sequence[str] = ()) -> State:
    """Their keys to ours.

    Args:
        state: theirs, weight norm folded.
        keys: their key: our key, for all that our network has.
        where: the checkpoint, for messages.
        ignored: patterns of their keys that have no place here and are not needed.

    Raises:
        ModelError: a key of `keys` that is missing, or one of theirs that nothing maps.
    """
    missing = sorted(set(keys) - set(state))
    if missing:
        raise ModelError(
            f"{where}: no {missing[0]} ({len(missing)} keys missing); is it a checkpoint of another system?"
        )
    unknown = sorted(key for key in set(state) - set(keys) if not any(re.fullmatch(one, key) for one in ignored))
    if unknown:
        raise ModelError(f"{where}: {unknown[0]} has no place here ({len(unknown)} such keys); not converted")
    return {ours: state[theirs].detach().float() for theirs, ours in keys.items()}


def map_keys(ours: Iterable[str], rules: Rules, *, where: str) -> dict[str, str]:
    r"""Their key: our key, for each of ours, by the first rule that matches.

    >>> map_keys(["a.3.weight"], ((r"a\.(\d+)\.(.*)", r"model.\1.conv.\2"),), where="x.pth")
    {'model.3.conv.weight': 'a.3.weight'}

    Raises:
        ModelError: one of ours that no rule matches.
    """
    keys: dict[str, str] = {}
    for key in ours:
        for pattern, template in rules:
            match = re.fullmatch(pattern, key)
            if match:
                keys[match.expand(template)] = key
                break
        else:
            raise ModelError(f"{where}: no rule for our {key}; the converter does not know this variant")
    return keys


def translate(state: State, config: ModelConfig, rules: Rules, *, where: Path, ignored: Sequence[str] = ()) -> State:
    """Their state dict as that of our network of `config`: `map_keys` and `rename`. Raises: ModelError."""
    keys = map_keys(Network(config).state_dict(), rules, where=str(where))
    return rename(state, keys, where=str(where), ignored=ignored)
