"""Frames of as many codebooks as their content is worth, at a bitrate that the whole stays under.

A frame's loudness below the loudest of the last seconds says how many codebooks it is worth. What pauses save is
credit that later frames may spend: never more than was saved, so that the mean from the beginning on is at no time over
the bitrate. All of it is known when the frame is, so it streams, and the chunks do not matter.

>>> from codec.config import ModelInfo
>>> info = ModelInfo("m", 16000, 320, 0, (1024,) * 8, (1,) * 8, (2, 4, 6, 8), {}, "")
>>> control = choose_control(info, 2000)
>>> control.counts, control.bits, control.target
((2, 4, 6, 8), (22, 42, 62, 82), 40.0)
>>> codes, audio = np.zeros((1, 8, 3), np.int64), np.zeros((1, 960), np.float32)
>>> codes, _ = control.apply(codes, audio, control.begin(), hop_length=320)
>>> (codes >= 0).sum(1).tolist()
[[2, 2, 2]]
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codec.codesfile.counts import MISSING
from codec.codesfile.packing import bits_per_code
from codec.config import ModelInfo
from codec.engine import Audio, Codes
from codec.errors import CodesError

MAX_COUNTS = 4  # two bits a frame say which
SILENCE_DB, QUIET_DB = -90.0, -60.0  # what a sample of 16 bits can hold; no speech is taken to be quieter
# Of speech: how far below the loudest of the last seconds the threshold must be for a mean as high as can be, and from
# there on the span of loudness over which the number of codebooks rises. Chosen by PESQ and STOI.
RANGE_DB, SPAN_DB = 42.0, 24.0
DECAY_DB = 0.5  # a second, by which the loudest is forgotten
# Dearer credit would be left at the end of short files; without a limit a long pause would spend it.
CREDIT_DB, MOST_DB = 20.0, 10.0  # by which a second of credit lowers the threshold, and the most
MAX_CREDIT = 4.0  # seconds' worth of the bitrate


@dataclass(frozen=True)
class RateControl:
    """How many codebooks each frame gets. Its state is a value, (rows, 2) float64: credit in bits, loudest in dB.

    Attributes:
        counts: the numbers of codebooks to choose from, ascending.
        bits: of a frame with each of them, its own choice included.
        target: bits of a frame on average.
        frame_rate: frames per second.
    """

    counts: tuple[int, ...]
    bits: tuple[int, ...]
    target: float
    frame_rate: float

    def begin(self) -> NDArray[np.float64]:
        """The state of one row before the first frame."""
        return np.array([[0.0, QUIET_DB]])

    def apply(
        self, codes: Codes, audio: Audio, state: NDArray[np.float64], *, hop_length: int
    ) -> tuple[Codes, NDArray[np.float64]]:
        """Codes (B, Q, n) with -1 for what is not sent, and the next state.

        Args:
            codes: of as many codebooks as the last of `counts`.
            audio: (B, n * hop_length), what they were made of; a last frame may lack samples, and is padded with zeros.
            state: (B, 2).
            hop_length: samples of a frame.
        """
        batch, n_codebooks, n_frames = codes.shape
        loudness = loudness_of(np.pad(audio, ((0, 0), (0, -audio.shape[1] % hop_length))), hop_length)
        counts = np.zeros((batch, 1, n_frames), np.int64)
        after = state.copy()
        for row in range(batch):
            for frame in range(n_frames):
                choice = self._choose(float(loudness[row, frame]), after[row])
                counts[row, 0, frame] = self.counts[choice]
        return np.where(np.arange(n_codebooks)[:, None] < counts, codes, MISSING), after

    def _choose(self, loudness: float, state: NDArray[np.float64]) -> int:
        """The choice for one frame; its row's state (2,) moves on in place."""
        credit = float(state[0])
        loudest = max(loudness, QUIET_DB, float(state[1]) - DECAY_DB / self.frame_rate)
        share = (self.target - self.bits[0]) / max(1, self.bits[-1] - self.bits[0])
        second = self.target * self.frame_rate
        threshold = loudest - RANGE_DB * share - min(MOST_DB, CREDIT_DB * credit / second)
        step = SPAN_DB / max(1, len(self.counts) - 1)
        choice = min(max(math.ceil((loudness - threshold) / step), 0), len(self.counts) - 1)
        while choice and self.bits[choice] > credit + self.target:
            choice -= 1
        state[:] = min(MAX_CREDIT * second, credit + self.target - self.bits[choice]), loudest
        return choice


def loudness_of(audio: Audio, hop_length: int) -> NDArray[np.float64]:
    """Mean power of each frame (B, n), dB, of audio (B, n * hop_length)."""
    frames = audio.reshape(len(audio), -1, hop_length).astype(np.float64)
    loudness: NDArray[np.float64] = 10 * np.log10(np.square(frames).mean(2) + 10 ** (SILENCE_DB / 10))
    return loudness


def choose_control(info: ModelInfo, bitrate: float | None) -> RateControl:
    """The rate control of a model at a bitrate, bit/s of one channel.

    Raises:
        CodesError: no bitrate or one below the smallest, or a model whose frames cannot differ: one number of
            codebooks, codes of several frames, or an encoder that looks ahead.
    """
    if bitrate is None:
        raise CodesError("variable: goes with a bitrate; say how many bits a second to stay under")
    if not math.isfinite(bitrate):
        raise CodesError(f"bitrate={bitrate:g}: goes not with variable; give bits per second, 2000 for 2 kbit/s")
    if info.encoder_lookahead != 0 or max(info.divisors) > 1 or len(info.prefixes) == 1:
        raise CodesError(f"variable: {info.name} codes all frames alike; encode without it")
    target = bitrate / info.frame_rate
    sizes = [bits_per_code(size) for size in info.codebook_sizes]
    # Far more than the mean is spent on few frames, and would leave too few steps around it.
    fitting = [count for count in info.prefixes if sum(sizes[:count]) <= 2 * target]
    if len(fitting) < 2:
        fitting = list(info.prefixes[:2])
    places = np.linspace(0, len(fitting) - 1, min(MAX_COUNTS, len(fitting))).round().astype(int)
    counts = tuple(fitting[place] for place in places)
    bits = tuple(sum(sizes[:count]) + bits_per_code(len(counts)) for count in counts)
    if bits[0] > target * (1 + 1e-6):
        raise CodesError(
            f"bitrate={bitrate:g}: {info.name} with a variable number of codebooks needs at least "
            f"{bits[0] * info.frame_rate:g} bit/s"
        )
    return RateControl(counts, bits, target, info.frame_rate)
