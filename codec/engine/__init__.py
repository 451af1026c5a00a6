"""What runs a model: one small interface on numpy arrays, with an engine for each runtime behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from codec.errors import MissingExtraError, ModelError

if TYPE_CHECKING:
    from codec.modelfolder import ModelFolder

Audio = NDArray[np.float32]
Codes = NDArray[np.int64]
State = tuple[NDArray[Any], ...]

ENGINES = ("torch",)


class Engine(Protocol):
    """Runs the networks of one model, block by block. The caller owns the state; the engine remembers nothing."""

    @property
    def name(self) -> str:
        """`torch`."""

    def init_encoder(self, batch: int) -> State:
        """The encoder's state before the first sample, for `batch` rows."""

    def init_decoder(self, batch: int) -> State:
        """The decoder's state before the first frame."""

    def encode_step(self, audio: Audio, state: State, n_codebooks: int) -> tuple[Codes, State]:
        """Audio (B, 1, n * hop_length) float32 to codes (B, n_codebooks, n) int64, and the next state."""

    def decode_step(self, codes: Codes, state: State) -> tuple[Audio, State]:
        """Codes (B, Q, n) int64 to audio (B, 1, n * hop_length) float32, and the next state."""


def open_engine(folder: ModelFolder, *, engine: str = "auto", device: str = "cpu") -> Engine:
    """The engine of a model.

    Args:
        folder: the model.
        engine: `torch`, or `auto` for the best one that is installed.
        device: cpu, cuda or mps.

    Raises:
        ModelError: an unknown engine or device, or weights that do not fit.
        MissingExtraError: the engine's package is not installed.
    """
    if engine not in ("auto", *ENGINES):
        raise ModelError(f"engine {engine!r}: unknown; use auto or {', '.join(ENGINES)}")
    try:
        from codec.engine.torch_engine import TorchEngine  # heavy: only where a model runs
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError("torch", "torch", need="the torch engine") from None
    return TorchEngine(folder, device=device)
