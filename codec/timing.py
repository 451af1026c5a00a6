"""Times as medians with their spread, taken in turns; memory at its highest. Standard library alone.

>>> Spread.of([3.0, 1.0, 2.0, 4.0, 5.0])
Spread(median=3.0, low=2.0, high=4.0, p99=4.96, n=5)
>>> times = take_turns({"nothing": lambda: None}, rounds=3)
>>> len(times["nothing"])
3
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Job = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """A measured figure.

    Attributes:
        median: of all values; the unit is that of the values.
        low: the first quartile.
        high: the third quartile.
        p99: 99 of 100 values are below; the largest where there are few.
        n: how many values.
    """

    median: float
    low: float
    high: float
    p99: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0], values[0], 1)
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        p99 = statistics.quantiles(values, n=100, method="inclusive")[-1]
        return cls(middle, low, high, p99, len(values))

    def scaled(self, factor: float) -> Spread:
        """The same in another unit."""
        return Spread(self.median * factor, self.low * factor, self.high * factor, self.p99 * factor, self.n)


def take_turns(
    jobs: Mapping[str, Job],
    *,
    rounds: int,
    seconds: float = float("inf"),
    least: int = 3,
    burst: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each job, per call: A B C A B C, so that a machine whose speed drifts slows all alike.

    Args:
        jobs: what to run, by name. Each runs once before, unmeasured.
        rounds: at most so many turns for each.
        seconds: a job that has taken longer in all sits out the rest, after `least` turns.
        least: turns that every job gets.
        burst: measured calls of one turn. Short jobs need more than one, and one before them that is not measured: the
            caches are full of the other jobs' weights at first, which no stream that runs alone would meet.
        clock: `time.process_time` counts only this process, and all of its threads.

    Returns:
        The values of one job; value i of one stands beside value i of another.
    """
    for job in jobs.values():
        job()
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(max(rounds, least)):
        active = [name for name in jobs if turn < least or sum(times[name]) < seconds]
        if not active:
            break
        for name in active:
            if burst > 1:
                jobs[name]()
            for _ in range(burst):
                begin = clock()
                jobs[name]()
                times[name].append(clock() - begin)
    return times


def ratios(slow: Sequence[float], fast: Sequence[float]) -> Spread:
    """How many times longer the first takes, round by round: what drifts over the rounds divides out."""
    return Spread.of([a / b for a, b in zip(slow, fast, strict=False)])


def peak_memory() -> int | None:
    """The most memory this process has held so far, bytes; None where the system does not tell."""
    status = Path("/proc/self/status")
    if status.exists():  # `ru_maxrss` would count what the parent held when it started us
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
