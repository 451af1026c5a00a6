"""Codes of one item: the array, and what is needed to give its audio back; to a `.codes` file and from it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from codec import codesfile
from codec.arguments import as_switch, as_whole, check_path, shown
from codec.arrays import as_codes
from codec.codesfile.condition import SECTION, Condition, condition_bytes, condition_of
from codec.codesfile.counts import cut_counts, frame_bits
from codec.config import ModelInfo
from codec.errors import CodesError, CodesFileError
from codec.files import atomic_path, describe_os_error


@dataclass(frozen=True, eq=False)
class Codes:
    """Codes of one item.

    Attributes:
        data: int64, (Q, F) for mono, (C, Q, F) for kept channels; numpy, or torch where the audio was a torch tensor.
        n_samples: true length of each channel, at the model's rate.
        model: what the codes belong to.
        mode: how they were made, `block` or `frame`.
        warnings: what is missing, where they come from a damaged file.
        frame_codebooks: numbers of codebooks that a frame may have where frames differ; a code that was not sent is -1.
        condition: float32 (N,), (C, N) for kept channels: the vector that the decoder of a model with `info.condition`
            needs beside them, such as FACodec's voice; None for all other models.
    """

    data: Any
    n_samples: int
    model: ModelInfo
    mode: str = "block"
    warnings: tuple[str, ...] = ()
    condition: Condition | None = None
    frame_codebooks: tuple[int, ...] = ()

    @property
    def codebooks(self) -> int:
        """Codebooks in use, the most where frames differ."""
        return int(self.data.shape[-2])

    @property
    def n_frames(self) -> int:
        """Frames."""
        return int(self.data.shape[-1])

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.n_samples / self.model.sample_rate

    @property
    def bitrate(self) -> float:
        """Bits per second of all channels, without the container; the mean where frames differ."""
        if self.frame_codebooks:
            bits = frame_bits(as_codes(self.data, "codes"), self.model.codebook_sizes, self.frame_codebooks)
            return bits * self.model.frame_rate / max(1, self.n_frames)
        channels = int(self.data.shape[0]) if self.data.ndim == 3 else 1
        return channels * self.model.bitrate_of(self.codebooks)

    def first_channel(self) -> Codes:
        """The same of the first channel alone, (Q, F)."""
        condition = None if self.condition is None else self.condition[0]
        return replace(self, data=self.data[0], condition=condition)

    def prefix(self, codebooks: int) -> Codes:
        """The same with the first `codebooks` codebooks alone. Raises: CodesError where there are not so many."""
        count = as_whole(codebooks)
        if count is None or count not in range(1, self.codebooks + 1):
            raise CodesError(f"prefix({shown(codebooks)}): these codes have 1 to {self.codebooks} codebooks")
        counts = cut_counts(self.frame_codebooks, count)
        return replace(self, data=self.data[..., :count, :], frame_codebooks=counts)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = True) -> None:
        """Write a `.codes` file, whole or not at all. One kept channel (1, Q, F) comes back from it as (Q, F).

        Raises:
            CodesFileError: the file exists and `overwrite` is False, or cannot be written.
        """
        check_path(path, CodesFileError)
        overwrite = as_switch(overwrite, "overwrite")
        data = as_codes(self.data, "codes")
        channels = len(data) if data.ndim == 3 else 1
        counts = self.frame_codebooks
        header = make_header(
            self.model,
            self.mode,
            self.codebooks,
            channels=channels,
            condition=self.condition,
            frame_codebooks=counts,
        )
        with atomic_path(path, overwrite=overwrite, error=CodesFileError) as temporary, temporary.open("wb") as file:
            codesfile.write(file, codesfile.CodesFile(header, data, self.n_samples))


def make_header(
    info: ModelInfo,
    mode: str,
    n_codebooks: int,
    *,
    channels: int = 1,
    condition: Condition | None = None,
    frame_codebooks: tuple[int, ...] = (),
) -> codesfile.Header:
    """The header of a `.codes` file of a model; `condition` and `frame_codebooks` as in `Codes`."""
    return codesfile.Header(
        model=info.name,
        weights_hash=info.weights_hash,
        mode=mode,
        sample_rate=info.sample_rate,
        hop_length=info.hop_length,
        codebook_sizes=info.codebook_sizes[:n_codebooks],
        divisors=info.divisors[:n_codebooks],
        channels=channels,
        sections={} if condition is None else {SECTION: condition_bytes(condition)},
        frame_codebooks=frame_codebooks,
    )


def open_codes(path: str | os.PathLike[str], *, partial: bool = False) -> Codes:
    """Read a `.codes` file, `codec.open`.

    Args:
        path: the file.
        partial: take the whole good blocks of a damaged file; `Codes.warnings` says what is missing.

    Raises:
        CodesFileError: missing, damaged, truncated, or not a .codes file.
    """
    if not callable(getattr(path, "read", None)):
        check_path(path, CodesFileError)
    partial = as_switch(partial, "partial")
    try:
        file = codesfile.read(path, partial=partial)
    except OSError as failure:
        raise CodesFileError(f"{os.fspath(path)}: cannot be read: {describe_os_error(failure)}") from failure
    header = file.header
    codes = Codes(file.codes, file.n_samples, info_of_header(header), header.mode, file.warnings)
    counts = header.frame_codebooks
    return replace(codes, condition=condition_of_header(header), frame_codebooks=counts)


def condition_of_header(header: codesfile.Header) -> Condition | None:
    """What a file's decoder needs beside its codes, as `Model.stream_decoder` takes it; None where there is none."""
    found = condition_of(header.sections, header.channels)
    return found[0] if found is not None and header.channels == 1 else found


def info_of_header(header: codesfile.Header) -> ModelInfo:
    """What a file says of its model. Delay and prefixes are the model's to know."""
    return ModelInfo(
        name=header.model,
        sample_rate=header.sample_rate,
        hop_length=header.hop_length,
        delay=0,
        codebook_sizes=header.codebook_sizes,
        divisors=header.divisors,
        prefixes=(header.n_codebooks,),
        parameters={},
        licence="",
        weights_hash=header.weights_hash,
    )
