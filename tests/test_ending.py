"""Whatever goes wrong in a command is one line, and a number that says what kind it was."""

from __future__ import annotations

import errno
import os
import runpy
import sys
from pathlib import Path

import pytest

from codec.ending import one_line
from codec.errors import ModelError
from support.commandline import only_line

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ModelError("x: no such model"), 1, "codec: x: no such model"),
        (OSError(errno.EACCES, os.strerror(errno.EACCES), "x.wav"), 1, "codec: x.wav: permission denied; check the"),
        (KeyboardInterrupt(), 130, "codec: interrupted"),
    ],
)
def test_an_error_ends_with_one_line_and_its_number(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, one_line():
        raise error
    assert ended.value.code == code
    assert only_line(capsys.readouterr().err).startswith(line)


def test_a_fault_of_our_own_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), one_line():
        raise ZeroDivisionError


@pytest.mark.parametrize(("script", "n_folders"), [("train/prior.py", 2), ("export/golden.py", 1)])
def test_a_module_that_is_a_command_ends_as_the_command_line_does(
    script: str, n_folders: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [script, str(tmp_path / "nowhere"), *n_folders * [str(tmp_path)]])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert ended.value.code == 1
    assert "nowhere: no" in only_line(capsys.readouterr().err)
