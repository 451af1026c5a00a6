"""Live streams: one step, Python included, of each codec that streams; and many streams of ours in one object."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import codec
from benchmarks.peers import LYRA, MIMI, Peer
from codec.bench import VARIANTS, steady_jobs
from codec.timing import Job, Spread, ratios, take_turns

BURST, ROUNDS = 25, 20  # steps in a row, so that a codec meets the caches as it leaves them; turns
JOB_SECONDS = 4.0
ROWS = (1, 8, 32)


def measure_steps(peers: Mapping[str, Peer], *, quick: bool) -> list[dict[str, Any]]:
    """One row per codec and part: ms of a step, live streams a core holds, cost against Mimi and Lyra."""
    jobs: dict[str, Job] = {}
    frames: dict[str, float] = {}
    for name, peer in peers.items():
        if peer.steps is not None:
            steps, frames[name] = peer.steps()
            jobs.update({f"{part}|{name}": job for part, job in steps.items()})
    times = take_turns(jobs, rounds=3 if quick else ROUNDS, seconds=JOB_SECONDS, burst=6 if quick else BURST)
    costs = {key: [value / frames[key.partition("|")[2]] for value in values] for key, values in times.items()}
    rows = []
    for key, values in times.items():
        part, _, name = key.partition("|")
        spread, base, lyra = Spread.of(values), costs.get(f"{part}|{MIMI}"), costs.get(f"{part}|{LYRA}")
        row: dict[str, Any] = {"codec": name, "part": part, "frame_ms": frames[name] * 1e3}
        row["ms"] = dataclasses.asdict(spread.scaled(1e3))
        row["live_streams"] = frames[name] / spread.median
        row["mimi_over_this"] = dataclasses.asdict(ratios(base, costs[key])) if base else None
        row["this_over_lyra"] = dataclasses.asdict(ratios(costs[key], lyra)) if lyra else None
        rows.append(row)
    return rows


def measure_rows(*, quick: bool) -> list[dict[str, Any]]:
    """One row per engine, part and number of streams in one object: ms of a step for all, and in single steps."""
    found = []
    for variant in VARIANTS:
        model = codec.load(**VARIANTS[variant])
        jobs: dict[str, Job] = {}
        for n_rows in ROWS:
            steady = steady_jobs(model, n_rows)
            jobs.update({f"{part}|{n_rows}": steady[f"rows_{part}"] for part in ("encode", "decode")})
            if n_rows == 1:
                jobs.update({f"{part}|single": steady[f"step_{part}"] for part in ("encode", "decode")})
        times = take_turns(jobs, rounds=3 if quick else 12, seconds=JOB_SECONDS / 4, burst=2 if quick else 8)
        for n_rows in ROWS:
            for part in ("encode", "decode"):
                values = times[f"{part}|{n_rows}"]
                spread = Spread.of(values)
                row: dict[str, Any] = {"codec": f"ours, {variant}", "part": part, "rows": n_rows}
                row["ms"] = dataclasses.asdict(spread.scaled(1e3))
                row["single_steps"] = dataclasses.asdict(ratios(values, times[f"{part}|single"]))
                row["live_streams"] = n_rows / model.info.frame_rate / spread.median
                found.append(row)
    return found
