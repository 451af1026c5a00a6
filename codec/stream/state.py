"""A stream's state as bytes: safetensors with JSON metadata and a checksum; nothing in it can run.

The metadata's `codec` is a JSON object: `version`, the stream's identity (kind, model, weights_hash, engine, mode,
sample_rate, channels, codebooks), `counts`, and `sha256` of the rest and the tensors.

>>> data = pack({"kind": "encoder"}, {"n_fed": 3}, {"pending": np.zeros((1, 3), np.float32)})
>>> counts, tensors = unpack(data, {"kind": "encoder"})
>>> counts, tensors["pending"].shape
({'n_fed': 3}, (1, 3))
>>> unpack(data, {"kind": "decoder"})
Traceback (most recent call last):
codec.errors.StateError: stream state: kind 'encoder', this stream has 'decoder'; load it into a stream like its own
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from codec.arguments import shown
from codec.config import ModelInfo
from codec.engine import Engine, State
from codec.errors import StateError
from codec.stream.basequeue import Counts, Queue, Tensors

Identity = dict[str, str | int | None]

VERSION = 1
DAMAGED = "stream state: damaged or no stream state; save it again"


def identify(kind: str, engine: Engine, info: ModelInfo, mode: str) -> Identity:
    """What a state must have in common with the stream that loads it."""
    model = {"model": info.name, "weights_hash": info.weights_hash}
    return {"kind": kind, **model, "engine": engine.name, "mode": mode}


def pack(identity: Identity, counts: Counts, tensors: Tensors) -> bytes:
    """The bytes of a state."""
    said = {"version": VERSION, **identity, "counts": counts}
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    said["sha256"] = _digest(said, tensors)
    return save(tensors, {"codec": json.dumps(said)})


def unpack(data: bytes, identity: Identity) -> tuple[Counts, Tensors]:
    """Counts and tensors of a state.

    Raises:
        StateError: damaged, of another version, or of a stream that differs from `identity`; it names where.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise StateError(f"stream state: {shown(data)}: give the bytes that state() gave")
    try:
        tensors = {name: array.copy() for name, array in load(bytes(data)).items()}  # torch wants them writable
        size = int.from_bytes(data[:8], "little")
        said = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["codec"])
        version, digest, counts = said["version"], said.pop("sha256"), said["counts"]
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise StateError(DAMAGED) from None
    if version != VERSION:
        raise StateError(f"stream state: version {version}, this build reads {VERSION}; use the codec that saved it")
    if digest != _digest(said, tensors) or not isinstance(counts, dict):
        raise StateError(DAMAGED)
    for name, mine in identity.items():
        if said.get(name) != mine:
            raise StateError(
                f"stream state: {name} {said.get(name)!r}, this stream has {mine!r}; load it into a stream like its own"
            )
    return counts, tensors


def save_stream(identity: Identity, queue: Queue, states: list[State]) -> bytes:
    """The bytes of a stream: its queue, and the engine's state of each channel."""
    counts, tensors = queue.saved()
    return pack(identity, counts, {**_named(states), **tensors})


def load_stream(data: bytes, identity: Identity, queue: Queue, fresh: list[State]) -> list[State]:
    """Put a stream back: a new `queue` is filled, the engine's states are the result.

    Raises:
        StateError: as `unpack`, or a tensor that does not fit the `fresh` states of the engine.
    """
    counts, tensors = unpack(data, identity)
    for name, like in _named(fresh).items():
        found = tensors.get(name)
        if found is None or found.shape != like.shape or found.dtype != like.dtype:
            raise StateError(f"stream state: {name} does not fit this model; save it again with this version of codec")
    if not queue.restore(counts, tensors):
        raise StateError(DAMAGED)
    return [tuple(tensors[f"state.{row}.{i}"] for i in range(len(state))) for row, state in enumerate(fresh)]


def refuse_pickle() -> NoReturn:
    """What pickling or copying a stream as a plain object ends in. Raises: StateError, always."""
    raise StateError("a stream cannot be pickled: send the bytes of state(), and load_state() them in a stream there")


def _named(states: list[State]) -> Tensors:
    return {f"state.{row}.{i}": array for row, state in enumerate(states) for i, array in enumerate(state)}


def _digest(said: Mapping[str, Any], tensors: Tensors) -> str:
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
