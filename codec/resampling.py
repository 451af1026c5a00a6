"""Change of the sample rate, whole or as a stream whose state is a value; `codec.audio` passes the public names on.

>>> import numpy as np
>>> resampled_length(44101, 44100, 16000)
16001
>>> one, two = Resampler(16000, 8000, 1), Resampler(16000, 8000, 1)
>>> audio = np.ones((1, 9000), np.float32)
>>> start = one.feed(audio[:, :5000])
>>> again = two.load(one.n_in, one.history, one.n_out)
>>> bool((start == again).all() and (one.feed(audio[:, 5000:]) == two.feed(audio[:, 5000:])).all())
True
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

__all__ = ["Resampler", "reach", "resample", "resampled_length"]

Audio = npt.NDArray[np.float32]

REACH = 160  # samples at the lower rate that VHQ's filter reaches to each side: 132 were measured, and some to spare


def resampled_length(n_samples: int, rate_in: int, rate_out: int) -> int:
    """Count the samples that `n_samples` at `rate_in` Hz become: ceil(n_samples * rate_out / rate_in), in integers."""
    return -(-n_samples * rate_out // rate_in)


def reach(rate_in: int, rate_out: int) -> int:
    """Samples at `rate_in` before and after a sample that it depends on."""
    return -(-REACH * rate_in // min(rate_in, rate_out))


class Resampler:
    """Changes the sample rate of a stream; any chunking of the input gives the same samples.

    libsoxr's stream can neither be copied nor saved, so none lives longer than a segment: two seconds, or the next
    length that is whole at both rates. Its follower begins so much earlier that the filter is full at the seam. All
    that a resampler remembers is then what its soxr stream was fed and how much it has given: another one, fed with the
    same, goes on equally. How much comes at once depends on the chunks too, at uneven ratios over four.

    Source: libsoxr, quality VHQ, linear phase; its delay is taken out, so that output time equals input time.

    Attributes:
        n_in: samples taken since the beginning, at `rate_in`.
    """

    def __init__(self, rate_in: int, rate_out: int, n_channels: int) -> None:
        """Rates in Hz."""
        self.rate_in, self.rate_out, self.n_channels = rate_in, rate_out, n_channels
        self._is_plain = rate_in == rate_out
        self._period = rate_in // math.gcd(rate_in, rate_out)  # the fewest samples that are whole at both rates
        self._after = reach(rate_in, rate_out)
        self._context = self._whole(self._after)
        # A new soxr stream costs as much as half a second; what begins before a seam is computed twice.
        self._segment = self._whole(max(2 * rate_in, 8 * self._context))
        most = 0 if self._is_plain else self._context + self._segment + self._after
        self._fed = np.empty((n_channels, most), np.float32)
        self.n_in = self._n_made = 0
        self._held: Audio = self._nothing  # made, and not yet given
        self._begin(self._nothing)

    @property
    def n_out(self) -> int:
        """Samples given since the beginning, at `rate_out`."""
        n_held: int = self._held.shape[1]
        return self._n_made - n_held

    @property
    def history(self) -> Audio:
        """The input (C, t) that the state is made of, a copy; t is at most some seconds, and follows from `n_in`."""
        return self._fed[:, : self._n_fed].copy()

    def holds(self, n_in: int, history: npt.NDArray[Any] | None, n_out: int | None = None) -> bool:
        """Whether this can be what a resampler like this one keeps after `n_in` samples."""
        if history is None or history.dtype != np.float32 or n_in < 0:
            return False
        if self._is_plain:
            return n_out in (None, n_in) and history.shape == (self.n_channels, 0)
        index = self._index(n_in)
        start, stop = (n * self._segment * self.rate_out // self.rate_in for n in (index, index + 1))
        if n_out is not None and not start <= n_out <= min(stop, resampled_length(n_in, self.rate_in, self.rate_out)):
            return False
        fits = history.shape == (self.n_channels, n_in - self._origin(index))
        return fits and bool(np.isfinite(history).all())

    def load(self, n_in: int, history: Audio, n_out: int | None = None) -> Audio:
        """Go on where the resampler was that had these; gives again what it gave last, from the segment's start on.

        `n_out` None takes the history for fed at once.
        """
        self.n_in, self._held = n_in, self._nothing
        again = self._begin(history)
        if n_out is None or self._is_plain:
            return again
        n_again = n_out - (self._n_made - again.shape[1])
        self._held = again[:, n_again:]
        self._n_made = max(self._n_made, n_out)  # what was given and is not made again yet, `_keep` drops
        return again[:, :n_again]

    def copy(self) -> Resampler:
        """A second one that goes on from here by itself."""
        twin = copy.copy(self)
        twin._fed = np.empty_like(self._fed)
        twin.load(self.n_in, self.history, self.n_out)
        return twin

    def feed(self, chunk: Audio) -> Audio:
        """Take (C, t) at `rate_in`, give the samples that are certain by now at `rate_out`: (C, u), u may be 0."""
        if self._is_plain:
            self.n_in += chunk.shape[-1]
            self._n_made = self.n_in
            return chunk
        parts = [self._held] if self._held.shape[1] else []
        self._held = self._nothing
        while chunk.shape[1] >= (room := self._size - self._n_fed):
            parts += [self._push(chunk[:, :room]), self._turn()]
            chunk = chunk[:, room:]
        last = self._push(chunk)
        return np.concatenate([*parts, last], axis=1) if parts else last

    def flush(self) -> Audio:
        """Give the last samples (C, u), so that all in all there are `resampled_length`, and start afresh."""
        rest = self._nothing
        if self.n_in and not self._is_plain:
            self._stop = resampled_length(self.n_in, self.rate_in, self.rate_out)
            # Silence after the end: soxr rounds the length down, the samples between it and the ceiling come from here.
            rest = self._keep(np.zeros((self.n_channels, 2 + 2 * self.rate_in // self.rate_out), np.float32), last=True)
            assert self._n_made == self._stop, (self._n_made, self._stop)
            rest = np.concatenate([self._held, rest], axis=1)
        self.n_in, self._held = 0, self._nothing
        self._begin(self._nothing)
        return rest

    @property
    def _nothing(self) -> Audio:
        return np.zeros((self.n_channels, 0), np.float32)

    def _whole(self, n_samples: int) -> int:
        """The least multiple of the period from `n_samples` on."""
        return -(-n_samples // self._period) * self._period

    def _index(self, n_in: int) -> int:
        """The segment that is on its way after `n_in` samples: a segment ends once its filter's reach was fed."""
        return max(0, (n_in - self._after) // self._segment)

    def _origin(self, index: int) -> int:
        """The first input sample that a segment's soxr stream is fed."""
        return max(0, index * self._segment - self._context)

    def _begin(self, history: Audio) -> Audio:
        """Begin the segment of `n_in` with a new soxr stream, and give what `history` makes certain of it."""
        if self._is_plain:
            self._n_made, self._n_fed = self.n_in, 0
            return history
        index = self._index(self.n_in)
        origin, start, stop = self._origin(index), index * self._segment, (index + 1) * self._segment
        # What the soxr stream gives next, what is wanted next and where the segment ends, in samples at `rate_out`.
        self._at, self._n_made, self._stop = (n * self.rate_out // self.rate_in for n in (origin, start, stop))
        self._soxr: soxr.ResampleStream | None = None
        self._size, self._n_fed = stop + self._after - origin, 0
        self.n_in -= history.shape[1]
        return self._push(history)

    def _push(self, chunk: Audio) -> Audio:
        """Feed the soxr stream within its segment."""
        n = chunk.shape[1]
        self._fed[:, self._n_fed : self._n_fed + n] = chunk
        self._n_fed += n
        self.n_in += n
        return self._keep(chunk, last=False) if n else chunk

    def _turn(self) -> Audio:
        """End a segment and begin the next one."""
        end = self._keep(self._nothing, last=True)
        assert self._n_made == self._stop, (self._n_made, self._stop)
        begin = self._begin(self._fed[:, self._size - self._context - self._after : self._size].copy())
        return np.concatenate([end, begin], axis=1)

    def _keep(self, chunk: Audio, *, last: bool) -> Audio:
        """Of what the soxr stream gives for a chunk, what belongs to the segment."""
        if self._soxr is None:
            self._soxr = soxr.ResampleStream(self.rate_in, self.rate_out, self.n_channels, "float32", "VHQ")
        resampled: Audio = self._soxr.resample_chunk(np.ascontiguousarray(chunk.T), last=last).T
        kept = resampled[:, max(0, self._n_made - self._at) : max(0, self._stop - self._at)]
        self._at += resampled.shape[1]
        self._n_made += kept.shape[1]
        return kept


def resample(audio: Audio, rate_in: int, rate_out: int) -> Audio:
    """Whole audio at another rate (Hz): (..., T) -> (..., resampled_length(T)); the same samples as `Resampler`."""
    if rate_in == rate_out:
        return audio
    rows = audio.reshape(math.prod(audio.shape[:-1]), audio.shape[-1]).astype(np.float32, copy=False)
    resampler = Resampler(rate_in, rate_out, len(rows))
    resampled = np.concatenate([resampler.feed(rows), resampler.flush()], axis=1)
    return resampled.reshape(*audio.shape[:-1], resampled.shape[-1])
