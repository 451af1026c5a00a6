"""Configuration as data: frozen dataclasses, read from plain dicts and written back.

Nothing here is executable and nothing names a class path: a `kind` is looked up in a visible dict of the room that it
belongs to.

>>> part = from_dict(Part, {"kind": "residual", "options": {"n_codebooks": 8}})
>>> part.kind, to_dict(part) == {"kind": "residual", "options": {"n_codebooks": 8}}
('residual', True)
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from codec.errors import ConfigError
from codec.segments import LOUDNESS_SIZES, Segments

T = TypeVar("T")


def from_dict(cls: type[T], data: Mapping[str, Any], *, where: str = "") -> T:
    """Build the dataclass `cls` from plain data.

    Args:
        cls: a dataclass; nested dataclasses, tuples, dicts and optional fields are followed.
        data: keys are field names; unknown keys are refused.
        where: what the message names, for example the recipe's path.

    Raises:
        ConfigError: an unknown or missing key, or a value of another type, named with its place.
    """
    place = where or cls.__name__
    if not isinstance(data, Mapping):
        raise ConfigError(f"{place}: expected keys and values, found {data!r}")
    fields = {f.name: f for f in dataclasses.fields(typing.cast(Any, cls)) if f.init}
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise ConfigError(f"{place}: unknown key {unknown[0]!r}; known keys are {', '.join(sorted(fields))}")
    hints = typing.get_type_hints(cls)
    values = {name: _convert(hints[name], value, f"{place}.{name}") for name, value in data.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"{place}: {str(error).split('__init__() ')[-1]}") from None


def to_dict(config: Any) -> dict[str, Any]:
    """Plain data (dicts, lists, numbers, strings) that `from_dict` turns back into the same dataclass."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config) if f.init}


def replace(config: T, **changes: Any) -> T:
    """A copy of a frozen dataclass with some fields changed; the checks run again."""
    return typing.cast(T, dataclasses.replace(typing.cast(Any, config), **changes))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def _convert(hint: Any, value: Any, place: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, place)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, value, where=place)
    if origin is tuple:
        return _convert_tuple(args, value, place)
    if origin in (dict, Mapping, typing.get_origin(Mapping[str, int])):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{place}: expected keys and values, found {value!r}")
        return {str(key): _convert(args[1], item, f"{place}.{key}") for key, item in value.items()}
    if hint is Any:
        return value
    return _convert_scalar(hint, value, place)


def _convert_tuple(args: tuple[Any, ...], value: Any, place: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise ConfigError(f"{place}: expected a list, found {value!r}")
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_convert(args[0], item, f"{place}[{i}]") for i, item in enumerate(value))
    if len(args) != len(value):
        raise ConfigError(f"{place}: expected {len(args)} values, found {len(value)}")
    return tuple(_convert(hint, item, f"{place}[{i}]") for i, (hint, item) in enumerate(zip(args, value, strict=True)))


