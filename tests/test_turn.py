"""A stream that two threads feed at once says so, and is as if the second had never come."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import codec
from codec.errors import StateError


class Held:
    """A chunk that a thread hands over: its samples come when the other thread has tried."""

    def __init__(self) -> None:
        self.asked, self.free = threading.Event(), threading.Event()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        self.asked.set()
        assert self.free.wait(60)
        return np.zeros(1000, np.float32)


def while_fed(feed: Callable[[Any], Any], attempt: Callable[[], Any]) -> Any:
    """What `feed` gives in a thread of its own, which has not come back when `attempt` runs here."""
    chunk, results = Held(), []
    thread = threading.Thread(target=lambda: results.append(feed(chunk)))
    thread.start()
    try:
        assert chunk.asked.wait(60)
        attempt()
    finally:
        chunk.free.set()
        thread.join()
    return results[0]


def test_a_second_thread_is_refused_and_changes_nothing() -> None:
    encoder = codec.load().stream_encoder(codebooks=4)

    def attempt() -> None:
        for use in (lambda: encoder.feed(np.zeros(1000, np.float32)), encoder.flush, encoder.state, encoder.copy):
            with pytest.raises(StateError, match="stream encoder: in use by another thread; give each thread"):
                use()

    assert while_fed(encoder.feed, attempt).shape == (4, 3)
    assert encoder.copy().flush().shape == encoder.flush().shape == (4, 2)  # a copy has a turn of its own


def test_a_stream_that_was_cancelled_in_a_step_can_be_reset_at_once() -> None:
    encoder, chunk, speech = codec.load().stream_encoder(codebooks=4), Held(), np.ones(2000, np.float32)

    async def cancel() -> None:
        task = asyncio.ensure_future(anext(encoder.stream([chunk])))
        assert await asyncio.to_thread(chunk.asked.wait, 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        chunk.free.set()  # the thread goes on by itself
        encoder.reset()

    asyncio.run(cancel())
    again = encoder.feed(speech)
    encoder.reset()
    assert np.array_equal(again, encoder.feed(speech))


def test_rows_neither_come_nor_go_while_another_thread_feeds_them() -> None:
    encoders = codec.load().stream_encoders(codebooks=4, rows=1)

    def attempt() -> None:
        for use in (encoders.add, lambda: encoders.remove(0), lambda: encoders.flush([0])):
            with pytest.raises(StateError, match="stream encoders: in use by another thread"):
                use()

    given = while_fed(lambda chunk: encoders.feed({0: chunk}), attempt)
    assert given[0].shape == (4, 3)
    assert encoders.rows == (0,)
