"""The machine a run is on: which device, which precision, what is compiled, how busy it is.

>>> choose_device("cpu"), choose_precision("auto", torch.device("cpu"))
(device(type='cpu'), torch.float32)
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from codec.engine.torch_engine import find_device
from codec.errors import ModelError, TrainError
from codec.train.launch import ALONE, Ranks


@dataclass(frozen=True)
class Lap:
    """How fast a run was since the last look.

    Attributes:
        speed: steps per second.
        waiting: share of the time in which the loop waited for data.
        idle: share of the time in which a GPU had no step to work on; None on a CPU.
    """

    speed: float
    waiting: float
    idle: float | None = None


class Stopwatch:
    """Time of steps and of waiting; on CUDA also events around each step's work on the device."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.on_cuda = device is not None and device.type == "cuda"
        self.begin = time.perf_counter()
        self.waited = 0.0
        self.steps = 0
        self.events: list[tuple[Any, Any]] = []

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what fetches data."""
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Around a step, its batch included."""
        self.steps += 1
        if not self.on_cuda:
            yield
            return
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        first.record()
        yield
        last.record()
        self.events.append((first, last))

    def lap(self) -> Lap:
        """What happened since the last lap; on CUDA it waits for the device, once."""
        idle = None
        if self.events:
            self.events[-1][1].synchronize()
            # The device's own time from the start of a step's work to its end.
            busy = sum(first.elapsed_time(last) for first, last in self.events) / 1000
        seconds = max(time.perf_counter() - self.begin, 1e-9)
        if self.events:
            idle = min(1.0, max(0.0, 1 - busy / seconds))
        result = Lap(self.steps / seconds, self.waited / seconds, idle)
        self.begin, self.waited, self.steps, self.events = time.perf_counter(), 0.0, 0, []
        return result


def choose_device(name: str, ranks: Ranks = ALONE) -> torch.device:
    """`auto` is a GPU where there is one; of several processes each takes the GPU of its local number.

    Raises:
        TrainError: a device that is not there, or that several processes cannot share.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if ranks.count > 1 and name not in ("cpu", "cuda"):
        raise TrainError(f"run.device={name}: several processes cannot share it; use run.device=cuda, cpu or auto")
    try:
        device = find_device(name)
    except ModelError as error:
        raise TrainError(f"run.{error}") from None
    if ranks.count == 1 or name == "cpu":
        return device
    there = torch.cuda.device_count()
    if ranks.local >= there:
        raise TrainError(f"run.device=cuda: no GPU for local rank {ranks.local}; start {there} processes a machine")
    return torch.device("cuda", ranks.local)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The type of matrix products. A CPU without bfloat16 units computes them 40 times slower than float32."""
    if name == "auto":
        gains = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if gains else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def compile_part(part: nn.Module, choice: str, device: torch.device) -> Any:
    """The part as something to call, compiled where `choice` (always, never, auto: on CUDA) says so.

    The part itself stays as it is, so that the names in a checkpoint do not depend on the machine.
    """
    wanted = choice == "always" or (choice == "auto" and device.type == "cuda")
    return torch.compile(part, dynamic=False) if wanted else part


@contextlib.contextmanager
def prepared(device: torch.device, threads: int) -> Iterator[None]:
    """Settings of the process while it trains: denormals flushed, threads, TF32 for what stays float32 on a GPU.

    Denormals and threads are as before afterwards. Denormals are a setting of each thread, inherited by those that it
    starts: enter before torch has started its own.
    """
    flushed = float(torch.tensor(1e-40) * 1) == 0.0
    before = torch.get_num_threads()
    torch.set_flush_denormal(True)
    if threads:
        torch.set_num_threads(threads)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)
        if threads:
            torch.set_num_threads(before)


class Skips:
    """Steps left out because their gradient was not finite; counted on the device, read now and then."""

    def __init__(self, device: torch.device) -> None:
        self.total = 0
        self._new = torch.zeros((), dtype=torch.int64, device=device)
        self._in_a_row = torch.zeros((), dtype=torch.int64, device=device)
        self._longest = torch.zeros((), dtype=torch.int64, device=device)

    def count(self, finite: Tensor) -> None:
        """One step, (), bool; does not wait for the device."""
        skipped = (~finite).long()
        self._new = self._new + skipped
        self._in_a_row = (self._in_a_row + skipped) * skipped
        self._longest = torch.maximum(self._longest, self._in_a_row)

    def read(self) -> int:
        """Wait for the device; add up `total`; the longest row since the last read."""
        self.total += int(self._new)
        longest = int(self._longest)
        self._new = torch.zeros_like(self._new)
        self._longest = self._in_a_row
        return longest
