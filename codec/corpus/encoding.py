"""Utterances through the network: each alone, or in padded batches of like lengths, for accelerators.

Alone, a row's codes depend on nothing but its audio. In a batch a matrix product of another height adds in another
order, so that now and then a code differs; how many is measured on a sample of the same corpus.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.api import Model
from codec.audio import Audio, check_samples
from codec.config import ModelInfo
from codec.corpus.reading import ReadAhead
from codec.corpus.rows import Encoded, Row, RunFacts, make_row
from codec.corpus.utterance import Utterance
from codec.errors import CodecError, CorpusError, MissingExtraError
from codec.stream import MODES

WINDOW = 4  # batches whose utterances are sorted by length together
MOST_HELD = 1800.0  # seconds of audio that one window holds: 115 MB at 16 kHz
LONGEST = 120.0  # seconds; what is longer runs alone, so that memory stays flat
STEP = 30.0  # seconds that go through the network at once, at most
COMPARE_EVERY = 256  # of so many rows of a shard one is run alone too

Rows = Generator[tuple[Utterance, Row | None, str], None, None]  # each with its row, or why there is none
Codes = npt.NDArray[np.int64]


@dataclass
class Agreement:
    """Codes of a batch that were compared with those of rows run alone."""

    n_compared: int = 0
    n_equal: int = 0

    def add(self, batched: Codes, alone: Codes) -> None:
        """Count one row."""
        self.n_compared += alone.size
        self.n_equal += int((batched == alone).sum())


def check_batches(info: ModelInfo, batch: int) -> None:
    """Raises: CorpusError: a batch that cannot be, or a model to which the padding behind a row would be audible."""
    if batch < 1:
        raise CorpusError(f"batch {batch}: 1 or more is needed")
    if batch > 1 and info.condition:
        raise CorpusError(f"batch {batch}: {info.name} gives a vector of each whole signal; leave --batch out")
    if batch > 1 and info.encoder_lookahead != 0:
        raise CorpusError(f"batch {batch}: {info.name} looks ahead, into the padding; leave --batch out")


def encode_alone(model: Model, facts: RunFacts, ahead: ReadAhead) -> Rows:
    """Each utterance by itself."""
    for item in ahead.items():
        try:
            encoded = _stream(model, facts, ahead.chunks())
        except MissingExtraError:
            raise
        except CodecError as error:  # bad audio: noted, and the run goes on
            yield item, None, str(error)
        else:
            yield item, make_row(item, encoded, facts), ""


def encode_batched(model: Model, facts: RunFacts, ahead: ReadAhead, agreement: Agreement) -> Rows:
    """Each utterance, in order; `facts.batch` of like length go through the network together."""
    held: list[_Held] = []
    seconds, n_rows = 0.0, 0
    for item in ahead.items():
        try:
            held.append(_hold(model, facts, item, ahead.chunks()))
        except MissingExtraError:
            raise
        except CodecError as error:
            held.append(_Held(item, reason=str(error)))
        seconds += held[-1].n_samples / model.info.sample_rate
        if len(held) >= WINDOW * facts.batch or seconds >= MOST_HELD:
            n_rows = _run_window(model, facts, held, n_rows, agreement)
            yield from (entry.result(facts) for entry in held)
            held, seconds = [], 0.0
    _run_window(model, facts, held, n_rows, agreement)
    yield from (entry.result(facts) for entry in held)


def encode_rows(model: Model, rows: Sequence[Audio], n_codebooks: int, *, step: float = STEP) -> list[Codes]:
    """Audio (T,) of several rows to codes (Q, F) of each, all in one batch, padded behind.

    A `ragged` encoder takes nothing behind: there, only rows of one length share a batch.

    Args:
        model: a causal one.
        rows: audio at the model's rate.
        n_codebooks: how many codebooks.
        step: seconds that go through the network at once, at most.

    Raises:
        CorpusError: the device's memory does not hold the batch.
    """
    info, block = model.info, MODES["block"]
    if info.ragged and len({len(row) for row in rows}) > 1:
        return [encode_rows(model, [row], n_codebooks, step=step)[0] for row in rows]
    counts = [info.frames(len(row)) for row in rows]
    n_frames = max(counts)
    at_once = block * max(1, round(step * info.frame_rate) // block)
    state, parts = model.engine.init_encoder(len(rows)), []
    for first in range(0, n_frames, at_once):
        begin, end = first * info.hop_length, min(n_frames, first + at_once) * info.hop_length
        end = min(end, len(rows[0])) if info.ragged else end
        if begin >= end:
            break
        audio = np.zeros((len(rows), 1, end - begin), np.float32)
        for padded, row in zip(audio, rows, strict=True):
            padded[0, : max(0, len(row) - begin)] = row[begin:end]
        try:
            codes, state = model.engine.encode_step(audio, state, n_codebooks)
        except RuntimeError as error:
            if "memory" not in str(error):
                raise
            raise CorpusError(f"batch {len(rows)}: does not fit into the device's memory; use a smaller one") from None
        parts.append(codes)
    whole = np.concatenate(parts, -1)
    return [codes[:, :count] for codes, count in zip(whole, counts, strict=True)]


@dataclass
class _Held:
    """An utterance that waits for its batch: its audio, then its codes, or what is wrong with it."""

    item: Utterance
    audio: Audio | None = None
    codes: Codes | None = None
    n_samples: int = 0
    reason: str = ""

    def result(self, facts: RunFacts) -> tuple[Utterance, Row | None, str]:
        row = None if self.codes is None else make_row(self.item, Encoded(self.codes, self.n_samples), facts)
        return self.item, row, self.reason


def _hold(model: Model, facts: RunFacts, item: Utterance, chunks: Iterable[Audio]) -> _Held:
    """An utterance's whole audio; the codes of one that is too long for a batch."""
    parts: list[Audio] = []
    n_samples, rest = 0, iter(chunks)
    for chunk in rest:
        parts.append(chunk)
        n_samples += chunk.shape[1]
        if n_samples > LONGEST * model.info.sample_rate:
            encoded = _stream(model, facts, parts, rest)
            return _Held(item, codes=encoded.codes, n_samples=encoded.n_samples)
    audio = np.concatenate(parts, -1)[0] if parts else np.zeros(0, np.float32)
    check_samples(audio, item.place.label)
    return _Held(item, audio, n_samples=n_samples)


