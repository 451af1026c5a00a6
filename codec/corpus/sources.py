"""What there is to tokenize: a folder, a glob, an audio file, an archive or a manifest becomes a list of utterances.

The order is always the same: folders by name, depth first; manifests, tars and Parquet files as they are written.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import soundfile

from codec.containers import AUDIO_SUFFIXES
from codec.corpus import archives, kaldi, manifests
from codec.corpus.utterance import BYTES_PER_SECOND, Place, Utterance
from codec.errors import CorpusError

ARCHIVES: dict[str, Callable[[Path, str], Iterator[Utterance]]] = {
    ".tar": archives.list_tar,
    ".parquet": archives.list_parquet,
}
MANIFESTS: dict[str, Callable[[Path, Path], Iterator[Utterance]]] = {
    ".csv": manifests.list_table,
    ".tsv": manifests.list_table,
    ".jsonl": manifests.list_jsonl,
    ".jsonl.gz": manifests.list_jsonl,
    ".scp": kaldi.list_kaldi,
}


def list_utterances(source: str, root: str | None = None) -> Iterator[Utterance]:
    """All utterances of a source, in its stable order, with their lengths; lists no more than one folder at a time.

    Args:
        source: a folder, a glob pattern, an audio file, a tar, a Parquet file, a manifest (`.csv`, `.tsv`, `.jsonl`,
            Lhotse's `.jsonl.gz`), a Kaldi folder or its `wav.scp`.
        root: the folder that relative paths in a manifest start at; the manifest's own when None, the working
            folder for Kaldi, as its own tools have it.

    Raises:
        CorpusError: nothing there, an unknown kind, or a manifest that cannot be read.
    """
    try:
        for item in _list(source, root):
            yield _with_length(item)
    except (UnicodeDecodeError, EOFError, OSError) as error:  # a manifest of another encoding, a damaged .gz
        name = getattr(error, "filename", None) or source
        raise CorpusError(f"{name}: cannot be read ({error}); repair it, manifests are UTF-8") from None


def suffix_of(path: Path) -> str:
    """The suffix in small letters, `.jsonl.gz` as one."""
    return ".jsonl.gz" if path.name.lower().endswith(".jsonl.gz") else path.suffix.lower()


def _list(source: str, root: str | None) -> Iterator[Utterance]:
    path = Path(source)
    if (path / "wav.scp").is_file():
        path = path / "wav.scp"
    if path.is_dir():
        return _list_files(walk(path), path)
    if not path.exists() and glob.has_magic(source):
        return _list_files((Path(name) for name in sorted(glob.glob(source, recursive=True))), _base_of(source))
    if not path.is_file():
        raise CorpusError(f"{source}: no such file or folder; check the path")
    suffix = suffix_of(path)
    if suffix in MANIFESTS:
        base = Path(root) if root is not None else Path.cwd() if suffix == ".scp" else path.parent
        return MANIFESTS[suffix](path, base)
    if suffix in AUDIO_SUFFIXES:
        return iter([Utterance(path.stem, Place(str(path)))])
    if suffix in ARCHIVES:
        return ARCHIVES[suffix](path, "")
    known = ", ".join((*AUDIO_SUFFIXES, *ARCHIVES, *MANIFESTS))
    raise CorpusError(f"{source}: neither audio nor a manifest that is known; use a folder or one of {known}")


def walk(folder: Path) -> Iterator[Path]:
    """All files below a folder, by name, depth first; links are followed but into their own parents."""
    yield from _walk(str(folder), (os.path.realpath(folder),))


def _walk(folder: str, parents: tuple[str, ...]) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if not entry.is_dir():
            yield Path(entry.path)
            continue
        real = os.path.realpath(entry.path)
        if real not in parents:
            yield from _walk(entry.path, (*parents, real))


def _list_files(paths: Iterator[Path], base: Path) -> Iterator[Utterance]:
    for path in paths:
        suffix = path.suffix.lower()
        if suffix not in AUDIO_SUFFIXES and suffix not in ARCHIVES:
            continue
        name = path.relative_to(base).with_suffix("").as_posix()
        if suffix in ARCHIVES:
            yield from ARCHIVES[suffix](path, f"{name}/")
        elif path.is_file() or path.is_symlink():
            yield Utterance(name, Place(str(path)))


def _base_of(pattern: str) -> Path:
    """The part of a glob pattern before the first folder that has a wildcard."""
    parts = Path(pattern).parts
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:first])


def _with_length(item: Utterance) -> Utterance:
    """The length in seconds: as stated, else from the file's header, else guessed from its size."""
    place = item.place
    if item.seconds > 0 or item.problem is not None:
        return item
    if place.end is not None:
        return _replace(item, place.end - (place.start or 0.0))
    if place.kind == "file":
        return _replace(item, _seconds_of_file(place.path) - (place.start or 0.0))
    return _replace(item, place.size / BYTES_PER_SECOND)


def _replace(item: Utterance, seconds: float) -> Utterance:
    return Utterance(item.id, item.place, item.text, item.fields, round(max(0.0, seconds), 6), item.problem)


def _seconds_of_file(path: str) -> float:
    try:
        info = soundfile.info(path)
        if 0 < info.frames < 1 << 50 and info.samplerate > 0:
            return float(info.frames / info.samplerate)
        return os.path.getsize(path) / BYTES_PER_SECOND
    except (RuntimeError, OSError, TypeError, ValueError):
        return 0.0  # the worker says what is wrong with it
