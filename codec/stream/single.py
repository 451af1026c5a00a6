"""What an encoder's and a decoder's stream do alike: step, flush, save, restore, copy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from types import TracebackType
from typing import Any, Generic, NoReturn, Self, final

import numpy as np
from numpy.typing import NDArray

from codec.arrays import is_torch, like
from codec.engine import State
from codec.stream.asynchronous import pump
from codec.stream.checks import check_channels
from codec.stream.coding import AnyQueue, Coding
from codec.stream.state import Identity, load_stream, refuse_pickle, save_stream
from codec.stream.turn import Turn


class Stream(ABC, Generic[AnyQueue]):
    """One stream of a model, in either direction."""

    def __init__(self, coding: Coding[AnyQueue], *, channels: int | None) -> None:
        """Begin; `channels` None for arrays without an axis of channels."""
        self._coding, self._rows, self._channels = coding, check_channels(channels), channels
        self._turn = Turn(f"stream {coding.kind}")
        self.reset()

    @final
    def reset(self) -> None:
        """Back to the state before the first sample or frame."""
        with self._turn.lock:  # a step that was cancelled (`stream`) still runs to its end in its thread
            self._states: list[State] = self._coding.begin(self._rows)
            self._last: list[State] = []  # what the network left after the last step, of each channel
            self._queue = self._coding.queue(self._rows)
            self._is_torch = False

    @final
    def flush(self) -> NDArray[Any] | Any:
        """End the stream: the last codes or samples.

        All frames that an encoder gives are together ceil((n_samples + delay) / hop_length). Of the kind of array that
        was fed, which no type can say.
        """
        with self._turn:
            if not self._queue.ended:
                self._queue.close()
            return self._run()

    @final
    def stream(self, chunks: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
        """`async for result in coder.stream(chunks)`: feed chunks and flush, away from the event loop.

        Args:
            chunks: as `feed` takes them, from a plain or an asynchronous iterable.

        Returns:
            What `feed` and `flush` give, but no empty arrays. Stopped in the middle, the stream is not flushed.
        """
        return pump(self, chunks)

    @final
    def state(self) -> bytes:
        """All that the stream remembers, for `load_state` of one like it: safetensors."""
        with self._turn:
            return save_stream(self._identity(), self._queue, self._states)

    @final
    def load_state(self, data: bytes) -> None:
        """Go on where the stream was that gave `data`: same model, engine, mode, rate, channels and codebooks.

        Raises:
            StateError: damaged, or of another stream; this one is then as before.
        """
        fresh, queue = self._coding.begin(self._rows), self._coding.queue(self._rows)
        with self._turn:
            self._states = load_stream(data, self._identity(), queue, fresh)
            self._queue, self._last = queue, []

    @final
    def copy(self) -> Self:
        """A second stream that goes on from here by itself."""
        twin = object.__new__(type(self))
        with self._turn:
            own = {"_queue": self._queue.copy(), "_turn": Turn(f"stream {self._coding.kind}")}
            twin.__dict__ |= self.__dict__ | own  # arrays are never written into
        return twin

    @final
    def __copy__(self) -> Self:
        """As `copy`."""
        return self.copy()

    @final
    def __deepcopy__(self, memo: object) -> Self:
        """As `copy`: both streams share the model."""
        return self.copy()

    @final
    def __reduce__(self) -> NoReturn:
        """Raises: StateError: the model cannot be pickled."""
        refuse_pickle()

    @final
    def __enter__(self) -> Self:
        return self

    @final
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._queue.drop()

    @abstractmethod
    def feed(self, data: Any, /) -> Any:
        """Take some, give what it completes."""

    @final
    def _identity(self) -> Identity:
        return {**self._coding.identity, "channels": self._channels}

    @final
    def _feed(self, data: Any) -> Any:
        with self._turn:
            queue = self._queue
            queue.take(self._coding.check(data, queue, channels=self._channels, name=self._turn.name))
            self._is_torch = is_torch(data)
            return self._run()

    @final
    def _run(self) -> Any:
        """Run whole steps from what is pending, and give what they make of it, with the caller's axes."""
        parts: list[list[NDArray[Any]]] = [[] for _ in self._states]
        for block in self._queue.blocks():
            last = []
            for data, state, part in zip(block.data, self._states, parts, strict=True):
                result, after = self._coding.step(data[None], state)
                part.append(result[0][..., block.keep])
                last.append(after)
            self._last = last
            self._states = last if self._coding.keeps else self._states
        rows = [_joined(part, self._coding.nothing) for part in parts]
        given = self._queue.give(rows[0][None] if len(rows) == 1 else np.stack(rows))  # one channel: most
        return like(given[0] if self._channels is None else given, self._is_torch)


def _joined(parts: list[NDArray[Any]], nothing: NDArray[Any]) -> NDArray[Any]:
    """What several blocks gave, along the last axis."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts, -1) if parts else nothing
