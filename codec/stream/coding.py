"""One direction of a model as its streams see it, one or many: where they begin, what they take, what a step does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from codec.config import ModelInfo
from codec.engine import Audio, Codes, Engine, State
from codec.stream.basequeue import Queue
from codec.stream.checks import check_both, check_chunk, check_codebooks, check_frames, frames_of_mode
from codec.stream.condition import Condition, begin_decoder
from codec.stream.queue import AudioQueue, CodesQueue
from codec.stream.state import Identity, identify
from codec.stream.variable import RateControl

AnyQueue = TypeVar("AnyQueue", bound=Queue)


class Check(Protocol):
    """Refuses what cannot be; `channels` as in `StreamEncoder`, `name` begins an error's text."""

    def __call__(self, data: Any, queue: Any, /, *, channels: int | None, name: str) -> NDArray[Any]:
        """What comes from outside as the queue takes it."""


@dataclass(frozen=True, eq=False)
class Coding(Generic[AnyQueue]):
    """What streams of one direction have in common.

    Attributes:
        kind: encoder or decoder.
        identity: what a state must have in common with the stream that loads it, but for its channels.
        keeps: the network's state goes on; else each step begins with the fresh one.
        nothing: what no step at all gives, of one channel.
        begin: the engine's state before anything, for each of so many rows.
        queue: the queue of a stream of so many rows.
        check: what comes from outside.
        step: one step of a batch of rows, (B, samples) or (B, 2, samples) to (B, Q, frames) or back; the next state.
    """

    kind: str
    identity: Identity
    keeps: bool
    nothing: NDArray[Any]
    begin: Callable[[int], list[State]]
    queue: Callable[[int], AnyQueue]
    check: Check
    step: Callable[[NDArray[Any], State], tuple[NDArray[Any], State]]


def encoding(
    engine: Engine,
    info: ModelInfo,
    *,
    mode: str,
    sample_rate: int,
    n_codebooks: int,
    control: RateControl | None = None,
) -> Coding[AudioQueue]:
    """Audio at `sample_rate` Hz, checked, to `n_codebooks` of codes. Raises: CodesError for an unknown mode.

    With a `control`, whose last count is `n_codebooks`, frames differ; its state is the last of the engine's.
    """
    frames = frames_of_mode(mode)
    frames = frames if info.segments is None else 1
    of_two = info.audio_channels > 1
    n_codebooks = check_codebooks(n_codebooks, info, "n_codebooks")

    def step(audio: Audio, state: State) -> tuple[Codes, State]:
        if control is None:
            return engine.encode_step(audio if of_two else audio[:, None], state, n_codebooks)
        codes, after = engine.encode_step(audio[:, None], state[:-1], n_codebooks)
        sent, credit = control.apply(codes, audio, state[-1], hop_length=info.hop_length)
        return sent, (*after, credit)

    balance = () if control is None else (control.begin(),)
    said: Identity = {"variable": None if control is None else repr(control.target)}
    return Coding(
        "encoder",
        {**identify("encoder", engine, info, mode), "codebooks": n_codebooks, "sample_rate": sample_rate, **said},
        keeps=info.encoder_lookahead == 0,
        nothing=np.zeros((n_codebooks, 0), np.int64),
        begin=lambda n_rows: [(*engine.init_encoder(1), *balance) for _ in range(n_rows)],
        queue=lambda n_rows: AudioQueue(
            info, sample_rate=sample_rate, step=frames, n_channels=n_rows * info.audio_channels
        ),
        check=check_both if of_two else check_chunk,
        step=step,
    )


def decoding(
    engine: Engine, info: ModelInfo, *, mode: str, sample_rate: int, condition: Condition | None = None
) -> Coding[CodesQueue]:
    """Codes to audio at `sample_rate` Hz, with a condition (C, N) where the model takes one; raises as `encoding`."""
    frames = frames_of_mode(mode)
    frames = frames if info.segments is None else 1
    of_two = info.audio_channels > 1

    def step(codes: Codes, state: State) -> tuple[Audio, State]:
        audio, after = engine.decode_step(codes, state)
        return audio if of_two else audio[:, 0], after

    return Coding(
        "decoder",
        {**identify("decoder", engine, info, mode), "sample_rate": sample_rate},
        keeps=info.decoder_lookahead == 0 or info.segments is not None,
        nothing=np.zeros((2, 0) if of_two else 0, np.float32),
        begin=lambda n_rows: begin_decoder(engine, condition, n_rows),
        queue=lambda n_rows: CodesQueue(
            info, sample_rate=sample_rate, step=frames, n_channels=n_rows * info.audio_channels
        ),
        check=partial(check_frames, info=info),
        step=step,
    )
