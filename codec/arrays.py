"""Arrays at the door: numpy arrays and torch tensors in, checked; the same kind out. Torch is never imported here.

>>> as_audio([0.0, 0.5], "audio").dtype, as_codes([[1, 2]], "codes").shape
(dtype('float32'), (1, 2))
>>> as_audio(np.zeros(3, np.int16), "audio")
Traceback (most recent call last):
codec.errors.AudioError: audio: type int16, expected float32 in [-1, 1]; divide 16-bit samples by 32768
"""

from __future__ import annotations

import sys
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from codec.errors import AudioError, CodesError


class Tensor(Protocol):
    """What a type checker takes a torch tensor by."""

    def numpy(self, *, force: bool = False) -> npt.NDArray[Any]:
        """Its numbers."""


AnyTensor = TypeVar("AnyTensor", bound=Tensor)
FLOAT32, INT64 = np.dtype(np.float32), np.dtype(np.int64)  # made once: comparing with a type makes one each time


def is_torch(x: Any) -> bool:
    """Whether `x` is a torch tensor; one cannot come from a process that never imported torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def as_audio(audio: Any, name: str) -> npt.NDArray[np.float32]:
    """Audio as float32 numpy, of any shape.

    Raises:
        AudioError: integers, or what is no array of numbers. `name` is what the message calls it.
    """
    if type(audio) is np.ndarray and audio.dtype == FLOAT32:  # a stream comes here every few milliseconds
        return audio
    if is_torch(audio) and audio.is_floating_point():
        audio = audio.detach().cpu().float()  # numpy has no bfloat16
    array = _as_array(audio, name, AudioError)
    if array.dtype.kind in "iu":
        raise AudioError(f"{name}: type {array.dtype}, expected float32 in [-1, 1]; divide 16-bit samples by 32768")
    if array.dtype.kind != "f":
        kind = array.dtype if array.ndim else type(audio).__name__
        raise AudioError(f"{name}: type {kind}, expected an array of float32 in [-1, 1]; codec.read_audio reads a file")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as that
        return array.astype(np.float32, copy=False)


def as_codes(codes: Any, name: str) -> npt.NDArray[np.int64]:
    """Codes as int64 numpy, of any shape.

    Raises:
        CodesError: not integers.
    """
    if type(codes) is np.ndarray and codes.dtype == INT64:
        return codes
    array = as_integers(codes, name)
    if array.dtype == np.uint64:  # its largest would become -1, a code that was not sent
        array = np.minimum(array, np.iinfo(np.int64).max)
    return array.astype(np.int64, copy=False)


def as_integers(x: Any, name: str) -> npt.NDArray[Any]:
    """Integers as numpy, of any shape and their own type. Raises: CodesError: not integers."""
    array = _as_array(x, name, CodesError)
    if array.dtype.kind in "iu":
        return array
    if array.size:
        raise CodesError(f"{name}: type {array.dtype}, expected integers")
    return array.astype(np.int64)


def like(array: npt.NDArray[Any], torch_wanted: bool) -> Any:
    """The array itself, or as a torch tensor."""
    return sys.modules["torch"].from_numpy(np.ascontiguousarray(array)) if torch_wanted else array


def _as_array(x: Any, name: str, error: type[AudioError] | type[CodesError]) -> npt.NDArray[Any]:
    try:
        # A tensor's own way is ten times as fast as numpy's through its protocol.
        return np.asarray(x.numpy(force=True) if is_torch(x) else x)
    except (TypeError, ValueError) as failure:
        raise error(f"{name}: not an array of numbers ({str(failure).splitlines()[0]})") from None
