"""Layouts and their inverses: million tokens a second on one core.

OMP_NUM_THREADS=1 python benchmarks/layouts.py [--frames 180000] [--codebooks 8] [--json FILE]

One item of an hour at 50 frames a second by default; --frames 1500 shows what a call on 30 seconds costs. Time is CPU
time of this process, the best of some rounds; tokens are those that carry codes, padding is not counted.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from codec.tokens import TokenIds, make_layout

BAR = 50.0  # million tokens per second
SNAC = (4, 2, 1)


def best_seconds(function: Callable[[], Any], rounds: int = 9) -> float:
    """The least time of one call, over rounds of a tenth of a second."""
    repeat, seconds = 1, 0.0
    while seconds < 0.1:
        repeat *= 2
        start = time.process_time()
        for _ in range(repeat):
            function()
        seconds = time.process_time() - start
    found = [seconds / repeat]
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(repeat):
            function()
        found.append((time.process_time() - start) / repeat)
    return min(found)


def measure(kind: str, n_codebooks: int, n_frames: int) -> dict[str, float]:
    """Million tokens per second there and back."""
    n_codebooks = len(SNAC) if kind == "multirate" else n_codebooks
    layout = make_layout(kind, TokenIds((1024,) * n_codebooks), {"divisors": SNAC} if kind == "multirate" else None)
    codes = np.random.default_rng(0).integers(0, 1024, (n_codebooks, n_frames))
    for q, divisor in enumerate(layout.divisors):
        codes[q] = np.repeat(codes[q, ::divisor], divisor)[:n_frames]
    tokens = layout.arrange(codes)
    assert (layout.restore(tokens).codes == codes).all()
    n = sum(-(-n_frames // divisor) for divisor in layout.divisors) / 1e6
    forth, back = best_seconds(lambda: layout.arrange(codes)), best_seconds(lambda: layout.restore(tokens))
    return {"arrange": n / forth, "restore": n / back}


def main() -> None:
    """All layouts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--frames", type=int, default=180000)
    parser.add_argument("--codebooks", type=int, default=8)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    kinds = ("parallel", "frame", "codebook", "delay", "coarse", "semantic", "multirate", "depth")
    rows = {kind: measure(kind, options.codebooks, options.frames) for kind in kinds}
    print(f"{options.codebooks} codebooks (multirate: {len(SNAC)}), {options.frames} frames, int64\n")
    print(f"| layout | arrange, M tokens/s | restore, M tokens/s | at least {BAR:g} |\n|---|---|---|---|")
    for kind, row in rows.items():
        print(
            f"| {kind} | {row['arrange']:.0f} | {row['restore']:.0f} | {'yes' if min(row.values()) >= BAR else 'no'} |"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