def _convert_scalar(hint: Any, value: Any, place: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    # YAML 1.1 reads 1e-3 as text; a number in text is what was meant.
    if hint is float and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            raise ConfigError(f"{place}: expected a number, found {value!r}") from None
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{place}: expected {hint.__name__}, found {value!r}")
    return value


@dataclasses.dataclass(frozen=True)
class Part:
    """One exchangeable part of a network: its kind, and options that the part's own dataclass checks."""

    kind: str  # a key of ENCODERS, DECODERS or BOTTLENECKS
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What a network is: encoder, bottleneck and decoder combine freely.

    Raises:
        ConfigError: a size that cannot be.
    """

    encoder: Part
    bottleneck: Part
    decoder: Part
    sample_rate: int = 16000  # Hz
    hop_length: int = 320  # samples per frame
    channels: int = 1  # 1: the network codes each channel alone, kept channels go side by side; 2: both together
    latent_dim: int = 128  # D, channels between encoder and decoder
    segments: Segments | None = None  # each coded alone at its own loudness; None: the signal as a whole

    def __post_init__(self) -> None:
        """Check sizes."""
        for name in ("sample_rate", "hop_length", "latent_dim"):
            if getattr(self, name) < 1:
                raise ConfigError(f"ModelConfig.{name}: must be at least 1, found {getattr(self, name)}")
        if self.channels not in (1, 2):
            raise ConfigError(f"ModelConfig.channels: networks code one channel or two, found {self.channels}")
        if self.segments is not None:
            self.segments.check(self.hop_length)
        elif self.channels > 1:
            raise ConfigError("ModelConfig.channels: networks of two channels code in segments; say which")

    @property
    def frame_rate(self) -> float:
        """Frames per second of the codes, Hz: those of overlaps count twice."""
        return self.sample_rate / self.hop_length * (1 if self.segments is None else self.segments.share)


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What is known of a model without building it; `model.info`, and the `info` of a model folder's model.json."""

    name: str
    sample_rate: int  # Hz
    hop_length: int  # samples per frame
    delay: int  # samples from input to output, beyond the frame itself
    codebook_sizes: tuple[int, ...]  # entries of each codebook, in code order
    divisors: tuple[int, ...]  # frames per code of each codebook; 1 is every frame
    prefixes: tuple[int, ...]  # how many codebooks, from the first on, decode alone
    parameters: dict[str, int]  # encoder, bottleneck, decoder
    licence: str
    weights_hash: str = ""  # SHA-256 of the weights file, hex
    causal: bool = True  # nothing looks ahead
    context: int | None = None  # earlier frames on which decoded audio depends; None is all of them
    encoder_context: int | None = None  # earlier frames of audio on which a frame's codes depend; None is all
    encoder_lookahead: int | None = 0  # samples behind its own frame on which a frame's codes depend; None is all
    decoder_lookahead: int | None = 0  # later frames on which decoded audio depends; None is all
    encoder_start: int = 1  # frames of audio that the first step needs, because the first codes depend on them
    decoder_start: int = 1  # frames of codes that the first step needs
    period: int = 1  # frames of a decoder's fixed noise: a part is decoded from a multiple of them
    condition: int = 0  # numbers of the vector that the decoder needs beside the codes, such as a voice; 0 is none
    ragged: bool = False  # the encoder fills a last frame that is not whole by itself; else zeros are put there
    audio_channels: int = 1  # channels that one row of codes stands for; mono goes into both of two
    segments: Segments | None = None  # each coded alone; its loudness goes first, as two of the codebooks
    same_codes: tuple[str, ...] = ()  # weights_hash of other weights whose encoder and bottleneck are these ones

    def __post_init__(self) -> None:
        """Check numbers. Raises: ConfigError."""
        n_books = len(self.codebook_sizes)
        facts = {
            "sample_rate": self.sample_rate >= 1,
            "hop_length": self.hop_length >= 1,
            "delay": self.delay >= 0,
            "codebook_sizes": n_books > 0 and min(self.codebook_sizes) >= 1,
            "divisors": len(self.divisors) == n_books and min(self.divisors) >= 1,
            "prefixes": bool(self.prefixes) and all(1 <= count <= n_books for count in self.prefixes),
            "context": self.context is None or self.context >= 0,
            "encoder_context": self.encoder_context is None or self.encoder_context >= 0,
            "encoder_lookahead": self.encoder_lookahead is None or self.encoder_lookahead >= 0,
            "decoder_lookahead": self.decoder_lookahead is None or self.decoder_lookahead >= 0,
            "encoder_start": self.encoder_start >= 1,
            "decoder_start": self.decoder_start >= 1,
            "period": self.period >= 1,
            "condition": self.condition >= 0,
            "ragged": not (self.ragged and self.delay),
            "audio_channels": self.audio_channels in (1, 2),
            "segments": self.segments is None or self.codebook_sizes[:2] == LOUDNESS_SIZES,
            "same_codes": all(len(other) == 64 for other in self.same_codes),
            "causal": self.causal == (self.encoder_lookahead == 0 and self.decoder_lookahead == 0),
        }
        for name, holds in facts.items():
            if not holds:
                raise ConfigError(f"ModelInfo.{name}: {getattr(self, name)} cannot be")
        if self.segments is not None:
            self.segments.check(self.hop_length)

    def knows_codes_of(self, name: str, weights_hash: str) -> bool:
        """Whether codes of a model are codes of this one: its own under its own name, those of `same_codes` under any.

        Args:
            name: of the model that made them.
            weights_hash: SHA-256 of its weights, hex, whole or its first half as files keep it; less is nobody's.
        """
        known = (*self.same_codes, *([self.weights_hash] if name == self.name else []))
        lengths = (min(len(one), len(weights_hash)) for one in known)
        # A hash that is empty or cut would be equal to any other one.
        return any(n >= 32 and one[:n] == weights_hash[:n] for n, one in zip(lengths, known, strict=True))

    @property
    def codebooks(self) -> int:
        """Codebooks that the model owns."""
        return len(self.codebook_sizes)

    @property
    def codebook_size(self) -> int:
        """Entries of the largest codebook of the signal itself."""
        return max(self.codebook_sizes[self.loudness_codebooks :])

    @property
    def loudness_codebooks(self) -> int:
        """Codebooks in front that hold the loudness of a segment."""
        return 0 if self.segments is None else len(LOUDNESS_SIZES)

    @property
    def frame_rate(self) -> float:
        """Frames per second of the codes, Hz: those of overlaps count twice."""
        return self.sample_rate / self.hop_length * (1 if self.segments is None else self.segments.share)

    @property
    def unit(self) -> tuple[int, int]:
        """Samples and frames of what is coded at once, and follows the one before: a frame, or a segment."""
        if self.segments is None:
            return self.hop_length, 1
        return self.segments.stride, self.segments.length // self.hop_length

    @property
    def lookahead(self) -> int | None:
        """Later samples that a stream waits for, beyond frame and delay; None where it must wait for the end.

        A memory without end beside look-ahead fits into no window but the whole signal. A segment, once it is there, is
        coded and decoded as it is.
        """
        if self.segments is not None:
            return self.segments.length - self.hop_length
        if self.encoder_lookahead is None or self.decoder_lookahead is None:
            return None
        if (self.encoder_lookahead and self.encoder_context is None) or (
            self.decoder_lookahead and self.context is None
        ):
            return None
        return self.encoder_lookahead + self.decoder_lookahead * self.hop_length

    @property
    def latency(self) -> float:
        """Algorithmic latency from a sample's arrival to its reconstruction, seconds: first step, delay, look-ahead.

        The first step is a frame, or as many as the first frame depends on. Infinite where one needs the whole signal.
        """
        if self.lookahead is None:
            return math.inf
        first = max(self.encoder_start, self.decoder_start) * self.hop_length
        return (first + self.delay + self.lookahead) / self.sample_rate

    @property
    def bitrate(self) -> float:
        """Bits per second of one channel with all codebooks."""
        return self.bitrate_of(self.codebooks)

    def bitrate_of(self, codebooks: int) -> float:
        """Bits per second of one channel with the first `codebooks` codebooks."""
        pairs = list(zip(self.codebook_sizes, self.divisors, strict=True))[:codebooks]
        return self.frame_rate * sum(math.log2(size) / divisor for size, divisor in pairs)

    def frames(self, n_samples: int) -> int:
        """Frames that code `n_samples` samples; the last ones carry the delay."""
        if self.segments is not None:
            return self.segments.frames(n_samples, self.hop_length)
        return -(-(n_samples + self.delay) // self.hop_length) if n_samples else 0

    def samples(self, n_frames: int) -> int:
        """The most samples that `n_frames` frames carry."""
        if self.segments is not None:
            return self.segments.samples(n_frames, self.hop_length)
        return max(0, n_frames * self.hop_length - self.delay)
