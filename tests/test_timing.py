"""Times are taken in turns and told as medians."""

from __future__ import annotations

import itertools
import subprocess
import sys
from functools import partial

import pytest

from codec.timing import Spread, peak_memory, ratios, take_turns


def test_a_spread_has_the_quartiles_of_its_values() -> None:
    found = Spread.of([5.0, 1.0, 4.0, 2.0, 3.0])
    assert (found.median, found.low, found.high, found.n) == (3.0, 2.0, 4.0, 5)
    assert found.p99 == pytest.approx(4.96)
    assert Spread.of([2.0]) == Spread(2.0, 2.0, 2.0, 2.0, 1)
    assert Spread.of([1.0, 3.0]).scaled(10).median == 20


def test_jobs_take_turns_after_one_call_that_is_not_measured() -> None:
    calls: list[str] = []
    times = take_turns({name: partial(calls.append, name) for name in "ab"}, rounds=4)
    assert "".join(calls) == "ab" + "ab" * 4
    assert [len(values) for values in times.values()] == [4, 4]


def test_a_burst_begins_with_a_call_that_is_not_measured() -> None:
    calls: list[str] = []
    times = take_turns({name: partial(calls.append, name) for name in "ab"}, rounds=2, least=1, burst=3)
    assert "".join(calls) == "ab" + "aaaabbbb" * 2
    assert len(times["a"]) == 6


def test_a_slow_job_sits_out_after_the_least_number_of_turns() -> None:
    ticks = itertools.count()
    slow: list[int] = []

    def work() -> None:
        slow.append(next(ticks) and next(ticks))  # two ticks of this clock; reading it takes one

    times = take_turns({"slow": work, "fast": lambda: None}, rounds=10, seconds=8, clock=lambda: float(next(ticks)))
    assert times["slow"] == [3.0, 3.0, 3.0]
    assert times["fast"] == [1.0] * 8


def test_ratios_are_taken_round_by_round() -> None:
    assert ratios([2.0, 40.0, 6.0], [1.0, 20.0, 3.0]).median == 2.0
    assert ratios([2.0, 40.0, 6.0], [1.0, 20.0, 3.0]).high == 2.0


def test_the_peak_of_memory_counts_what_was_let_go() -> None:
    program = "from codec.timing import peak_memory as p; a = p(); x = b'x' * 50_000_000; del x; print(p() - a)"
    if peak_memory() is None:
        pytest.skip("the system does not tell")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 45e6 < int(done.stdout) < 60e6
