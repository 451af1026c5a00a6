"""A command that is stopped, or whose disk or reader goes away: one clear line, and nothing half written."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from support.commandline import only_line

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "tests" / "fixtures" / "demo.flac"

Speech = npt.NDArray[np.float32]
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def long_wav(speech: Speech, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("long") / "long.wav"
    soundfile.write(path, np.tile(speech, 100), 16000, "PCM_16")
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_signal_in_the_middle_leaves_nothing_behind(long_wav: Path, tmp_path: Path, number: int, code: int) -> None:
    command = [sys.executable, "-m", "codec", "encode", str(long_wav), str(tmp_path / "x.codes")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, cwd=ROOT) as process:
        deadline = time.monotonic() + 120
        while not any(path.stat().st_size for path in tmp_path.iterdir()):
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "nothing is half written" in only_line(err.decode())
    assert not list(tmp_path.iterdir())


# Ctrl-C comes when a module is looked for.
IMPORT = """
import importlib.abc, os, signal, sys

class Impatient(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == sys.argv[-1]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Impatient())
from codec.__main__ import main
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("module", ["typer", "numpy._core._multiarray_umath"])
def test_a_signal_while_the_program_still_starts_is_one_line(module: str) -> None:
    command = [sys.executable, "-c", IMPORT, "encode", str(DEMO), module]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 130
    assert "nothing is half written" in only_line(done.stderr)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of file sizes")
def test_a_full_disk_is_one_clear_line_and_nothing_is_left(
    call: Call, tiny_path: Path, coded: Path, tmp_path: Path
) -> None:
    """A limit of the file size stands for the full disk: the system refuses to write on, in the same way."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for source, target, limit in ((DEMO, "x.codes", 300), (coded, "x.wav", 20000), (coded, "x.flac", 20000)):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
            code, _, err = call(
                "decode" if source is coded else "encode", source, tmp_path / target, "--model", tiny_path
            )
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert code == 1
        assert "no space left" in only_line(err)
        assert not list(tmp_path.iterdir())


def test_a_reader_that_goes_away_is_no_error_message(long_wav: Path) -> None:
    command = [sys.executable, "-m", "codec", "encode", str(long_wav), "-", "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(5) == b"\xc0des\x01"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
