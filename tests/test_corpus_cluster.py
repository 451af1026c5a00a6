"""`codec tokenize --engine ray`: the same shards, each once, though a worker is killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import soundfile

from codec.corpus.check import verify_tokens
from codec.corpus.run import Options, read_index, tokenize

ROOT = Path(__file__).resolve().parents[1]
HOURS = 1.1 / 3600


@pytest.mark.slow
def test_a_ray_worker_that_is_killed_costs_no_shard_and_doubles_none(tmp_path: Path, speech: Any) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install 'neural-codec[ray]'")
    source = tmp_path / "in"
    source.mkdir()
    for i in range(10):
        soundfile.write(source / f"{i:02d}.flac", speech[900 * i :][:16000], 16000)
    tokenize(str(source), tmp_path / "whole", Options(engine="onnx", shard_hours=HOURS, workers=1))
    out = tmp_path / "out"
    args = ["--engine", "ray", "--workers", "2", "--shard-hours", str(HOURS)]
    command = [sys.executable, "-m", "codec", "tokenize", str(source), "--out", str(out), *args]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    killed = kill_one_worker(process, out)
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    assert killed
    assert read_index(out)["shards"] == read_index(tmp_path / "whole")["shards"]
    assert read_index(out)["n_rows"] == 10
    assert verify_tokens(out).misses == ()


def kill_one_worker(process: subprocess.Popen[bytes], out: Path) -> bool:
    """Kill -9 an actor of this run, and of no other, as soon as two shards are done."""
    while process.poll() is None:
        if len(list((out / "done").glob("*.json"))) >= 2:
            for pid in descendants(process.pid):
                if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::ShardWorker.make"):
                    os.kill(pid, signal.SIGKILL)
                    return True
        time.sleep(0.02)
    return False


def descendants(pid: int) -> list[int]:
    """Children, and theirs; they may end while we look."""
    try:
        found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return found + [deeper for child in found for deeper in descendants(child)]
