"""Codes to fewer bytes and back: a learned prior says how likely each code is, a range coder writes it down.

The coder is the range variant of asymmetric numeral systems (rANS) of the library `constriction` (`rans`); the
text that this follows is docs/codes-format.md, clause 9, which is enough to write another one. A block stands alone:
nothing that was learned in one block is used in the next, so that damage stays where it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from codec.codesfile.counts import MISSING
from codec.codesfile.header import Header
from codec.codesfile.packing import Codes
from codec.codesfile.prior import Ints, Memory, Prior, read_prior
from codec.codesfile.rans import Coder, open_coder
from codec.codesfile.variable import index_frequencies, indices_of
from codec.errors import CodesError, ModelError

# A code costs 24 bits at most, as no frequency of the coder is under 2^-24.
MAX_BYTES_PER_CODE = 3
MAX_ROWS = 512  # codes whose frequencies are in memory at once, while encoding: 4 MiB a codebook


def check_prior(header: Header, prior: Prior) -> None:
    """Refuse a prior that does not know these codes.

    Raises: CodesError for another model's prior, for codebooks that it does not know, and for codebooks with divisors.
    """
    if not prior.weights_hash.startswith(header.weights_hash):
        raise CodesError(
            f"the prior is of weights {prior.weights_hash[:12]}, the codes are of {header.weights_hash[:12]}; "
            "use the prior that lies in the model's folder"
        )
    if header.codebook_sizes != prior.codebook_sizes[: header.n_codebooks]:
        raise CodesError(f"the prior knows codebooks of {prior.codebook_sizes}, the codes {header.codebook_sizes}")
    if any(divisor != 1 for divisor in header.divisors):
        raise CodesError("codebooks with divisors have no entropy coding yet; write the file without it")


def find_prior(header: Header, folders: Iterable[Path] = ()) -> Prior:
    """The prior that a file's header names, from `folders` (model folders or prior files), or a model that is here.

    Raises: ModelError where it is not there, as one line that says how to get it.
    """
    from codec.hub import EMBEDDED
    from codec.hub.cachefolder import downloaded

    embedded = sorted(path.parent for path in EMBEDDED.glob("*/model.json"))
    for folder in (*folders, *embedded, *downloaded()):
        try:
            prior = read_prior(folder)
        except ModelError:
            continue
        if prior.prior_id == header.prior_id:
            try:
                check_prior(header, prior)
            except CodesError as error:
                raise ModelError(str(error)) from None
            return prior
    raise ModelError(
        f"its codes are packed with prior {header.prior_id} of model {header.model!r}, which is not installed; "
        "install the model that made the file, or give its folder with --model"
    )


def encode_block(prior: Prior, codes: Codes, frame_codebooks: Sequence[int] = ()) -> bytes:
    """The payload of one block of codes (C, Q, f): by frames, in a frame by codebooks, in a codebook by channels.

    With `frame_codebooks`, which of them each frame has comes first in the frame, channel after channel (version 3).
    """
    coder = open_coder()
    indices = indices_of(codes, frame_codebooks) if frame_codebooks else None
    choices = _choices(frame_codebooks)
    memories = _memories(prior, codes)
    step = max(1, MAX_ROWS // len(codes))
    # The stack gives back first what it took last, so the last code goes in first.
    for first in reversed(range(0, len(memories), step)):
        counts = _frequencies(prior, codes[..., first : first + step], memories[first : first + step])
        for frame in reversed(range(min(step, len(memories) - first))):
            at = first + frame
            for symbols, found in reversed([of_book[frame] for of_book in counts]):
                if len(symbols):
                    coder.encode(symbols, found)
            if indices is not None:
                last = indices[:, at - 1] if at else np.full(len(codes), -1)
                coder.encode(indices[:, at], choices[last + 1])
    return coder.payload()


def _memories(prior: Prior, codes: Codes) -> list[Memory]:
    """What stands in memory before each frame of codes (C, Q, f)."""
    memory = prior.start(len(codes))
    memories = []
    for frame in range(codes.shape[-1]):
        memories.append(memory)
        memory = prior.remember(memory, codes[:, :, frame])
    return memories


def _frequencies(prior: Prior, codes: Codes, memories: Sequence[Memory]) -> list[list[tuple[Ints, Ints]]]:
    """Of each codebook and frame of codes (C, Q, f) those (n,) that are there, and their frequencies (n, K)."""
    channels, n_codebooks, n_frames = codes.shape
    joined = Memory(*(np.concatenate([getattr(m, name) for m in memories]) for name in ("last", "before", "slow")))
    context = prior.context(joined)
    rows = codes.transpose(2, 0, 1).reshape(n_frames * channels, n_codebooks)
    of_books = []
    for q in range(n_codebooks):
        there = rows[:, q] != MISSING
        lower, symbols = rows[there, :q], rows[there, q]
        counts = prior.frequencies(context[there], lower)
        edges = np.concatenate([[0], np.cumsum(there.reshape(n_frames, channels).sum(1))])
        of_books.append([(symbols[i:j], counts[i:j]) for i, j in itertools.pairwise(edges)])
    return of_books


def _choices(frame_codebooks: Sequence[int]) -> Ints:
    """Frequencies of a frame's choice by the one before it, none first: (n + 1, n)."""
    n_counts = max(1, len(frame_codebooks))
    return index_frequencies(np.arange(-1, n_counts), n_counts)


def decode_blocks(
    prior: Prior, payloads: Sequence[bytes], shape: tuple[int, int, int], frame_codebooks: Sequence[int] = ()
) -> tuple[Codes, npt.NDArray[np.bool_]]:
    """Codes (n, C, Q, f) of the payloads of n equally long blocks of shape (C, Q, f), and whether each ends well.

    A payload does not end well when something is left after the last code: then it was not written by `encode_block`.
    `frame_codebooks` as there.
    """
    channels, n_codebooks, n_frames = shape
    coders = [open_coder(payload) for payload in payloads]
    codes: Codes = np.zeros((len(coders), *shape), np.int64)
    n_rows = len(coders) * channels
    memory = prior.start(n_rows)
    index, choices = np.full(n_rows, -1), _choices(frame_codebooks)
    counts: Ints = np.full(n_rows, n_codebooks)  # of this frame
    for frame in range(n_frames):
        context = prior.context(memory)
        rows: Ints = np.full((n_rows, n_codebooks), MISSING, np.int64)
        if frame_codebooks:
            index = _take(coders, choices[index + 1], np.arange(n_rows), channels)
            counts = np.array(frame_codebooks)[index]
        for q in range(int(counts.max(initial=0))):
            there = np.flatnonzero(counts > q)
            rows[there, q] = _take(coders, prior.frequencies(context[there], rows[there, :q]), there, channels)
        memory = prior.remember(memory, rows)
        codes[..., frame] = rows.reshape(len(coders), channels, n_codebooks)
    is_whole = [
        coder.is_empty() and not payload.endswith(b"\0") for coder, payload in zip(coders, payloads, strict=True)
    ]
    return codes, np.array(is_whole, bool)


def _take(coders: Sequence[Coder], counts: Ints, rows: Ints, channels: int) -> Ints:
    """The next symbols (n,) of some rows, ascending, with frequencies (n, K); each coder has `channels` of the rows."""
    edges = np.searchsorted(rows, np.arange(len(coders) + 1) * channels)
    parts = [coder.decode(counts[a:b]) for coder, a, b in zip(coders, edges, edges[1:], strict=False) if b > a]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)
