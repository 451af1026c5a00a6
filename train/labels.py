"""What heads learn from: pitch and voicing of every file, its speaker, its phones, cut as the audio is cut.

Pitch comes from this package's own tracker and is kept beside the decoded speech; speakers are a column of a manifest,
phones a column that names a file of lines `BEGIN END PHONE` in seconds for each recording.

>>> pitches = torch.tensor([0.5, float("nan"), -0.5, 0.25])
>>> labels = Labels(160, torch.tensor([0]), torch.tensor([4]), hop_length=320, pitch=pitches)
>>> labels.cut(torch.tensor([0]), torch.tensor([0]), length=640)["pitch"].tolist()  # of samples 160 and 480
[[nan, 0.25]]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.config import ModelConfig
from codec.errors import TrainError
from codec.files import atomic_path, describe_os_error
from codec.quality import pitch
from codec.train.data import Corpus, Entry

Say = Callable[[str], None]

STEADY = 0.02  # octaves; a voice that moves less is a monotone, and its noise is not blown up to unit variance
UNKNOWN = -1  # class of what has no label


@dataclass(frozen=True)
class Labels:
    """Labels of a corpus. Those that do not exist are None, and `missing` says why.

    Attributes:
        step: samples from one label to the next.
        starts, lengths: (files,) int64, labels of each file in the arrays of all.
        hop_length: samples of a frame of the network.
        pitch: (N,) float32, log2 of F0, in each file of mean 0 and variance 1 over voiced places; nan where unvoiced.
        phones: (N,) int16, classes, -1 where there is none.
        speaker: (files,) int64, classes, -1 where it is not known.
        classes: the names of `phones` and `speaker`, in order.
        missing: label that was asked for and is not there: why.
    """

    step: int
    starts: Tensor
    lengths: Tensor
    hop_length: int
    pitch: Tensor | None = None
    phones: Tensor | None = None
    speaker: Tensor | None = None
    classes: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def to(self, device: torch.device) -> Labels:
        """The same on a device."""
        names = ("starts", "lengths", "pitch", "phones", "speaker")
        moved: dict[str, Any] = {name: None if (x := getattr(self, name)) is None else x.to(device) for name in names}
        return dataclasses.replace(self, **moved)

    def cut(self, file: Tensor, offset: Tensor, *, length: int) -> dict[str, Tensor]:
        """Labels of crops.

        Args:
            file: (B,) of the corpus.
            offset: (B,) samples of the file before the crop.
            length: of a crop, samples; the label of each of its F frames is the one nearest to the frame's middle.

        Returns:
            `pitch` and `phones` (B, F), `speaker` (B,), those that there are. Behind a file's end nothing is voiced.
        """
        hop = self.hop_length
        middles = offset[:, None] + torch.arange(hop // 2, length, hop, device=offset.device)
        place = (middles + self.step // 2) // self.step
        beyond = place >= self.lengths[file][:, None]
        index = self.starts[file][:, None] + place.minimum(self.lengths[file][:, None] - 1)
        found: dict[str, Tensor] = {}
        if self.pitch is not None:
            found["pitch"] = self.pitch[index].masked_fill(beyond, float("nan"))
        if self.phones is not None:
            found["phones"] = self.phones[index].long().masked_fill(beyond, UNKNOWN)
        if self.speaker is not None:
            found["speaker"] = self.speaker[file]
        return found


def load_labels(
    corpus: Corpus, entries: Sequence[Entry], wanted: Mapping[str, str], model: ModelConfig, say: Say
) -> Labels:
    """The labels that heads want of a corpus.

    Args:
        corpus: decoded speech.
        entries: of each of its files.
        wanted: `pitch`, `phones`, `speaker`, those that are wanted, each with the name of its column.
        model: whose frames get labels.
        say: gets a line before the pitch is computed, which takes a while.

    Raises:
        TrainError: a file of phones that cannot be read, a cache that cannot be written.
    """
    sample_rate = model.sample_rate
    step = round(pitch.HOP * sample_rate)
    lengths = -(-corpus.lengths.cpu() // step)
    starts = torch.cat((torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)[:-1]))
    made = Labels(step, starts, lengths, model.hop_length)
    classes: dict[str, tuple[str, ...]] = {}
    missing: dict[str, str] = {}
    if "pitch" in wanted:
        made = dataclasses.replace(made, pitch=_load_pitch(corpus, int(lengths.sum()), sample_rate, say))
    if column := wanted.get("speaker"):
        names = [entry.columns.get(column, "") for entry in entries]
        classes["speaker"] = tuple(sorted(set(names) - {""}))
        if classes["speaker"]:
            made = dataclasses.replace(made, speaker=torch.tensor(_places(names, classes["speaker"])))
        else:
            missing["speaker"] = f"no manifest has a column {column!r}"
    if column := wanted.get("phones"):
        files = [entry.folder / name if (name := entry.columns.get(column)) else None for entry in entries]
        if any(files):
            spoken = [[] if file is None else read_alignment(file) for file in files]
            classes["phones"] = tuple(sorted({phone for lines in spoken for _, _, phone in lines}))
            made = dataclasses.replace(made, phones=_phones(spoken, made, classes["phones"], sample_rate))
        else:
            missing["phones"] = f"no manifest has a column {column!r} that names files of aligned phones"
    return dataclasses.replace(made, classes=classes, missing=missing)


def read_alignment(path: Path) -> list[tuple[float, float, str]]:
    """Lines `BEGIN END PHONE`, seconds, apart by spaces or tabs. Raises: TrainError."""
    found = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip():
                begin, end, phone = line.split()
                found.append((float(begin), float(end), phone))
    except OSError as error:
        raise TrainError(f"{path}: {describe_os_error(error)}; mend the manifest's column of phones") from None
    except ValueError as error:
        raise TrainError(f"{path}: expected lines BEGIN END PHONE, times in seconds ({error})") from None
    return found


def normalise(frequency: NDArray[np.float64]) -> NDArray[np.float32]:
    """F0 (F,) in Hz, 0 where unvoiced, as `Labels.pitch` has it: a voice's height and range are the speaker's."""
    out = np.full(len(frequency), np.nan, np.float32)
    voiced = frequency > 0
    if voiced.any():
        octaves = np.log2(frequency[voiced])
        out[voiced] = (octaves - octaves.mean()) / max(float(octaves.std()), STEADY)
    return out


def _load_pitch(corpus: Corpus, n_labels: int, sample_rate: int, say: Say) -> Tensor:
    """The pitch of all files (N,), mapped from beside the decoded speech, or computed first."""
    path = corpus.cache.with_suffix(".pitch")
    is_old = path.is_file() and path.stat().st_mtime_ns < corpus.cache.stat().st_mtime_ns  # of other speech
    if not path.is_file() or is_old or path.stat().st_size != 4 * n_labels:
        say(f"pitch: tracked in {len(corpus.lengths)} files, kept in {path.name}")
        try:
            with atomic_path(path, overwrite=True, error=TrainError) as temporary, temporary.open("wb") as out:
                for i in range(len(corpus.lengths)):
                    samples = (corpus.samples(i) / np.float32(32768)).astype(np.float32)
                    out.write(normalise(pitch.track(samples, sample_rate)).tobytes())
        except OSError as error:
            raise TrainError(f"{path}: cannot be written: {describe_os_error(error)}") from None
    return torch.from_numpy(np.memmap(path, dtype=np.float32, mode="c"))


def _phones(
    spoken: Sequence[list[tuple[float, float, str]]], labels: Labels, names: tuple[str, ...], sample_rate: int
) -> Tensor:
    """Classes (N,) of all files."""
    phones = torch.full((int(labels.lengths.sum()),), UNKNOWN, dtype=torch.int16)
    number = {name: i for i, name in enumerate(names)}
    per_second = sample_rate / labels.step
    for start, length, lines in zip(labels.starts.tolist(), labels.lengths.tolist(), spoken, strict=True):
        for begin, end, phone in lines:
            first, last = (min(length, max(0, round(time * per_second))) for time in (begin, end))
            phones[start + first : start + last] = number[phone]
    return phones


def _places(names: Sequence[str], known: Sequence[str]) -> list[int]:
    number = {name: i for i, name in enumerate(known)}
    return [number.get(name, UNKNOWN) for name in names]
