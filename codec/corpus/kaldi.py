"""Kaldi data folders: `wav.scp`, and beside it `segments`, `text` and `utt2spk` where they are there.

Source: Kaldi documentation, "Data preparation".
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from codec.corpus.manifests import resolve
from codec.corpus.utterance import Place, Utterance
from codec.errors import CorpusError
from codec.files import describe_os_error


def list_kaldi(path: Path, root: Path) -> Iterator[Utterance]:
    """The utterances of a `wav.scp`: its segments, or each recording as a whole.

    Raises:
        CorpusError: a file that cannot be read, or a line that is too short.
    """
    folder = path.parent
    text, speakers = _table(folder / "text"), _table(folder / "utt2spk")
    if not (folder / "segments").is_file():
        for number, (name, where) in enumerate(_lines(path), 1):
            if not where:
                raise CorpusError(f"{path}: line {number}: no path behind {name}; repair the file")
            yield _utterance(name, where, root, text, speakers)
        return
    recordings = _table(path)
    for number, (name, rest) in enumerate(_lines(folder / "segments"), 1):
        at = f"{folder / 'segments'}: line {number}"
        try:
            recording, start, end, *channel = rest.split()
            # An end of -1 means the end of the recording.
            section = (float(start), None if float(end) < 0 else float(end), int(channel[0]) if channel else None)
        except ValueError:
            raise CorpusError(f"{at}: expected `utterance recording start end`; repair the file") from None
        if recording not in recordings:
            raise CorpusError(f"{at}: recording {recording} is not in {path}; repair one of them")
        yield _utterance(name, recordings[recording], root, text, speakers, section)


def _utterance(
    name: str,
    where: str,
    root: Path,
    text: dict[str, str],
    speakers: dict[str, str],
    section: tuple[float | None, float | None, int | None] = (None, None, None),
) -> Utterance:
    fields = {"speaker": speakers[name]} if name in speakers else {}
    problem = None
    if where.endswith("|"):
        problem = "a command; commands of a file are not run: write the audio to files first (wav-copy)"
    elif where.rpartition(":")[2].isdecimal() and ".ark:" in where:
        problem = "inside a Kaldi archive; write the audio to files first (wav-copy)"
    start, end, channel = section
    place = Place(where if problem else resolve(root, where), start=start, end=end, channel=channel)
    return Utterance(name, place, text.get(name), fields, 0.0, problem)


def _table(path: Path) -> dict[str, str]:
    """First word of each line to the rest of it; nothing where the file is missing."""
    return dict(_lines(path)) if path.is_file() else {}


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                words = line.split(None, 1)
                if words:
                    yield words[0], words[1].strip() if len(words) > 1 else ""
    except OSError as error:
        raise CorpusError(f"{path}: {describe_os_error(error)}") from None
