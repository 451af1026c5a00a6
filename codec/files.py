"""Write a file whole or not at all.

>>> import tempfile
>>> from pathlib import Path
>>> folder = Path(tempfile.mkdtemp())
>>> with atomic_path(folder / "x.codes") as temporary:
...     _ = temporary.write_bytes(b"all of it")
>>> [path.name for path in folder.iterdir()]
['x.codes']
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from codec.errors import CodecError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def describe_os_error(failure: OSError) -> str:
    """Say what an OSError means to a user and what to do, without the path: `permission denied; check the ...`."""
    if failure.errno in NO_SPACE:
        return "no space left for it; free some disk space and run again"
    if isinstance(failure, FileNotFoundError):
        return "no such file or folder; check the path"
    if isinstance(failure, PermissionError):
        return "permission denied; check the rights of the file and its folder"
    if isinstance(failure, IsADirectoryError):
        return "is a folder; name a file"
    return (failure.strerror or str(failure) or type(failure).__name__).replace("\n", " ")


@contextlib.contextmanager
def atomic_path(
    target: str | os.PathLike[str], *, overwrite: bool = False, error: type[CodecError] = CodecError
) -> Iterator[Path]:
    """Yield the path of an empty temporary file beside `target`; rename it to `target` when the block ends well.

    After any exception, Ctrl-C included, the temporary file is removed and an old `target` is untouched. The data is on
    the disk (fsync) before the name changes. The temporary name ends in `.part`, so pass a format by name, not by
    suffix. A link is followed; a device or a pipe (`/dev/null`, a fifo) is yielded itself, since it cannot be replaced.

    Args:
        target: the file to write.
        overwrite: replace an existing file; False refuses it, before the block runs.
        error: class of the exceptions raised here.

    Raises:
        error: `target` exists and `overwrite` is False, is a folder, its folder is missing or not writable, or the disk
            is full (an OSError of that kind inside the block is turned into this one). One line.
    """
    path = Path(os.path.realpath(target))
    _refuse(path, target, overwrite, error)
    if _is_special(path):
        with _no_space_as(error, target):
            yield path
        return
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.part")
    try:
        # os.open and not tempfile: the file gets the rights that the user's umask gives to any new file.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        rights = temporary.stat().st_mode
    except OSError as failure:
        raise error(f"{os.fspath(target)}: cannot be written: {describe_os_error(failure)}") from failure
    try:
        with _no_space_as(error, target):
            yield temporary
            if temporary.stat().st_mode != rights:  # safetensors puts a file of its own there, for its owner alone
                temporary.chmod(stat.S_IMODE(rights))
            _sync(temporary)
            _refuse(path, target, overwrite, error)
            os.replace(temporary, path)
            _sync(path.parent)
    finally:
        # After the rename there is nothing under this name any more.
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def _no_space_as(error: type[CodecError], target: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the lack of space into `error`."""
    try:
        yield
    except OSError as failure:
        if failure.errno not in NO_SPACE or isinstance(failure, CodecError):
            raise
        raise error(f"{os.fspath(target)}: cannot be written: {describe_os_error(failure)}") from failure


@contextlib.contextmanager
def hold_folder(folder: Path, name: str, *, error: type[CodecError]) -> Iterator[None]:
    """Keep other processes out of a folder; the system lets go of the lock however this process ends.

    A folder that was made here and holds nothing but the lock in the end goes again. Windows has no such locks.

    Args:
        folder: made if it is missing.
        name: of the lock file; who gives another name is let in.
        error: class of the exceptions raised here.

    Raises:
        error: another process holds it, or the folder cannot be made.
    """
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / name).open("w")
    except FileExistsError:
        raise error(f"{folder}: is a file; name a folder") from None
    except OSError as failure:
        raise error(f"{folder}: cannot be written: {describe_os_error(failure)}") from None
    with file:
        with contextlib.suppress(ModuleNotFoundError):
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise error(f"{folder}: another run is at work on it; wait for its end") from None
            except OSError:
                pass  # a network file system without locks: what is written is still whole, some of it twice
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                if is_new and [path.name for path in folder.iterdir()] == [name]:
                    (folder / name).unlink()
                    folder.rmdir()


def is_held(path: Path) -> bool:
    """Whether another `hold_folder` holds a lock file now; False also where the system has no locks."""
    with contextlib.suppress(ModuleNotFoundError, FileNotFoundError), path.open() as file:
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            pass  # as in `hold_folder`
    return False


def _is_special(path: Path) -> bool:
    """Whether `path` is there and neither a file nor a folder."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _refuse(path: Path, target: str | os.PathLike[str], overwrite: bool, error: type[CodecError]) -> None:
    """Raise `error` where `path` is a folder, or a file that may not be replaced."""
    if path.is_dir():
        raise error(f"{os.fspath(target)}: is a folder; name a file")
    if path.is_file() and not overwrite:
        raise error(f"{os.fspath(target)} exists; pass overwrite=True (on the command line --overwrite) to replace it")


def _sync(path: Path) -> None:
    """Bring a file or, where the system can, a folder's names to the disk."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as failure:
        # Some network and FUSE file systems have no fsync; a real lack of space must still be heard.
        if failure.errno in NO_SPACE or failure.errno == errno.EIO:
            raise
    finally:
        os.close(descriptor)
