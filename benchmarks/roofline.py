"""What the machine allows: bytes of weights over memory bandwidth, floating-point operations over the fp32 peak.

Both limits are measured in the run with torch on one thread. A step of a stream reads each weight at least once.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import codec
from benchmarks.peers import Peer
from codec.bench import VARIANTS
from codec.timing import take_turns

FAR = 256 * 2**20  # bytes of a matrix that no cache holds
SECONDS = 0.6  # of the audio whose operations are counted


def measure_limits(*, quick: bool) -> dict[str, float]:
    """Bytes per second that a matrix-vector product reads, from memory and from as much as our encoder; fp32 FLOP/s."""
    near = sum(codec.load().info.parameters.values()) * 4 // 2
    vectors = {name: torch.rand(2048) for name in ("far", "near")}
    matrices = {"far": torch.rand(FAR // 4 // 2048, 2048), "near": torch.rand(near // 4 // 2048, 2048)}
    square = torch.rand(1024, 1024)
    jobs = {name: (lambda m=matrices[name], v=vectors[name]: torch.mv(m, v)) for name in matrices}
    with torch.inference_mode():
        times = take_turns(jobs, rounds=4 if quick else 40, burst=5)
        products = take_turns({"product": lambda: torch.mm(square, square)}, rounds=4 if quick else 40)["product"]
    limits = {f"{name}_bandwidth": matrices[name].nbytes / statistics.median(times[name]) for name in matrices}
    return {**limits, "near_bytes": float(near), "flops": 2 * 1024**3 / statistics.median(products)}


def count_operations(peers: Mapping[str, Peer]) -> list[dict[str, Any]]:
    """One row per torch codec and part: FLOP per second of audio, of products and convolutions (no LSTM, no FFT).

    Ours are counted on a live step, as blocks are filled up with zeros. What the counter cannot look into has none.
    """
    rows = []
    for name, peer in peers.items():
        if name.startswith("ours") and "torch" not in name:
            continue
        for part, make in (("encode", peer.encode), ("decode", peer.decode)):
            if make is None:
                continue
            job, seconds = make(1, SECONDS), SECONDS
            if name.startswith("ours") and peer.steps is not None:
                jobs, seconds = peer.steps()
                job = jobs[part]
            try:
                with FlopCounterMode(display=False) as counter:
                    job()
            except AttributeError:  # the counter cannot look through parametrized weights in inference mode
                continue
            rows.append({"codec": name, "part": part, "flop_per_second": counter.get_total_flops() / seconds})
    return rows


def step_floors(
    limits: Mapping[str, float], operations: list[dict[str, Any]], steps: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """One row per engine of ours and part: the least ms of a step by bytes and by operations, and what it takes."""
    info = codec.load().info
    flops = {row["part"]: row["flop_per_second"] for row in operations if row["codec"].startswith("ours")}
    owned = {"encode": info.parameters["encoder"] + info.parameters["bottleneck"], "decode": info.parameters["decoder"]}
    rows = []
    for name in VARIANTS:
        for row in steps:
            if row["codec"] != f"ours, {name}":
                continue
            n_bytes = owned[row["part"]] * (1 if "int8" in name else 4)
            by_bytes = 1e3 * n_bytes / limits["near_bandwidth"]
            by_flops = 1e3 * flops[row["part"]] / info.frame_rate / limits["flops"] if row["part"] in flops else None
            floor = max(by_bytes, by_flops or 0.0)
            rows.append(
                {
                    "codec": row["codec"],
                    "part": row["part"],
                    "weight_bytes": n_bytes,
                    "ms_by_bytes": by_bytes,
                    "ms_by_flops": by_flops,
                    "ms": row["ms"]["median"],
                    "times_floor": row["ms"]["median"] / floor,
                }
            )
    return rows
