"""What the queues of encoders and decoders have in common: to be copied, saved, and put back after a check."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray

from codec.config import ModelInfo
from codec.resampling import Resampler
from codec.stream.window import Block, Reach

Counts = dict[str, int | None]
Tensors = dict[str, NDArray[Any]]


class Queue(ABC):
    """What one stream keeps around its network. Arrays are never written into, so that a copy may share them."""

    COUNTS: ClassVar[tuple[str, ...]]
    ended: bool

    def __init__(self, info: ModelInfo, reach: Reach, resampler: Resampler, *, step: int) -> None:
        """Begin; `step` in frames."""
        self._info, self._reach, self._resampler, self._step = info, reach, resampler, step
        self._n_channels = resampler.n_channels
        self._resamples = resampler.rate_in != resampler.rate_out
        self.ended = False
        self._joined: Any = None
        self._later: list[NDArray[Any]] = []

    @property
    def pending(self) -> Any:
        """What waits for the network; None before the first codes."""
        if self._later:
            self._joined, self._later = np.concatenate((self._joined, *self._later), -1), []
        return self._joined

    @pending.setter
    def pending(self, data: Any) -> None:
        self._joined, self._later = data, []

    @abstractmethod
    def take(self, data: NDArray[Any], /) -> None:
        """Take what was checked, of each channel."""

    @abstractmethod
    def close(self) -> None:
        """No more comes."""

    @abstractmethod
    def blocks(self) -> list[Block]:
        """What is ready for the network. What no later block needs is removed from here."""

    @abstractmethod
    def give(self, result: NDArray[Any], /) -> NDArray[Any]:
        """Of what the network made of the blocks, what the stream gives."""

    @abstractmethod
    def holds(self, pending: NDArray[Any] | None) -> bool:
        """Whether this can be what the queue keeps between calls with the counts that it has."""

    @abstractmethod
    def _n_resampled(self) -> tuple[int, int | None]:
        """Samples that the resampler has taken by these counts, and has given; None where they do not say."""

    @final
    def drop(self) -> None:
        """Forget what waits, and end: what came next would stand where what is forgotten did."""
        self.pending = None if self.pending is None else self.pending[..., :0].copy()
        self._resampler.flush()
        self.ended = True

    @final
    def copy(self) -> Self:
        """A second one that goes on from here by itself."""
        twin = copy.copy(self)
        twin._resampler, twin._later = self._resampler.copy(), [*self._later]
        return twin

    @final
    def saved(self) -> tuple[Counts, Tensors]:
        """All that it keeps, for `restore` of one like it."""
        counts = {name: None if (value := getattr(self, name)) is None else int(value) for name in self.COUNTS}
        tensors = {"pending": self.pending}
        if self._resamples:
            tensors |= {"history": self._resampler.history, "n_resampled": np.array([self._resampler.n_out])}
        return counts, {name: tensor for name, tensor in tensors.items() if tensor is not None}

    @final
    def restore(self, counts: Mapping[str, Any], tensors: Tensors) -> bool:
        """Become the one that saved this; False, and of no more use, where none like it can have."""
        if counts.keys() != set(self.COUNTS):
            return False
        for name, value in counts.items():
            if name == "end" and (value is None or type(value) is int):
                continue
            if type(value) is not int or value < 0:  # a bool is no count either
                return False
        for name, value in counts.items():
            setattr(self, name, bool(value) if name == "ended" else value)
        if not self.holds(tensors.get("pending")):
            return False
        self.pending = tensors.get("pending")
        n_in, n_out = self._n_resampled()
        told = tensors.get("n_resampled")
        if told is not None and (told.dtype != np.int64 or told.shape != (1,)):
            return False
        n_out = int(told[0]) if n_out is None and told is not None else n_out
        history = tensors.get("history", self._resampler.history)
        if not self._resampler.holds(n_in, history, n_out):
            return False
        self._resampler.load(n_in, history, n_out)
        return True

    @final
    def _append(self, data: NDArray[Any]) -> None:
        """Put checked data behind what waits."""
        if self._joined is None:
            self._joined = data.copy()
        elif self._reach.whole:  # joined when it is asked for: each small chunk would copy all before it
            self._later.append(data.copy())
        else:
            # Not copied where nothing waits: `blocks` runs before the caller can write into it, and copies what it
            # leaves.
            self._joined = np.concatenate((self._joined, data), -1) if self._joined.shape[-1] else data

    @final
    def _origin(self, frame: int) -> int:
        """First frame that is kept when `frame` is the next to compute."""
        return 0 if self._reach.whole else max(0, frame - self._reach.context)
