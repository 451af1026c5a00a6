"""The log of a training run: a full disk ends it with the system's error alone."""

from __future__ import annotations

import resource
import threading
from pathlib import Path

import pytest

from codec.train.report import Report

pytest.importorskip("tensorboard", reason="TensorBoard belongs to the extra train")


def write_much(report: Report) -> None:
    assert report.board is not None
    for step in range(2000):
        report.board.add_text("text", "x" * 4096, step)
        report.board.flush()


def test_a_full_disk_is_one_error_and_no_traceback_of_a_thread(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before, (soft, hard) = threading.excepthook, resource.getrlimit(resource.RLIMIT_FSIZE)
    report = Report(tmp_path, 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # as a full disk: nothing goes beyond this size
    try:
        with pytest.raises(OSError, match="too large"):
            write_much(report)
        with pytest.raises(OSError, match="too large"):
            report.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "Traceback" not in capfd.readouterr().err
    assert threading.excepthook is before


def test_other_threads_errors_are_still_told(tmp_path: Path) -> None:
    told: list[str] = []
    before = threading.excepthook
    threading.excepthook = lambda args: told.append(str(args.exc_value))
    try:
        report = Report(tmp_path, 0)
        thread = threading.Thread(target=lambda: (tmp_path / "missing").read_bytes())
        thread.start()
        thread.join()
        report.close()
    finally:
        threading.excepthook = before
    assert len(told) == 1
    assert "missing" in told[0]
