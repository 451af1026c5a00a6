"""Speech as one int16 array, decoded once, and training batches cut from it.

The batch of a step depends on the seed and the step alone, so a resumed run sees what an unbroken one sees. The array
is a memory map on the CPU (115 MB an hour at 16 kHz) and lies on the device on a GPU, where the crops are cut too.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec import audio as audio_io
from codec.containers import AUDIO_SUFFIXES
from codec.errors import AudioError, TrainError
from codec.files import atomic_path, describe_os_error
from codec.train import filters, speechpack
from codec.train.config import DataConfig
from codec.train.launch import ALONE, Ranks

if TYPE_CHECKING:
    from codec.train.labels import Labels

MANIFESTS = (".csv", ".jsonl", ".tsv", ".txt")


@dataclass(frozen=True)
class Corpus:
    """Decoded speech.

    Attributes:
        pcm: (N,) int16, all files one after another.
        starts, lengths: (files,) int64, samples.
        held_out: (files,) bool, files that only measure; with one file alone it is both, and this is true.
        names: of the files.
        cache: the file that holds `pcm`; what is derived from it lies beside it.
        sources: for each file, which of those that `load_corpus` was given it came from; empty where an earlier version
            of this package decoded them and did not write that down.
    """

    pcm: Tensor
    starts: Tensor
    lengths: Tensor
    held_out: Tensor
    names: tuple[str, ...]
    cache: Path = Path()
    sources: tuple[int, ...] = ()

    def to(self, device: torch.device) -> Corpus:
        """The same on a device."""
        pcm, starts, lengths, held_out = (x.to(device) for x in (self.pcm, self.starts, self.lengths, self.held_out))
        return dataclasses.replace(self, pcm=pcm, starts=starts, lengths=lengths, held_out=held_out)

    def entries(self, entries: Sequence[Entry]) -> list[Entry]:
        """Of the entries of all files that `load_corpus` was given, those of the files here.

        Raises:
            TrainError: it is not known any more which they are.
        """
        if not self.sources:
            index = self.cache.with_suffix(".json")
            raise TrainError(f"{index}: does not say which file is which; delete it, and the speech is decoded again")
        return [entries[i] for i in self.sources]

    def samples(self, i: int) -> NDArray[np.int16]:
        """File i (T,) int16."""
        begin = int(self.starts[i])
        return np.asarray(self.pcm[begin : begin + int(self.lengths[i])].cpu().numpy(), np.int16)


def find_audio(sources: Iterable[str]) -> list[Path]:
    """Audio files of folders, files and manifests, in a stable order.

    A manifest names one file a line: .txt plain, .csv and .tsv in a column `path`, .jsonl in a key `path`; relative
    paths are relative to the manifest. Rows with a column `split` other than `train` are left out. A folder that
    `speechpack.write` made stands as its index.

    Raises:
        TrainError: a source that does not exist or has no audio.
    """
    return [entry.file for entry in find_entries(sources)]


@dataclass(frozen=True)
class Entry:
    """One audio file.

    Attributes:
        file: of audio.
        columns: of its row in a manifest, as text; empty where no manifest named it.
        folder: where relative paths in them start.
    """

    file: Path
    columns: Mapping[str, str] = field(default_factory=dict)
    folder: Path = Path()


def find_entries(sources: Iterable[str]) -> list[Entry]:
    """Audio files as `find_audio`, with what manifests say of them. Raises: TrainError."""
    entries: list[Entry] = []
    for source in sources:
        path = Path(source)
        if (path / speechpack.INDEX).is_file():
            found = [Entry(path / speechpack.INDEX)]
        elif path.is_dir():
            found = [Entry(p) for p in sorted(path.rglob("*")) if p.suffix.lower() in AUDIO_SUFFIXES]
        elif path.suffix.lower() in MANIFESTS and path.is_file():
            found = [Entry(path.parent / row["path"], row, path.parent) for row in _manifest_rows(path)]
        else:
            found = [Entry(path)] if path.is_file() else []
        if not found:
            raise TrainError(f"{source}: no audio there; give a folder, audio files or a manifest")
        entries.extend(found)
    return entries


def _manifest_rows(path: Path) -> list[dict[str, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        # Not splitlines: text may hold other line ends than a manifest's, as U+2028.
        lines = [line for line in io.StringIO(text) if line.strip()]
        if path.suffix.lower() == ".txt":
            return [{"path": line.strip()} for line in lines]
        rows: Iterable[dict[str, Any]]
        if path.suffix.lower() == ".jsonl":
            rows = [dict(json.loads(line)) for line in lines]
        else:
            rows = csv.DictReader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        used = [row for row in rows if row.get("split", "train") == "train"]
        if any(row["path"] is None for row in used):
            raise ValueError("a row is cut off")
        return [{str(key): "" if x is None else str(x) for key, x in row.items()} for row in used]
    except KeyError:
        raise TrainError(f"{path}: no column 'path'; name the audio files there") from None
    except (OSError, TypeError, ValueError, csv.Error) as error:
        raise TrainError(f"{path}: not a manifest of its kind ({error}); repair it") from None


def load_corpus(files: Sequence[Path], cache: Path, *, sample_rate: int, held_out: float) -> tuple[Corpus, list[str]]:
    """Decode files to one int16 array, or map the array that an earlier run left in `cache`.

    Returns:
        The corpus, and a line for each file that could not be used.

    Raises:
        TrainError: no file could be read.
    """
    key, print_ = _cache_key(files, sample_rate), _fingerprint(files)
    index_path, pcm_path = cache / f"{key}.json", cache / f"{key}.pcm"
    index = _read_index(index_path, pcm_path, print_)
    if index is None:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            index = _decode(files, pcm_path, sample_rate) | {"fingerprint": print_}
            # The index is last: without it the cache is made again.
            with atomic_path(index_path, overwrite=True, error=TrainError) as part:
                part.write_text(json.dumps(index))
        except OSError as error:
            raise TrainError(f"{pcm_path}: cannot be written: {describe_os_error(error)}") from None
    if not index["lengths"]:
        raise TrainError(f"none of {len(files)} files can be used; the first: {index['problems'][0]}")
    lengths = torch.tensor(index["lengths"])
    pcm = np.memmap(pcm_path, dtype=np.int16, mode="c")
    starts = torch.cat((torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)[:-1]))
    held = torch.tensor([_share(name) < held_out for name in index["names"]])
    if bool(held.all()) or not bool(held.any()):  # a handful of files: the last one measures
        held = torch.arange(len(lengths)) == len(lengths) - 1
    alike = range(len(lengths)) if len(lengths) == len(files) else ()  # each file gave one, in order
    sources = tuple(index.get("sources", alike))
    corpus = Corpus(torch.from_numpy(pcm), starts, lengths, held, tuple(index["names"]), pcm_path, sources)
    return corpus, list(index["problems"])


def _read_index(index_path: Path, pcm_path: Path, fingerprint: str) -> dict[str, Any] | None:
    """The index of a whole cache of these files; None where there is none, or it was left half written."""
    try:
        index = json.loads(index_path.read_text())
        whole = pcm_path.stat().st_size == 2 * sum(index["lengths"]) and len(index["names"]) == len(index["lengths"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    same = index.get("fingerprint", fingerprint) == fingerprint  # earlier versions did not write it
    # After a run in which no file could be used, look again: the problem may be mended.
    return index if whole and same and index["lengths"] else None


def _decode(files: Sequence[Path], pcm_path: Path, sample_rate: int) -> dict[str, Any]:
    """Write the samples of all files that can be read; gives what the index says of them. Raises: TrainError."""
    names, lengths, problems, sources = [], [], [], []
    # Under a name of its own: another run may fill the same cache at the same time.
    with atomic_path(pcm_path, overwrite=True, error=TrainError) as temporary, temporary.open("wb") as out:
        for number, file in enumerate(files):
            try:
                for name, samples in _utterances(file, sample_rate):
                    out.write(samples.tobytes())
                    names.append(name)
                    lengths.append(len(samples))
                    sources.append(number)
            except (AudioError, OSError) as error:
                problems.append(str(error))
    return {"names": names, "lengths": lengths, "problems": problems, "sources": sources}


def _utterances(file: Path, sample_rate: int) -> Iterator[tuple[str, NDArray[np.int16]]]:
    if file.name == speechpack.INDEX:
        yield from speechpack.read(file.parent, sample_rate)
    else:
        yield file.name, read_pcm(file, sample_rate)


def read_pcm(file: Path, sample_rate: int) -> NDArray[np.int16]:
    """One file as mono int16 at `sample_rate`, (T,). Raises: AudioError."""
    samples, rate = audio_io.read(file)
    mono = audio_io.resample(samples.mean(0, keepdims=True), rate, sample_rate)[0]
    if not len(mono):
        raise AudioError(f"{file}: no samples")
    return np.asarray(np.round(np.clip(mono, -1, 32767 / 32768) * 32768), np.int16)


def _cache_key(files: Sequence[Path], sample_rate: int) -> str:
    digest = hashlib.sha256(str(sample_rate).encode())
    for file in files:
        size = file.stat().st_size if file.exists() else -1
        digest.update(os.fsencode(f"{file.name}:{size};"))
    return f"corpus-{digest.hexdigest()[:12]}"


def _fingerprint(files: Sequence[Path]) -> str:
    """Which files these are: others may have the same names and sizes, as cuts of equal length do."""
    digest = hashlib.sha256()
    for file in files:
        changed = file.stat().st_mtime_ns if file.exists() else -1
        digest.update(os.fsencode(f"{file.absolute()}:{changed};"))
    return digest.hexdigest()[:12]


def _share(name: str) -> float:
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:4], "big") / 2**32


@dataclass(frozen=True)
class Batch:
    """One step's data: audio (B, 1, T) float32, codebooks that each row uses (B,), and `Labels.cut` of the crops.

    Of several processes each has its own rows of the step's batch.
    """

    audio: Tensor
    levels: Tensor
    labels: Mapping[str, Tensor] = field(default_factory=dict)

    def split(self, count: int) -> list[Batch]:
        """Equal parts of so many rows each as `count` parts of all have, in the order of rows."""
        size = len(self.audio) // count
        rows = [slice(i * size, (i + 1) * size) for i in range(count)]
        return [Batch(self.audio[r], self.levels[r], {k: x[r] for k, x in self.labels.items()}) for r in rows]


class Batches:
    """Random crops: `batches(step)` is the same for the same seed and step.

    Every one of several processes draws the places, levels and gains of all rows, and reads and gives its own rows.
    """

    def __init__(
        self,
        corpus: Corpus,
        config: DataConfig,
        *,
        length: int,
        sample_rate: int,
        seed: int,
        levels: dict[int, float],
        noise: Corpus | None,
        labels: Labels | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.corpus, self.config, self.noise = corpus, config, noise
        self.rows = ranks.rows(config.batch)
        self.length, self.seed, self.levels, self.labels = length, seed, levels, labels
        self.sample_rate = sample_rate
        self.device = corpus.pcm.device
        usable = torch.where(corpus.held_out, 0, corpus.lengths)
        self.edges = usable.cumsum(0)

    def __call__(self, step: int) -> Batch:
        """The batch of a step, or those rows of it that are this process's."""
        # A generator on the CPU gives the same numbers whatever the device.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        b, rows = self.config.batch, self.rows
        file, offset = (x[rows] for x in self._draw(self.corpus, self.edges, b, generator, self.length))
        audio = self._read(self.corpus, file, offset, self.length)
        if self.config.filter_share:
            share, rate = self.config.filter_share, self.sample_rate
            curves = filters.draw_curves(b, self.length, rate, share=share, generator=generator)
            audio = filters.through(audio, self._there(curves[rows]))
        low, high = self.config.gain_db
        gain = 10 ** ((low + (high - low) * torch.rand(b, 1, generator=generator)) / 20)
        if self.noise is not None:
            audio = self._add_noise(audio, generator)
        audio = audio * self._there(gain[rows])
        audio = audio / audio.abs().amax(1, keepdim=True).clamp(min=1.0)
        counts = torch.tensor(list(self.levels))
        shares = torch.tensor(list(self.levels.values()), dtype=torch.float64)
        levels = counts[torch.multinomial(shares, b, replacement=True, generator=generator)]
        labels = {} if self.labels is None else self.labels.cut(file, offset, length=self.length)
        return Batch(audio[:, None], self._there(levels[rows]), labels)

    def held_out(self, count: int, seconds: float) -> Tensor:
        """Fixed crops of held-out files for measuring: (count, 1, T)."""
        corpus, generator = self.corpus, torch.Generator().manual_seed(12345)
        edges = torch.where(corpus.held_out, corpus.lengths, 0).cumsum(0)
        length = round(seconds * self.sample_rate)
        return self._read(corpus, *self._draw(corpus, edges, count, generator, length), length)[:, None]

    def _draw(
        self, corpus: Corpus, edges: Tensor, b: int, generator: torch.Generator, length: int
    ) -> tuple[Tensor, Tensor]:
        """Files (b,) and samples before the crop (b,), uniform over all samples."""
        position = (self._there(torch.rand(b, generator=generator, dtype=torch.float64)) * edges[-1]).long()
        file = torch.searchsorted(edges, position, right=True).clamp(max=len(edges) - 1)
        slack = (corpus.lengths[file] - length).clamp(min=0)
        return file, (self._there(torch.rand(b, generator=generator, dtype=torch.float64)) * (slack + 1)).long()

    def _read(self, corpus: Corpus, file: Tensor, offset: Tensor, length: int) -> Tensor:
        """Crops (b, length); a file shorter than the crop ends in zeros."""
        within = offset[:, None] + torch.arange(length, device=self.device)
        valid = within < corpus.lengths[file][:, None]
        index = (corpus.starts[file][:, None] + within).clamp(max=len(corpus.pcm) - 1)
        return torch.where(valid, corpus.pcm[index].float() / 32768, 0.0)

    def _there(self, x: Tensor) -> Tensor:
        # Not blocking: a copy from pageable memory is staged before the call returns, and nothing waits for the device.
        return x.to(self.device, non_blocking=True)

    def _add_noise(self, audio: Tensor, generator: torch.Generator) -> Tensor:
        assert self.noise is not None
        b, rows = self.config.batch, self.rows
        edges = self.noise.lengths.cumsum(0)
        file, offset = (x[rows] for x in self._draw(self.noise, edges, b, generator, self.length))
        noise = self._read(self.noise, file, offset, self.length)
        low, high = self.config.noise_snr_db
        snr = self._there((low + (high - low) * torch.rand(b, 1, generator=generator))[rows])
        wanted = self._there((torch.rand(b, 1, generator=generator) < self.config.noise_share)[rows])
        power = audio.square().mean(1, keepdim=True) / noise.square().mean(1, keepdim=True).clamp(min=1e-9)
        gain = (power / 10 ** (snr / 10)).sqrt()
        return audio + torch.where(wanted, gain * noise, 0.0)
