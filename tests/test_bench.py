"""`codec bench` measures what it says, quickly where asked."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codec.api import load
from codec.bench import CLIP_FRAMES, ROWS, BenchReport, bench_model, open_variants, run_command, steady_jobs
from codec.cli.bench import cells, print_table
from codec.errors import CodecError, ModelError
from codec.hub import EMBEDDED
from codec.stream import MODES

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(scope="module")
def report(tiny_path: Path) -> BenchReport:
    return bench_model(tiny_path, seconds=0.1, cold=False)


def test_every_engine_that_runs_the_model_is_measured_and_the_others_are_told(report: BenchReport) -> None:
    assert [engine.engine for engine in report.engines] == ["torch"]
    assert "has no ONNX graphs" in report.skipped["onnx"]
    (engine,) = report.engines
    for spread in (engine.rtf_encode, engine.step_decode, engine.rows_encode):
        assert 0 < spread.low <= spread.median <= spread.high <= spread.p99
    assert report.live_streams(engine.step_encode) == pytest.approx(0.02 / engine.step_encode.median)
    assert report.live_streams(engine.rows_encode, ROWS) == pytest.approx(ROWS * 0.02 / engine.rows_encode.median)


def test_the_offline_clip_fills_whole_blocks(tiny_path: Path) -> None:
    info = load(tiny_path).info
    assert -(-(CLIP_FRAMES * info.hop_length + info.delay) // info.hop_length) % MODES["block"] == 0


def test_every_step_that_is_measured_takes_or_gives_one_frame(tiny_path: Path) -> None:
    jobs = steady_jobs(load(tiny_path), 2)
    codes, *_, audio = jobs["step_encode"](), *(jobs["step_decode"]() for _ in range(3))
    assert isinstance(codes, np.ndarray)
    assert isinstance(audio, np.ndarray)
    assert (codes.shape, audio.shape) == ((4, 1), (320,))  # after the first frames, which are the delay
    many = jobs["rows_encode"]()
    assert isinstance(many, dict)
    assert [found.shape for found in many.values()] == [(4, 1), (4, 1)]


@pytest.mark.slow
def test_the_command_measures_steps_and_cold_starts(run: Run) -> None:
    done = run("bench", "--seconds", "0.2", "--engine", "onnx", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (engine,) = report["engines"]
    assert engine["engine"] == "onnx"
    assert 0 < engine["cold"]["median"] <= engine["cold_total"]["median"]
    assert 30e6 < engine["memory_bytes"] < 1e9
    assert engine["live_streams"]["encode"] > 0


def test_an_unknown_engine_or_model_is_one_line(call: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="unknown; use onnx"):
        bench_model(engines=("tpu",))
    code, _, err = call("bench", tmp_path)
    assert (code, err.count("\n")) == (1, 1)


def test_an_engine_goes_by_the_name_that_load_knows() -> None:
    models, skipped = open_variants(EMBEDDED / "default_16k", ["onnx-int8"])
    assert (list(models), skipped) == (["onnx int8"], {})


def test_the_table_has_a_column_for_each_engine_and_says_why_one_is_missing(
    report: BenchReport, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = cells(report, "torch")
    assert rows["the same, most memory, MB"] == "-"
    assert float(rows["encode offline, RTF"].split()[0]) > 0
    print_table(report)
    shown = capsys.readouterr().out
    assert "encode live streams, one core" in shown
    assert "has no ONNX graphs" in shown


def test_a_command_that_fails_is_an_error_with_its_message() -> None:
    with pytest.raises(CodecError, match=r"no such file|nothing there|does not exist"):
        run_command("decode", "nowhere.codes", "-")
