"""Where the steps of a stream begin and end: one after another, or as overlapping windows where a network looks ahead.

A network that looks ahead takes each block for the whole signal. So a step's frames are computed in a window with the
frames before and after them that its receptive field declares, cut at the signal's true beginning and end; what an
inner edge made wrong is dropped. Where a network sees the whole signal, there is one window, at the end.

A causal network may need more than one frame before its first output is right, because what it lets stand before the
signal is made of them. It declares so many frames, and the first step has them; a shorter signal is one step.

>>> reach = Reach(context=2, ahead=1)
>>> [(w.begin, w.first, w.stop) for w in windows(reach, first=0, known=9, step=4, hop_length=1, ended=False)]
[(0, 0, 4), (2, 4, 8)]
>>> [(w.begin, w.first, w.stop) for w in windows(reach, first=8, known=9, step=4, hop_length=1, ended=True)]
[(6, 8, 9)]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from numpy.typing import NDArray

from codec.config import ModelInfo
from codec.errors import ModelError


@dataclass(frozen=True)
class Reach:
    """What a window holds beside its own frames.

    Attributes:
        context: frames before them.
        ahead: input steps (samples, or frames of codes) behind them.
        whole: the whole signal instead.
        start: frames that the first step has at least.
    """

    context: int = 0
    ahead: int = 0
    whole: bool = False
    start: int = 1

    def step(self, first: int, step: int) -> int:
        """Frames of the step that begins at frame `first` where others have `step`."""
        return step if first else -(-max(step, self.start) // step) * step


class Block(NamedTuple):
    """What one step takes, (C, samples) or (C, Q, frames), and which of its output steps to keep."""

    data: NDArray[Any]
    keep: slice


class Window(NamedTuple):
    """Frames `first` to `stop`, computed from frame `begin` on and the input steps before `end`."""

    begin: int
    first: int
    stop: int
    end: int


def encoder_reach(info: ModelInfo) -> Reach:
    """Of a model's encoder; a causal one remembers, and needs no windows. That of a segment is a frame of its own."""
    if info.segments is not None:
        return Reach(ahead=info.segments.overlap)
    return _reach(info.encoder_context, info.encoder_lookahead, info.encoder_start)


def decoder_reach(info: ModelInfo) -> Reach:
    """Of a model's decoder; the engine remembers what segments have in common."""
    if info.segments is not None:
        return Reach()
    return _reach(info.context, info.decoder_lookahead, info.decoder_start)


def check_streams(info: ModelInfo, reach: Reach, what: str) -> None:
    """Raises: ModelError for a model whose `what` needs the whole signal."""
    if reach.whole:
        raise ModelError(
            f"{info.name}: its {what} does not stream: each frame depends on the whole signal (normalisation over time "
            "or a memory without end beside look-ahead); use encode() and decode()"
        )


def windows(reach: Reach, *, first: int, known: int, step: int, hop_length: int, ended: bool) -> list[Window]:
    """The windows that are ready.

    Args:
        reach: of the network.
        first: first frame that was not computed yet.
        known: input steps that came so far; where `ended`, whole frames but for a `ragged` encoder's last one.
        step: frames of a step but for the first.
        hop_length: input steps of a frame.
        ended: no more come.
    """
    ready: list[Window] = []
    if reach.whole:
        stop = -(-known // hop_length)
        return [Window(0, 0, stop, known)] if ended and first < stop else []
    while (stop := first + reach.step(first, step)) * hop_length + reach.ahead <= known or (
        ended and first * hop_length < known
    ):
        stop = min(stop, -(-known // hop_length))
        ready.append(Window(max(0, first - reach.context), first, stop, min(known, stop * hop_length + reach.ahead)))
        first = stop
    return ready


def _reach(context: int | None, ahead: int | None, start: int) -> Reach:
    if ahead == 0:
        return Reach(start=start)
    return Reach(whole=True) if context is None or ahead is None else Reach(context, ahead, start=start)
