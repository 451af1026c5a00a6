"""The page of published systems, its picture and the recipes' lines of cost say what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_documents_agree_with_what_was_measured() -> None:
    command = [sys.executable, "-m", "benchmarks.systems", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


def test_every_family_that_was_trained_learnt() -> None:
    trainings = json.loads((ROOT / "benchmarks" / "systems.json").read_text())["trainings"]
    assert trainings
    for name, row in trainings.items():
        first, last = row["curve"][0][1], row["curve"][-1][1]
        assert last < first, name
        assert row["loss"][1] < row["loss"][0], name
