"""How a model that codes in overlapping segments lays samples and frames out: EnCodec's one at 48 kHz.

Segment k is the samples from k * stride on, `length` of them or those that are left; it is coded alone, and its frames
follow those of segment k - 1. So the codes hold the overlaps twice.

>>> segments = Segments(length=48000, stride=47520)
>>> segments.frames(48000, hop_length=320), segments.samples(152, hop_length=320)
(152, 48160)
"""

from __future__ import annotations

from dataclasses import dataclass

from codec.errors import ConfigError

LOUDNESS_SIZES = (1 << 16, 1 << 16)  # codebooks in front: the loudness of a segment, the high and low half of a float32
# Segments to decode before the wanted one: its neighbour fades into it, and how depends on whether that is the first.
SEGMENTS_BEFORE = 2


@dataclass(frozen=True)
class Segments:
    """Where segments begin and end.

    Raises:
        ConfigError: sizes that cannot be.
    """

    length: int  # samples
    stride: int  # samples from the beginning of one to that of the next

    def __post_init__(self) -> None:
        """Check sizes."""
        if not 0 < self.stride < self.length <= 2 * self.stride:
            raise ConfigError(f"segments: {self.length} samples every {self.stride}; must overlap, by half at most")

    @property
    def overlap(self) -> int:
        """Samples that two neighbours have in common."""
        return self.length - self.stride

    @property
    def share(self) -> float:
        """How much is coded of a second."""
        return self.length / self.stride

    def check(self, hop_length: int) -> None:
        """Refuse frames that do not fit.

        A segment with another one behind it may lack a frame, which the sign of its loudness tells: one, not several.

        Raises:
            ConfigError: a segment of no whole number of frames, or with another behind it but two frames short.
        """
        if self.length % hop_length or self.stride + 1 <= self.length - 2 * hop_length:
            raise ConfigError(f"segments: {self.length} samples every {self.stride} do not fit hop_length {hop_length}")

    def frames(self, n_samples: int, hop_length: int) -> int:
        """Frames of all segments of a signal; those with another one behind them count as whole."""
        before = max(0, -(-n_samples // self.stride) - 1)
        return before * (self.length // hop_length) + -(-(n_samples - before * self.stride) // hop_length)

    def samples(self, n_frames: int, hop_length: int) -> int:
        """Samples that so many frames carry."""
        before = max(0, -(-n_frames // (self.length // hop_length)) - 1)
        return before * self.stride + (n_frames - before * (self.length // hop_length)) * hop_length

    def around(self, first: int, last: int, hop_length: int) -> tuple[int, int, int]:
        """To decode the samples from `first` to `last`: its frames from and to, and the sample at which they begin."""
        begin, whole = max(0, first // self.stride - SEGMENTS_BEFORE), self.length // hop_length
        return begin * whole, (-(-last // self.stride)) * whole, begin * self.stride
