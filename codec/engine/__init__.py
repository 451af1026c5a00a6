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

ENGINES = ("onnx", "torch")


class Engine(Protocol):
    """Runs the networks of one model, block by block. The caller owns the state; the engine remembers nothing."""

    @property
    def name(self) -> str:
        """`onnx` or `torch`."""

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
        engine: `onnx`, `torch`, or `auto`: onnx on the CPU where the model ships graphs, else torch.
        device: cpu, cuda or mps.

    Raises:
        ModelError: an unknown engine or device, or weights that do not fit.
        MissingExtraError: the engine's package is not installed.
    """
    if engine not in ("auto", *ENGINES):
        raise ModelError(f"engine {engine!r}: unknown; use auto or {', '.join(ENGINES)}")
    if engine == "auto":
        engine = "onnx" if device == "cpu" and folder.has_graphs else "torch"
    if engine == "onnx":
        return _open_onnx(folder, device)
    try:
        from codec.engine.torch_engine import TorchEngine  # heavy: only where a model runs
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError("torch", "torch", need="the torch engine") from None
    return TorchEngine(folder, device=device)


def _open_onnx(folder: ModelFolder, device: str) -> Engine:
    if not folder.has_graphs:
        raise ModelError(f"{folder.path}: has no ONNX graphs; write them with `codec export`, or use the torch engine")
    if device != "cpu":
        raise ModelError(f"device {device!r}: the onnx engine runs on the cpu; use engine='torch'")
    from codec.engine.onnx_engine import OnnxEngine  # heavy: only where a model runs

    return OnnxEngine(folder)
