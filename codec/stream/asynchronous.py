"""Streams for event loops: `async for codes in encoder.stream(chunks)`.

Each step runs in a worker thread (`asyncio.to_thread`), not on the loop: the caller chooses how long a chunk is, and a
second of audio would hold up every other connection for a tenth of a second; both engines let go of the interpreter
while they compute. A thread's handover costs about 0.1 ms. The chunks of one stream run strictly one after another.

>>> import asyncio
>>> class Doubler:
...     def feed(self, chunk):
...         return chunk * 2
...     def flush(self):
...         return np.array([7])
>>> async def main():
...     return [part.tolist() async for part in pump(Doubler(), [np.array([1, 2]), np.array([3])])]
>>> asyncio.run(main())
[[2, 4], [6], [7]]
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Any, Protocol

import numpy as np

from codec.arguments import shown


class Coder(Protocol):
    """A stream encoder or decoder."""

    def feed(self, chunk: Any, /) -> Any:
        """Take some, give some."""

    def flush(self) -> Any:
        """Give the rest."""


async def pump(coder: Coder, chunks: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    """Feed chunks, flush at their end, give what comes and is not empty."""
    import asyncio  # a tenth of the time of `import codec`, and few streams need it

    async for chunk in _each(chunks):
        result = await asyncio.to_thread(coder.feed, chunk)
        if np.shape(result)[-1]:
            yield result
    result = await asyncio.to_thread(coder.flush)
    if np.shape(result)[-1]:
        yield result


async def _each(chunks: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    """The chunks; a plain iterator may wait for a microphone or a language model, so it waits in a thread too."""
    import asyncio

    if isinstance(chunks, AsyncIterable):
        async for chunk in chunks:
            yield chunk
        return
    try:
        iterator, end = iter(chunks), object()
    except TypeError:
        raise TypeError(f"chunks={shown(chunks)}: give several, one after another, as a list or an iterator") from None
    while (chunk := await asyncio.to_thread(next, iterator, end)) is not end:
        yield chunk
