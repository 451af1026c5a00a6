"""codec.files: a file is there whole or not at all."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from codec.errors import CodecError, CodesFileError
from codec.files import atomic_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(target: Path, data: bytes, failure: BaseException | None = None, *, overwrite: bool = False) -> None:
    """Write through `atomic_path` and perhaps fail at the end."""
    with atomic_path(target, overwrite=overwrite, error=CodesFileError) as temporary:
        temporary.write_bytes(data)
        if failure is not None:
            raise failure


def test_the_target_appears_when_the_block_ends(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "x.codes") as temporary:
        temporary.write_bytes(b"new")
        assert not (tmp_path / "x.codes").exists()
        assert temporary.parent == tmp_path
    assert names(tmp_path) == ["x.codes"]
    assert (tmp_path / "x.codes").read_bytes() == b"new"


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_and_the_old_file_stays_after_a_failure(tmp_path: Path, failure: type[BaseException]) -> None:
    target = tmp_path / "x.codes"
    target.write_bytes(b"old")
    with pytest.raises(failure):
        write(target, b"half", failure(), overwrite=True)
    assert names(tmp_path) == ["x.codes"]
    assert target.read_bytes() == b"old"


def test_an_existing_target_is_refused_before_the_work(tmp_path: Path) -> None:
    target = tmp_path / "x.codes"
    target.write_bytes(b"old")
    with (
        pytest.raises(CodesFileError, match=r"x\.codes exists; pass overwrite=True"),
        atomic_path(target, error=CodesFileError),
    ):
        pytest.fail("the block ran")
    with atomic_path(target, overwrite=True) as temporary:
        temporary.write_bytes(b"new")
    assert target.read_bytes() == b"new"


def test_a_target_that_appears_during_the_work_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "x.codes"
    with pytest.raises(CodecError, match="exists"), atomic_path(target):
        target.write_bytes(b"theirs")
    assert target.read_bytes() == b"theirs"
    assert names(tmp_path) == ["x.codes"]


def test_folders_and_missing_folders_are_refused_in_one_line(tmp_path: Path) -> None:
    for target in (tmp_path, tmp_path / "missing" / "x.codes"):
        with pytest.raises(CodecError) as caught, atomic_path(target, overwrite=True):
            pytest.fail("the block ran")
        assert str(target) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_full_disk_is_told_as_such_and_other_os_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(CodesFileError, match=r"x\.codes: cannot be written: no space left"):
        write(tmp_path / "x.codes", b"half", OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "x.codes"):
        (tmp_path / "unrelated").read_bytes()
    assert names(tmp_path) == []


def test_new_files_have_the_rights_of_the_umask(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "x.codes") as temporary:
        temporary.write_bytes(b"new")
    (tmp_path / "plain").write_bytes(b"new")
    assert (tmp_path / "x.codes").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.skipif(os.name == "nt", reason="links and /dev/null are of POSIX")
def test_links_are_followed_and_devices_are_written_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic_path(tmp_path / "link") as temporary:
        temporary.write_bytes(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"
    with atomic_path("/dev/null") as device:
        device.write_bytes(b"gone")
    assert Path("/dev/null").is_char_device()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is of Linux")
def test_a_device_that_is_full_is_told_as_a_full_disk_is() -> None:
    with pytest.raises(CodesFileError, match="/dev/full: cannot be written: no space left"):
        write(Path("/dev/full"), b"too much")


@pytest.mark.skipif(os.name == "nt", reason="signals are of POSIX")
def test_ctrl_c_in_a_real_process_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom codec.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as path:\n    print('ready', flush=True); time.sleep(30)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x.codes")]
    root = Path(__file__).resolve().parents[1]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=root) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert len(names(tmp_path)) == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(10) != 0
    assert names(tmp_path) == []
