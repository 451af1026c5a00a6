"""Measure everything; write benchmarks/results.json, RESULTS.md, docs/performance.md, README's speeds: `make bench`.

    OMP_NUM_THREADS=1 python -m benchmarks.run [--quick]     # six minutes on a quiet machine, with --quick about two

Every part but one runs on a single thread; that one asks torch for two.
"""

from __future__ import annotations

import argparse
import datetime as dt
import gc
import importlib.metadata
import json
import os
import shlex
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import codec
from benchmarks.bars import judge
from benchmarks.lookup import measure_lookup
from benchmarks.memory import measure_commands, measure_lengths, measure_processes
from benchmarks.offline import measure_batches, measure_offline
from benchmarks.peers import ENCODEC, LYRA, MIMI, OURS, PEERS, Peer, lyra, open_all
from benchmarks.results import ROOT, pages
from benchmarks.roofline import count_operations, measure_limits, step_floors
from benchmarks.streaming import measure_rows, measure_steps
from codec.bench import machine_name

PACKAGES = ("torch", "onnxruntime", "numpy", "encodec", "transformers", "snac", "vocos", "faiss-cpu", "ai-edge-litert")
LENGTHS = {"encode": (1, 10, 60, 600, 3600), "decode": (1, 10, 60, 600, 3600)}
QUICK_LENGTHS = {"encode": (1, 10), "decode": (1, 10)}
BATCHED = (ENCODEC, MIMI, *OURS)


def measure(builders: dict[str, Callable[[], Peer]], *, quick: bool) -> dict[str, Any]:
    """All figures, ours beside some peers."""
    begin, load = time.time(), os.getloadavg()[0]
    # Children first: what this process holds does not matter to them, but its pages would crowd theirs out.
    results: dict[str, Any] = {"commands": told("commands", measure_commands(quick=quick))}
    results["lengths"] = told("lengths", measure_lengths(QUICK_LENGTHS if quick else LENGTHS))
    results["processes"] = told("processes", measure_processes([*OURS, *(name for name in builders if name in PEERS)]))
    torch.set_num_threads(1)
    results["limits"] = told("limits", measure_limits(quick=quick))
    results["lookup"] = told("lookup", measure_lookup(quick=quick))
    results["rows"] = told("rows", measure_rows(quick=quick))
    peers, missing = open_all({**OURS, **builders})
    results |= {"missing": missing, "notes": {name: peer.note for name, peer in peers.items()}}
    results |= measure_peers(peers, quick=quick)
    results["bars"] = judge(results)
    info = codec.load().info
    results["about"] = {
        "date": dt.date.today().isoformat(),
        "machine": machine_name(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
        "versions": versions(),
        "model": info.name,
        "weights": info.weights_hash[:12],
        "command": shlex.join(["python", "-m", "benchmarks.run", *sys.argv[1:]]),
        "quick": quick,
        "minutes": round((time.time() - begin) / 60, 1),
    }
    return results


def measure_peers(peers: dict[str, Peer], *, quick: bool) -> dict[str, Any]:
    """What is measured with all codecs in this process."""
    threads = (1,) if quick or (os.cpu_count() or 1) < 2 else (1, 2)
    found: dict[str, Any] = {"steps": told("steps", measure_steps(peers, quick=quick))}
    found["operations"] = told("operations", count_operations(peers))
    found["floors"] = step_floors(measure_limits(quick=True), found["operations"], found["steps"])
    batched = {name: peer for name, peer in peers.items() if name in BATCHED}
    found["batches"] = told("batches", measure_batches(batched, (1, 4) if quick else (1, 4, 16), quick=quick))
    found["offline"] = told("offline", measure_offline(peers, threads, quick=quick))
    return found


def told(name: str, value: Any) -> Any:
    """The value; says on the terminal how far we are."""
    print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
    gc.collect()
    return value


def versions() -> dict[str, str]:
    """Of what was measured."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="all benchmarks")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, shorter files, one thread")
    parser.add_argument("--peers", default="", help="only those whose name has one of these words in it: encodec,Mimi")
    parser.add_argument("--lyra", type=Path, help="folder with Lyra v2's three .tflite files, to measure it too")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)  # of the peers' packages
    names = [part for part in options.peers.split(",") if part]
    builders = {name: PEERS[name] for name in PEERS if not names or any(part in name for part in names)}
    if options.lyra:
        builders[LYRA] = lambda: lyra(options.lyra)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the child processes
    results = measure(builders, quick=options.quick)
    (ROOT / "benchmarks" / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    for path, text in pages(ROOT).items():
        path.write_text(text)
        print(path.relative_to(ROOT))
    for row in results["bars"]:
        print(f"{'met' if row['met'] else 'missed' if row['met'] is False else '-':7} {row['name']}: {row['measured']}")


if __name__ == "__main__":
    main()
