"""Layouts and their inverses: million tokens a second on one core, of numpy arrays and torch tensors.

    OMP_NUM_THREADS=1 python -m benchmarks.layouts [--json FILE]

Items of 30 seconds at 50 frames a second, alone and 64 at once. Time is CPU time of this process, the best of some
rounds; tokens are those that carry codes, padding is not counted. An item alone is a few thousand tokens, so that the
call itself counts: its time stands beside it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from codec.tokens import LAYOUTS, TokenIds, make_layout

BAR = 50.0  # million tokens per second
SNAC = (4, 2, 1)


def best_seconds(function: Callable[[], Any], rounds: int = 5) -> float:
    """The least time of one call, over rounds of a fiftieth of a second."""
    repeat, seconds = 1, 0.0
    while seconds < 0.02:
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


def measure(kind: str, n_codebooks: int, n_frames: int, n_items: int, *, as_torch: bool) -> dict[str, Any]:
    """Million tokens per second there and back, and microseconds a call."""
    n_codebooks = len(SNAC) if kind == "multirate" else n_codebooks
    layout = make_layout(kind, TokenIds((1024,) * n_codebooks), {"divisors": SNAC} if kind == "multirate" else None)
    array = np.random.default_rng(0).integers(0, 1024, (n_items, n_codebooks, n_frames))
    for q, divisor in enumerate(layout.divisors):
        array[:, q] = np.repeat(array[:, q, ::divisor], divisor, axis=-1)[:, :n_frames]
    array = array[0] if n_items == 1 else array
    codes: Any = torch.from_numpy(array) if as_torch else array
    tokens = layout.arrange(codes)
    back = layout.restore(tokens)
    pairs = [(back, array)] if n_items == 1 else zip(back, array, strict=True)
    assert all(np.array_equal(found.codes, wanted) for found, wanted in pairs)
    n = n_items * sum(-(-n_frames // divisor) for divisor in layout.divisors)
    found: dict[str, Any] = {"layout": kind, "items": n_items, "array": "torch" if as_torch else "numpy"}
    for name, call in (("arrange", lambda: layout.arrange(codes)), ("restore", lambda: layout.restore(tokens))):
        seconds = best_seconds(call)
        found |= {name: n / 1e6 / seconds, f"{name}_us": seconds * 1e6}
    return found


def main() -> None:
    """All layouts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--frames", type=int, default=1500)
    parser.add_argument("--codebooks", type=int, default=8)
    parser.add_argument("--items", default="1,64")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{options.codebooks} codebooks (multirate: {len(SNAC)}), items of {options.frames} frames, int64\n")
    print("| layout | items | array | arrange, M tokens/s | us a call | restore, M tokens/s | us a call | bar |")
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    for n_items in map(int, options.items.split(",")):
        for kind in LAYOUTS:
            for as_torch in (False, True):
                row = measure(kind, options.codebooks, options.frames, n_items, as_torch=as_torch)
                rows.append(row)
                print(
                    f"| {kind} | {n_items} | {row['array']} | {row['arrange']:.0f} | {row['arrange_us']:.0f} | "
                    f"{row['restore']:.0f} | {row['restore_us']:.0f} | "
                    f"{'met' if min(row['arrange'], row['restore']) >= BAR else 'missed'} |",
                    flush=True,
                )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