def _run_window(model: Model, facts: RunFacts, held: list[_Held], n_rows: int, agreement: Agreement) -> int:
    """Give all that have audio their codes; the number of rows so far."""
    waiting = [entry for entry in held if entry.audio is not None]
    compared = {id(entry) for i, entry in enumerate(waiting, n_rows) if i % COMPARE_EVERY == 0}
    ordered = sorted(waiting, key=lambda entry: -entry.n_samples)
    for start in range(0, len(ordered), facts.batch):
        entries = ordered[start : start + facts.batch]
        rows = [entry.audio for entry in entries if entry.audio is not None]
        for entry, codes in zip(entries, encode_rows(model, rows, facts.codebooks), strict=True):
            entry.codes = codes
            if id(entry) in compared and entry.audio is not None:
                agreement.add(codes, _stream(model, facts, [entry.audio[None]]).codes)
            entry.audio = None
    return n_rows + len(waiting)


def _stream(model: Model, facts: RunFacts, *chunks: Iterable[Any]) -> Encoded:
    """Chunks (1, t) to codes."""
    encoder = model.stream_encoder(codebooks=facts.codebooks, mode=facts.mode, whole=True)
    parts = [encoder.feed(chunk[0]) for some in chunks for chunk in some]
    parts.append(encoder.flush())
    condition = None if encoder.condition is None else encoder.condition.reshape(-1)
    return Encoded(np.concatenate(parts, -1), encoder.n_samples, condition)
