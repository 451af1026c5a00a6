"""What streams keep around the networks: samples or frames that wait for a whole step, counts, resampling, trimming.

No engine here: one stream (`codec.stream`) and many at once (`codec.stream.rows`) cut and count alike.

>>> from codec.config import ModelInfo
>>> info = ModelInfo("m", 16000, 320, 0, (32,), (1,), (1,), {}, "")
>>> queue = AudioQueue(info, sample_rate=16000, step=1, n_channels=1)
>>> queue.take(np.zeros((1, 700), np.float32))
>>> [block.data.shape for block in queue.blocks()], queue.pending.shape
([(1, 320), (1, 320)], (1, 60))
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec.codesfile.counts import allowed_counts, is_wrong
from codec.config import ModelInfo
from codec.engine import Audio, Codes
from codec.resampling import Resampler
from codec.stream.basequeue import Queue
from codec.stream.window import Block, decoder_reach, encoder_reach, windows


class AudioQueue(Queue):
    """Audio on its way to an encoder: in at any rate and length, out in blocks of whole steps at the model's rate."""

    COUNTS = ("n_fed", "n_samples", "n_frames", "ended")

    def __init__(self, info: ModelInfo, *, sample_rate: int, step: int, n_channels: int) -> None:
        """Begin; `sample_rate` of what is taken, Hz; `step` in frames."""
        resampler = Resampler(sample_rate, info.sample_rate, n_channels)
        super().__init__(info, encoder_reach(info), resampler, step=step)
        self._remembers = info.encoder_lookahead == 0
        # What a window's frame is: a frame, or a segment, of so many samples and frames.
        self._unit, self._per_unit = info.unit
        self.pending = self._nothing = np.zeros((n_channels, 0), np.float32)
        self.n_fed = 0  # samples taken, at their own rate
        self.n_samples = 0  # the same at the model's rate
        self.n_frames = 0  # frames given

    def take(self, audio: Audio) -> None:
        """Take audio (C, t) that was checked."""
        self.n_fed += audio.shape[1]
        self._add(self._resampler.feed(audio))

    def close(self) -> None:
        """No more samples come; zeros carry the last ones through the model's delay, to the end of a frame.

        Not where the encoder is `ragged`: it knows what to put behind the last sample.
        """
        self._add(self._resampler.flush())
        self.ended = True
        if self._info.ragged:
            return
        size = (self._info.frames(self.n_samples) - self._origin(self.n_frames)) * self._info.hop_length
        zeros = np.zeros((self._n_channels, size - self.pending.shape[1]), np.float32)
        self.pending = np.concatenate((self.pending, zeros), 1)

    def blocks(self) -> list[Block]:
        """What is ready: blocks (C, samples) of whole frames, but for the last one of a `ragged` encoder.

        What no later block needs is removed from here.
        """
        if self._reach.whole and not self.ended:
            return []
        hop, per, done = self._unit, self._per_unit, self.n_frames // self._per_unit
        size = self._step if done else self._reach.step(0, self._step)
        if self._remembers and not self.ended and self._joined.shape[1] == size * hop:  # one step: most
            data, self._joined = self._joined, self._nothing
            return [Block(data, slice(0, size))]
        start = self._origin(done)
        known, ready = start * hop + self.pending.shape[1], []
        for window in windows(self._reach, first=done, known=known, step=self._step, hop_length=hop, ended=self.ended):
            data = self.pending[:, (window.begin - start) * hop : window.end - start * hop]
            if (short := -data.shape[1] % hop) and not self._info.ragged:
                data = np.pad(data, ((0, 0), (0, short)))  # behind what the kept frames see
            keep = slice((window.first - window.begin) * per, (window.stop - window.begin) * per)
            ready.append(Block(data if self._info.audio_channels == 1 else data[None], keep))
            done = window.stop
        self.pending = self.pending[:, (self._origin(done) - start) * hop :].copy()  # a view would keep the whole chunk
        if self.ended:
            self.pending = self.pending[:, :0]
        return ready

    def holds(self, pending: NDArray[Any] | None) -> bool:
        """Whether this can be what the queue keeps between calls with the counts that it has."""
        if pending is None or pending.dtype != np.float32 or pending.ndim != 2:
            return False
        most = (self._reach.context + self._reach.step(0, self._step)) * self._unit + self._reach.ahead
        fits = self._reach.whole or pending.shape[1] < most
        n_kept = 0 if self.ended else self.n_samples - self._origin(self.n_frames // self._per_unit) * self._unit
        fits = fits and pending.shape[1] == n_kept
        return len(pending) == self._n_channels and fits and bool(np.isfinite(pending).all())

    def give(self, codes: Codes) -> Codes:
        """Codes (..., f) of these blocks without the frames that code zeros only."""
        if self.ended:
            codes = codes[..., : self._info.frames(self.n_samples) - self.n_frames]
        self.n_frames += codes.shape[-1]
        return codes

    def _n_resampled(self) -> tuple[int, int | None]:
        """All that was fed; a resampler that was flushed begins anew."""
        return (0, 0) if self.ended else (self.n_fed, self.n_samples)

    def _add(self, audio: Audio) -> None:
        self.n_samples += audio.shape[1]
        self._append(audio)


class CodesQueue(Queue):
    """Codes on their way to a decoder, and the decoded audio on its way out."""

    COUNTS = ("n_frames", "n_run", "n_given", "skip", "end", "ended")

    def __init__(self, info: ModelInfo, *, sample_rate: int, step: int, n_channels: int) -> None:
        """Begin; `sample_rate` of what is given, Hz; `step` in frames."""
        resampler = Resampler(info.sample_rate, sample_rate, n_channels)
        super().__init__(info, decoder_reach(info), resampler, step=step)
        self._remembers = info.decoder_lookahead == 0
        self._unit, self._per_unit = info.unit
        self._n_rows = n_channels // info.audio_channels
        self._is_closing = False
        self.n_frames = 0  # frames taken
        self.n_run = 0  # samples decoded, delay included
        self.n_given = 0  # samples given, at the model's rate
        self.skip = info.delay  # samples still to be dropped
        self.end: int | None = None  # samples to be given all in all

    @property
    def n_codebooks(self) -> int | None:
        """Codebooks of what was taken; None before the first."""
        return None if self._joined is None else int(self._joined.shape[1])

    def take(self, codes: Codes) -> None:
        """Take codes (C, Q, f) that were checked."""
        self.n_frames += codes.shape[2]
        self._append(codes)

    def close(self) -> None:
        """No more frames come; the last step is as long as what waits."""
        self.ended = self._is_closing = True

    def blocks(self) -> list[Block]:
        """What is ready: blocks (C, Q, frames). What no later block needs is removed from here."""
        if self.n_codebooks is None or (self._reach.whole and not self.ended):
            return []
        hop, per, done = self._unit, self._per_unit, self.n_run // self._unit
        size = self._step if done else self._reach.step(0, self._step)
        if self._remembers and not self.ended and self._joined.shape[2] == size:  # one step: most
            data, self._joined = self._joined, self._joined[:, :, :0].copy()
            return [Block(data, slice(0, size * hop))]
        start, ready = self._origin(done), []
        known = start * per + self.pending.shape[2]
        for window in windows(self._reach, first=done, known=known, step=self._step, hop_length=per, ended=self.ended):
            data = self.pending[:, :, window.begin * per - start * per : window.end - start * per]
            keep = slice((window.first - window.begin) * hop, (window.stop - window.begin) * hop)
            is_part = per > 1 and data.shape[2] < per  # of a segment, the last: nothing fades into its end
            ready.append(Block(data, slice(None) if is_part else keep))
            done = window.stop
        self.pending = self.pending[:, :, (self._origin(done) - start) * per :].copy()
        if self.ended:
            self.pending = self.pending[:, :, :0]
        if self._is_closing and self.n_frames and per > 1 and self.n_frames % per == 0:
            ready.append(Block(self.pending, slice(None)))  # no frames: what the last segment holds beyond its stride
        self._is_closing = False
        return ready

    def holds(self, pending: NDArray[Any] | None) -> bool:
        """Whether this can be what the queue keeps between calls with the counts that it has."""
        if pending is None:
            return True
        if pending.dtype != np.int64 or pending.ndim != 3 or pending.shape[1] not in self._info.prefixes:
            return False
        n_books = pending.shape[1]
        allowed = allowed_counts(self._info.prefixes, self._info.divisors[:n_books])
        in_range = not is_wrong(pending, self._info.codebook_sizes[:n_books], allowed).any()
        most = (self._reach.context + self._reach.step(0, self._step)) * self._per_unit + self._reach.ahead
        fits = self._reach.whole or pending.shape[2] < most
        return in_range and len(pending) == self._n_rows and fits

    def trim(self, start: int, end: int | None) -> None:
        """Drop `start` samples more at the beginning, and all from `end` on, where it is said now or before."""
        self.skip += start
        if end is not None:
            n_dropped = self.n_run - self.n_given + self.skip - self._info.delay  # at the beginning, now and later
            self.end = end - n_dropped
        elif self.end is not None:
            self.end -= start

    def give(self, audio: Audio) -> Audio:
        """Decoded audio (C, t) without the delay at the start and the filling at the end, at the rate asked for.

        Of one row of two channels (1, C, t).
        """
        if audio.ndim == 3:
            return self.give(audio[0])[None]
        known = self.n_frames * self._unit if self._per_unit == 1 else self._info.samples(self.n_frames)
        audio = audio[:, : known - self.n_run]
        self.n_run += audio.shape[1]
        skip = min(self.skip, audio.shape[1])
        self.skip -= skip
        audio = audio[:, skip:]
        if self.end is not None:
            audio = audio[:, : max(0, self.end - self.n_given)]
        self.n_given += audio.shape[1]
        audio = self._resampler.feed(audio)
        return np.concatenate((audio, self._resampler.flush()), 1) if self.ended else audio

    def _n_resampled(self) -> tuple[int, int | None]:
        """What was decoded and not trimmed; a resampler that was flushed begins anew."""
        return (0, 0) if self.ended else (self.n_given, None)
