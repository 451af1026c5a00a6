"""The documents of the benchmarks say what results.json says; every bar is there, met or missed."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results.json"


def check(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.results", "--check", "--root", str(root)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RESULTS.read_text())
    return found


def test_the_documents_agree_with_the_json(results: dict[str, Any]) -> None:
    done = check(ROOT)
    assert done.returncode == 0, done.stderr


def test_another_number_in_the_json_is_found_out(tmp_path: Path, results: dict[str, Any]) -> None:
    for folder, name in (("benchmarks", "RESULTS.md"), ("docs", "performance.md")):
        (tmp_path / folder).mkdir()
        shutil.copy(ROOT / folder / name, tmp_path / folder)
    shutil.copy(ROOT / "README.md", tmp_path)
    others = copy.deepcopy(results)
    others["steps"][0]["ms"]["median"] += 1
    others["offline"][0]["rtf"]["median"] *= 2
    (tmp_path / "benchmarks" / "results.json").write_text(json.dumps(others))
    done = check(tmp_path)
    assert done.returncode == 1
    assert "RESULTS.md" in done.stderr
    assert "performance.md" in done.stderr
    assert "README.md" in done.stderr


def test_bars_are_judged_from_the_figures_and_none_is_left_out(results: dict[str, Any]) -> None:
    program = "import json, sys; from benchmarks.bars import judge; print(json.dumps(judge(json.load(sys.stdin))))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(results),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert json.loads(done.stdout) == results["bars"]
    page = (ROOT / "docs" / "performance.md").read_text()
    for bar in results["bars"]:
        assert f"| {bar['name']} | {bar['bar']} | {bar['measured']} |" in page
    assert len(results["bars"]) >= 14


def test_every_figure_has_its_spread(results: dict[str, Any]) -> None:
    spreads = [row["rtf"] for row in results["offline"]] + [row["ms"] for row in results["steps"]]
    assert spreads
    assert all(spread["low"] <= spread["median"] <= spread["high"] for spread in spreads)
