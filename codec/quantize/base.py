"""The contract of every bottleneck.

A bottleneck turns a latent (B, D, F) into codes (B, Q, F) and back. Frames are independent, so it needs no state. A new
kind writes `quantize` and `dequantize`; the doors `forward`, `encode` and `decode` are the same for all.

>>> check_codes(torch.tensor([[[0, 3, 4]]]), sizes=(4,))
Traceback (most recent call last):
codec.errors.CodesError: code 4 at row 0, codebook 0, frame 2: this codebook has entries 0 to 3
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from codec.codesfile.counts import allowed_counts, is_wrong
from codec.errors import CodesError
from codec.quantize.search import Table, make_table

if TYPE_CHECKING:
    from codec.quantize.vq import VectorQuantizer


# What `Bottleneck.tables` gave, in code order; None: computed at each search.
Tables = tuple[Table, ...] | None


@dataclass(frozen=True)
class Quantized:
    """What one pass gives.

    Attributes:
        latent: (B, D, F), the sum of the chosen entries.
        codes: (B, Q, F) int64, in code order.
        loss: scalar, commitment (and, for codebooks trained by gradient, codebook loss), mean over all codebooks;
            those of stages not started count as 0, so that a codebook's weight does not change when others start.
        inputs: per codebook, in code order, what it was asked to match, (B * F, d), detached. A codebook whose stage
            is not started has its input only if it is next to start, else None.
        parts: (B, D', F) of each part that is to mean something of its own, with the gradient to its codebooks' inputs;
            empty where there are none.
    """

    latent: Tensor
    codes: Tensor
    loss: Tensor
    inputs: tuple[Tensor | None, ...]
    parts: tuple[Tensor, ...] = ()


def join(passes: Sequence[Quantized]) -> Quantized:
    """Passes of the parts of a batch as one of the whole, for who learns from codes and inputs; without gradients.

    Codes and inputs are those of the whole batch; `parts` are left out.
    """
    inputs = zip(*(x.inputs for x in passes), strict=True)
    return Quantized(
        torch.cat([x.latent.detach() for x in passes]),
        torch.cat([x.codes for x in passes]),
        torch.stack([x.loss.detach() for x in passes]).mean(),
        tuple(None if None in found else torch.cat(found) for found in inputs),
    )


class Bottleneck(nn.Module, ABC):
    """Latent in, codes out, and back.

    Stages: codebooks that start together. A stage learns from what the ones before it leave over: it starts after them.

    Attributes:
        n_passed: last channels of the latent that no code carries, because the decoder gets them as its condition.
        own_gradient: `quantize` lets the decoder's gradient through to the encoder itself, by way of what it learns.
        own_bypass: `quantize` itself lets the latent pass where no stage is started; else it passes as it is.
        divisors: frames per code of each codebook, in code order; empty where all are 1. The code of several frames
            stands at each of them.
    """

    n_passed: int = 0
    own_gradient: bool = False
    own_bypass: bool = False
    divisors: tuple[int, ...] = ()

    @property
    @abstractmethod
    def codebooks(self) -> tuple[VectorQuantizer, ...]:
        """All codebooks, in code order."""

    @property
    @abstractmethod
    def stages(self) -> tuple[int, ...]:
        """The stage of each codebook, in code order."""

    @property
    @abstractmethod
    def prefixes(self) -> tuple[int, ...]:
        """How many codebooks, from the first on, decode alone; the last is all of them."""

    @abstractmethod
    def quantize(self, latent: Tensor, levels: Tensor, n_stages: int, tables: Tables = None) -> Quantized:
        """One pass without gradient tricks.

        Args:
            latent: (B, D, F) float32.
            levels: (B,) codebooks in use for each row, each one of `prefixes`. Codes and loss are of all started
                codebooks whatever it says.
            n_stages: stages that are started; the others add nothing, and their codes are 0.
            tables: what `tables()` gave, if the codebooks have not changed since.
        """

    @abstractmethod
    def dequantize(self, codes: Tensor) -> Tensor:
        """Checked codes (B, Q', F) of a whole prefix to the latent (B, D, F)."""

    @property
    def n_codebooks(self) -> int:
        """Codebooks that it owns."""
        return len(self.codebooks)

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Entries of each codebook, in code order."""
        return tuple(book.codebook_size for book in self.codebooks)

    def tables(self) -> tuple[Table, ...]:
        """Of each codebook, what a search needs to know of it: to compute it once, while no codebook changes."""
        return tuple(make_table(book.embed, cosine=book.cosine) for book in self.codebooks)

    @property
    def n_stages(self) -> int:
        """Stages in all."""
        return max(self.stages) + 1

    @final  # type: ignore[misc]  # torch declares forward as an attribute
    def forward(self, latent: Tensor, levels: Tensor | None = None, *, n_stages: int | None = None) -> Quantized:
        """One pass for training.

        The straight-through gradient goes once around the whole bottleneck: the encoder gets the decoder's gradient
        once, and the commitment of every level reaches it. (Around each level, either the commitments of the later
        levels vanish or the gradient is multiplied by their number.)

        Args:
            latent: (B, D, F).
            levels: (B,) codebooks in use for each row, each one of `prefixes` (not checked: that would wait for the
                device); all when None.
            n_stages: stages that are started; all when None. With none started the latent passes as it is.
        """
        n_stages = self.n_stages if n_stages is None else n_stages
        if levels is None:
            levels = torch.full((latent.shape[0],), self.n_codebooks, device=latent.device)
        # Distances need float32: half precision picks other codes.
        with torch.autocast(latent.device.type, enabled=False):
            full = latent.float()
            # A diverged step must end in a loss that the trainer skips, not in a search that refuses NaN.
            result = self.quantize(full.nan_to_num(0.0, 0.0, 0.0), levels, n_stages)
            around = result.latent if self.own_gradient else full + (result.latent - full).detach()
            hard = full if n_stages == 0 and not self.own_bypass else around
        return Quantized(hard, result.codes, result.loss, result.inputs, result.parts)

    @final
    def encode(self, latent: Tensor, n_codebooks: int | None = None, tables: Tables = None) -> Tensor:
        """Latent (B, D, F) to codes (B, n_codebooks, F), int64.

        Args:
            latent: (B, D, F).
            n_codebooks: how many; all when None.
            tables: what `tables()` gave, if the codebooks have not changed since.

        Raises:
            CodesError: a prefix that this bottleneck cannot decode.
        """
        count = self.check_prefix(n_codebooks)
        levels = torch.full((latent.shape[0],), count, device=latent.device)
        with torch.no_grad(), torch.autocast(latent.device.type, enabled=False):
            return self.quantize(latent.float(), levels, self._stages_of(count), tables).codes[:, :count]

    @final
    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, Q', F), any integer type, to the latent (B, D, F).

        A frame's last codes may be -1: it decodes as the prefix before them does alone.

        Raises:
            CodesError: a wrong shape or type, a prefix that this bottleneck cannot decode, a code out of range.
        """
        if codes.ndim != 3 or codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
            shape = tuple(codes.shape)
            raise CodesError(f"codes of shape {shape}, {codes.dtype}: expected (batch, codebooks, frames) integers")
        codes = codes.long()
        count = self.check_prefix(codes.shape[1])
        divisors = self.divisors or (1,) * self.n_codebooks
        allowed = allowed_counts(self.prefixes, divisors[:count])
        if not check_codes(codes, self.codebook_sizes[:count], allowed):
            return self.dequantize(codes)
        counts = (codes >= 0).sum(1, keepdim=True)  # (B, 1, F)
        latent = self.dequantize(codes.clamp(min=0))
        for fewer in sorted(set(torch.unique(counts).tolist()) - {count}):
            latent = torch.where(counts == fewer, self.dequantize(codes[:, :fewer].clamp(min=0)), latent)
        return latent

    def _stages_of(self, n_codebooks: int) -> int:
        return max(self.stages[:n_codebooks]) + 1

    def check_prefix(self, n_codebooks: int | None) -> int:
        """The number of codebooks to use; None is all.

        Raises:
            CodesError: not one of `prefixes`.
        """
        count = self.n_codebooks if n_codebooks is None else n_codebooks
        if count not in self.prefixes:
            raise CodesError(f"codebooks={count}: this model codes with {', '.join(map(str, self.prefixes))} codebooks")
        return count


def check_codes(codes: Tensor, sizes: tuple[int, ...], allowed: tuple[int, ...] = ()) -> bool:
    """Check codes (B, Q, F) against the sizes of their Q codebooks; whether some are missing, -1.

    `allowed` are the numbers of codebooks that a frame may have; all when empty.

    Raises:
        CodesError: names the first code out of range and its place.
    """
    limit = torch.tensor(sizes, device=codes.device)[:, None]
    wrong = (codes < 0) | (codes >= limit)
    if not bool(wrong.any()):
        return False
    places = is_wrong(codes.cpu().numpy(), sizes, allowed)
    if places.any():
        row, book, frame = (int(indices[0]) for indices in places.nonzero())
        raise CodesError(
            f"code {int(codes[row, book, frame])} at row {row}, codebook {book}, frame {frame}: "
            f"this codebook has entries 0 to {sizes[book] - 1}"
        )
    return True
