"""Offline: seconds of work per second of audio with 1 and 2 threads, and with a batch. The codecs take turns."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from benchmarks.peers import ENCODEC, SECONDS, Peer
from codec.timing import Job, Spread, ratios, take_turns

QUICK_SECONDS = 0.6
PARTS = ("encode", "decode")
ROUNDS, LEAST = 15, 3
JOB_SECONDS = 1.5  # a slow codec sits out once it has run so long
BATCH_SECONDS = 1.22


def measure_offline(peers: Mapping[str, Peer], threads: Sequence[int], *, quick: bool) -> list[dict[str, Any]]:
    """One row per codec, part and number of threads: the real-time factor, and how many times slower EnCodec is."""
    rows, seconds = [], QUICK_SECONDS if quick else SECONDS
    for count in threads:
        torch.set_num_threads(count)
        jobs: dict[str, Job] = {}
        for name, peer in peers.items():
            for part, make in zip(PARTS, (peer.encode, peer.decode), strict=True):
                if make is not None:
                    jobs[f"{part}|{name}"] = make(1, seconds)
        least = 1 if quick else LEAST
        times = take_turns(jobs, rounds=3 if quick else ROUNDS, least=least, seconds=JOB_SECONDS)
        for key, values in times.items():
            part, _, name = key.partition("|")
            base = times.get(f"{part}|{ENCODEC}")
            row = {"codec": name, "part": part, "threads": count}
            row["rtf"] = dataclasses.asdict(Spread.of(values).scaled(1 / seconds))
            row["encodec_over_this"] = dataclasses.asdict(ratios(base, values)) if base else None
            rows.append(row)
    torch.set_num_threads(1)
    return rows


def measure_batches(peers: Mapping[str, Peer], sizes: Sequence[int], *, quick: bool) -> list[dict[str, Any]]:
    """One row per codec, part and batch: seconds per second of audio of the whole batch. One thread."""
    rows, seconds = [], QUICK_SECONDS if quick else BATCH_SECONDS
    for name, peer in peers.items():
        jobs = {}
        for part, make in zip(PARTS, (peer.encode, peer.decode), strict=True):
            if make is not None:
                jobs.update({f"{part}|{size}": make(size, seconds) for size in sizes})
        least = 1 if quick else LEAST
        times = take_turns(jobs, rounds=3 if quick else ROUNDS, least=least, seconds=JOB_SECONDS / 3)
        for key, values in times.items():
            part, _, size = key.partition("|")
            spread = Spread.of(values).scaled(1 / (seconds * int(size)))
            rows.append({"codec": name, "part": part, "batch": int(size), "rtf": dataclasses.asdict(spread)})
    return rows
