"""One caller at a time: two threads that feed one stream would mix their steps, and neither would hear of it.

>>> turn = Turn("stream encoder")
>>> with turn, turn:
...     pass
Traceback (most recent call last):
codec.errors.StateError: stream encoder: in use by another thread; give each thread a stream of its own, or take turns
"""

from __future__ import annotations

import threading

from codec.errors import StateError


class Turn:
    """A context that only one caller is in; the next one is refused, not kept waiting. Raises: StateError.

    Attributes:
        name: what the error's text begins with.
        lock: the same context for who would rather wait.
    """

    def __init__(self, name: str) -> None:
        self.name, self.lock = name, threading.Lock()

    def __enter__(self) -> None:
        if not self.lock.acquire(blocking=False):
            what = "give each thread a stream of its own, or take turns"
            raise StateError(f"{self.name}: in use by another thread; {what}")

    def __exit__(self, *_: object) -> None:
        self.lock.release()
