"""The bookkeeping of many streams in one object: rows that come and go, their queues, and the engine's states.

>>> table = StateTable((np.zeros((1, 2)),))
>>> table.add(7)
>>> table.step(lambda x, state: (x + state[0], (state[0] + 1,)), {7: np.ones(2)})[7].tolist()
[1.0, 1.0]
>>> table.get(7)[0].tolist()
[[1.0, 1.0]]
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NoReturn, final

import numpy as np
from numpy.typing import NDArray

from codec.arguments import as_list, as_whole, shown
from codec.arrays import is_torch, like
from codec.engine import State
from codec.errors import AudioError, CodesError
from codec.stream.coding import AnyQueue, Coding
from codec.stream.state import load_stream, refuse_pickle, save_stream
from codec.stream.turn import Turn
from codec.stream.window import Block

MAX_ROWS = 1 << 20
Step = Callable[[Any, State], tuple[NDArray[Any], State]]


class StreamRows(ABC, Generic[AnyQueue]):
    """Streams of one channel in one object, by row."""

    def __init__(self, coding: Coding[AnyQueue], *, rows: int, error: type[AudioError] | type[CodesError]) -> None:
        """Begin with rows 0 to rows - 1; `error` is what an unknown row raises."""
        self._coding, self._error = coding, error
        self._identity = {**coding.identity, "channels": None}
        self._queues: dict[int, AnyQueue] = {}
        self._table = StateTable(coding.begin(1)[0], keeps=coding.keeps)
        self._n_added, self._turn = 0, Turn(f"stream {coding.kind}s")
        count = as_whole(rows)
        if count is None or not 0 <= count <= MAX_ROWS:
            raise self._error(f"rows={shown(rows)}: use a whole number from 0 to {MAX_ROWS}")
        for _ in range(count):
            self.add()

    @property
    @final
    def rows(self) -> tuple[int, ...]:
        """The rows that are there, oldest first."""
        return tuple(self._queues)

    @final
    def add(self) -> int:
        """A new stream's row; the number of a row that left is never given again."""
        with self._turn:
            row, self._n_added = self._n_added, self._n_added + 1
            self._table.add(row)
            self._queues[row] = self._coding.queue(1)
        return row

    @final
    def remove(self, row: int) -> None:
        """Let a stream go, with what it had not given yet."""
        with self._turn:
            self._queue(row)
            del self._queues[row]
            self._table.remove(row)

    @final
    def reset(self, row: int) -> None:
        """One row back to the state before its beginning."""
        with self._turn:
            self._queue(row)
            self._table.put(row, self._table.fresh)
            self._queues[row] = self._coding.queue(1)

    @final
    def flush(self, rows: Iterable[int]) -> dict[int, NDArray[Any]]:
        """End some rows' streams: the last that they give, numpy. `reset` begins anew in a row, `remove` lets it go."""
        given = as_list(rows)
        if given is None:
            raise self._error(f"rows {shown(rows)}: give several, as in flush([0, 1])")
        with self._turn:
            ended = {row: self._queue(row) for row in given}
            for queue in ended.values():
                if not queue.ended:
                    queue.close()
            return self._run(ended)

    @final
    def state(self, row: int) -> bytes:
        """All that a row remembers, for `load_state` of another row or of a single stream like it: safetensors."""
        with self._turn:
            return save_stream(self._identity, self._queue(row), [self._table.get(row)])

    @final
    def load_state(self, row: int, data: bytes) -> None:
        """Go on in a row where the row or the single stream was that gave `data`.

        Raises:
            StateError: damaged, or of another stream; the row is then as before.
        """
        with self._turn:
            self._queue(row)
            queue = self._coding.queue(1)
            (state,) = load_stream(data, self._identity, queue, [self._table.fresh])
            self._queues[row] = queue
            self._table.put(row, state)

    @final
    def __reduce__(self) -> NoReturn:
        """Neither copied nor pickled. Raises: StateError."""
        refuse_pickle()

    @final
    def _queue(self, row: int) -> AnyQueue:
        if not isinstance(row, int | np.integer) or row not in self._queues:
            there = ", ".join(map(str, self._queues)) or "none"
            raise self._error(f"row {shown(row)}: not there; rows are {there}; add() gives a new one")
        return self._queues[row]

    @abstractmethod
    def feed(self, data: Mapping[int, Any], /) -> dict[int, Any]:
        """Take some for some rows, give what it completes."""

    @final
    def _feed(self, data: Mapping[int, Any]) -> dict[int, Any]:
        """Check all rows before any takes something."""
        if not isinstance(data, Mapping):
            raise self._error(f"stream {self._coding.kind}s: fed {shown(data)}; give a dict, row to what it gets")
        checked = {}
        with self._turn:
            for row, item in data.items():
                name = f"stream {self._coding.kind}s: row {row}"
                checked[row] = self._coding.check(item, self._queue(row), channels=None, name=name)
            for row, array in checked.items():
                self._queues[row].take(array)
            results = self._run(checked)
        return {row: like(result, is_torch(data[row])) for row, result in results.items()}

    @final
    def _run(self, rows: Iterable[int]) -> dict[int, NDArray[Any]]:
        """Run the whole steps that these rows have ready."""
        # A block's axis of channels is one long; that of rows takes its place.
        blocks = {row: [Block(block.data[0], block.keep) for block in self._queues[row].blocks()] for row in rows}
        parts = self._table.run(blocks, self._coding.step)
        nothing = self._coding.nothing
        return {row: self._queues[row].give(np.concatenate([nothing, *parts[row]], -1)[None])[0] for row in blocks}


