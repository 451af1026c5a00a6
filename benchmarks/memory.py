"""Memory, cold starts and length: what only a process of its own can show.

python -m benchmarks.memory "encodec 24 kHz"     # what `measure_processes` starts for each codec
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from codec.bench import COLD_SECONDS, VARIANTS, cold_starts, run_command
from codec.golden import shaped_noise
from codec.hub import DEFAULT, find_model
from codec.timing import Spread, peak_memory

ROOT = Path(__file__).resolve().parents[1]
RATE = 16000


def measure_processes(names: Sequence[str]) -> list[dict[str, Any]]:
    """One row per codec: a process that loads it, encodes and decodes; its memory, seconds to the codes."""
    rows = []
    for name in names:
        begin = time.time()
        command = [sys.executable, "-m", "benchmarks.memory", name]
        done = subprocess.run(command, capture_output=True, text=True, env=one_thread(), cwd=ROOT, check=False)
        if done.returncode:
            rows.append({"codec": name, "error": done.stderr.strip().splitlines()[-1]})
            continue
        said = json.loads(done.stdout.splitlines()[-1])
        rows.append({"codec": name, "first_codes": said["first_codes"] - begin, "memory_bytes": said["memory_bytes"]})
    return rows


def child(name: str) -> None:
    """One codec, alone in this process."""
    from benchmarks.peers import OURS, PEERS

    peer = {**PEERS, **OURS}[name]()
    first = peer.encode or peer.decode
    assert first is not None
    first(1, COLD_SECONDS)()
    at = time.time()
    if peer.encode is not None and peer.decode is not None:
        peer.decode(1, COLD_SECONDS)()
    print(json.dumps({"first_codes": at, "memory_bytes": peak_memory()}))


def measure_commands(*, quick: bool) -> list[dict[str, Any]]:
    """One row per engine: `codec encode FILE -` cold, seconds to the first byte and to the end, memory."""
    runs = cold_starts(find_model(DEFAULT), tuple(VARIANTS), seconds=0.0 if quick else 30.0)
    rows = []
    for name, found in runs.items():
        row: dict[str, Any] = {"codec": f"codec encode, {name}", "seconds": COLD_SECONDS}
        row["first_byte"] = dataclasses.asdict(Spread.of([run.first_byte for run in found]))
        row["wall"] = dataclasses.asdict(Spread.of([run.wall for run in found]))
        row["memory_bytes"] = max((run.memory_bytes or 0) for run in found) or None
        rows.append(row)
    return rows


def measure_lengths(lengths: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
    """One row per part and length in seconds: the command line's wall time and memory, on files."""
    rows = []
    with tempfile.TemporaryDirectory() as work:
        for seconds in sorted({x for values in lengths.values() for x in values}):
            source, codes, again = (Path(work) / f"{seconds}{end}" for end in (".wav", ".codes", ".out.wav"))
            write_long(source, seconds)
            runs = {"encode": run_command("encode", str(source), str(codes), "-q")}
            source.unlink()
            if seconds in lengths["decode"]:
                runs["decode"] = run_command("decode", str(codes), str(again), "-q")
                again.unlink()
            for part, run in runs.items():
                rows.append({"part": part, "seconds": seconds, "wall": run.wall, "memory_bytes": run.memory_bytes})
    return rows


def write_long(path: Path, seconds: int) -> None:
    """A 16-bit file of any length: the same ten seconds again and again."""
    part = shaped_noise(RATE, 10.0)
    with soundfile.SoundFile(path, "w", RATE, 1, subtype="PCM_16") as file:
        for begin in range(0, seconds, 10):
            file.write(np.ascontiguousarray(part[: (seconds - begin) * RATE]))


def one_thread() -> dict[str, str]:
    """An environment for child processes of one thread."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


if __name__ == "__main__":
    child(sys.argv[1])