class StateTable:
    """The engine's states of many rows: one array for each tensor, a place along axis 0 for each row.

    Attributes:
        fresh: the state of one row before anything.
    """

    def __init__(self, fresh: State, *, keeps: bool = True) -> None:
        """Begin empty; without `keeps` a step leaves the states as they were."""
        self.fresh, self._keeps = fresh, keeps
        self._arrays = tuple(array[:0] for array in fresh)
        self._places: dict[int, int] = {}
        self._free: list[int] = []
        self._n_places = 0

    def add(self, row: int) -> None:
        """Make a place for a row, with the fresh state."""
        if not self._free:
            pairs = zip(self._arrays, self.fresh, strict=True)
            self._arrays = tuple(np.concatenate(pair) for pair in pairs)
            self._free.append(self._n_places)
            self._n_places += 1
        self._places[row] = self._free.pop()
        self.put(row, self.fresh)

    def remove(self, row: int) -> None:
        """Free a row's place."""
        self._free.append(self._places.pop(row))

    def get(self, row: int) -> State:
        """A copy of a row's state, of a batch of one."""
        place = self._places[row]
        return tuple(array[place : place + 1].copy() for array in self._arrays)

    def put(self, row: int, state: State) -> None:
        """Set a row's state."""
        for array, own in zip(self._arrays, state, strict=True):
            array[self._places[row]] = own[0]

    def step(self, step: Step, inputs: Mapping[int, NDArray[Any]]) -> dict[int, NDArray[Any]]:
        """One call of `step` for the rows of `inputs`, all of one shape; the states of the others stay."""
        rows = sorted(inputs, key=self._places.__getitem__)
        places = [self._places[row] for row in rows]
        x = np.stack([inputs[row] for row in rows])
        everyone = len(places) == self._n_places  # nothing to gather
        y, after = step(x, self._arrays if everyone else tuple(array[places] for array in self._arrays))
        if self._keeps and everyone:
            self._arrays = after
        elif self._keeps:
            for array, new in zip(self._arrays, after, strict=True):
                array[places] = new
        return dict(zip(rows, y, strict=True))

    def run(self, blocks: Mapping[int, list[Block]], step: Step) -> dict[int, list[NDArray[Any]]]:
        """Run each row's blocks in order, the n-th ones of all rows together, and give what comes of each."""
        parts: dict[int, list[NDArray[Any]]] = {row: [] for row in blocks}
        for i in range(max(map(len, blocks.values()), default=0)):
            alike: dict[tuple[int, ...], dict[int, NDArray[Any]]] = {}
            for row, own in blocks.items():
                if i < len(own):
                    alike.setdefault(own[i].data.shape, {})[row] = own[i].data
            for inputs in alike.values():
                for row, y in self.step(step, inputs).items():
                    parts[row].append(y[..., blocks[row][i].keep])
        return parts
