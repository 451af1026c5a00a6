"""What runs a model: one small interface on numpy arrays, with an engine for each runtime behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from codec.arguments import shown
from codec.errors import MissingExtraError, ModelError

if TYPE_CHECKING:
    from codec.modelfolder import ModelFolder

Audio = NDArray[np.float32]
Codes = NDArray[np.int64]
State = tuple[NDArray[Any], ...]

ENGINES = ("onnx", "onnx-int8", "torch")
TRANSFORMERS = "transformers"  # the only engine of models that run in transformers' classes


class Engine(Protocol):
    """Runs the networks of one model, block by block. The caller owns the state; the engine remembers nothing."""

    @property
    def name(self) -> str:
        """One of `ENGINES`, or `TRANSFORMERS`."""

    def init_encoder(self, batch: int) -> State:
        """The encoder's state before the first sample, for `batch` rows."""

    def init_decoder(self, batch: int) -> State:
        """The decoder's state before the first frame."""

    def encode_step(self, audio: Audio, state: State, n_codebooks: int) -> tuple[Codes, State]:
        """Audio (B, C, n * hop_length) float32 to codes (B, n_codebooks, n) int64, and the next state.

        C is `ModelInfo.audio_channels`. Where `ModelInfo.ragged`, the last step may have fewer samples, which give n
        codes too.
        """

    def decode_step(self, codes: Codes, state: State) -> tuple[Audio, State]:
        """Codes (B, Q, n) int64 to audio (B, C, n * hop_length) float32, and the next state.

        A frame's last codes may be -1, not sent. Raises: CodesError, ModelError where it decodes no such frames.
        """


def open_engine(folder: ModelFolder, *, engine: str = "auto", device: str = "cpu") -> Engine:
    """The engine of a model.

    Args:
        folder: the model.
        engine: one of `engines_of(folder)`, or `auto`: onnx on the CPU where the model ships graphs, else torch.
        device: cpu, cuda or mps.

    Raises:
        ModelError: an unknown engine or device, or weights that do not fit.
        MissingExtraError: the engine's package is not installed.
    """
    if not isinstance(engine, str) or engine not in ("auto", *ENGINES, TRANSFORMERS):
        raise ModelError(f"engine {shown(engine)}: unknown; use auto or {', '.join(ENGINES)}")
    if not isinstance(device, str):
        raise ModelError(f"device {shown(device)}: unknown; use cpu, cuda or mps")
    if is_wrapped(folder) or engine == TRANSFORMERS:
        return _open_transformers(folder, engine, device)
    if folder.info.segments is None:
        return _open_own(folder, engine, device)
    from codec.engine.segments import in_segments  # most models do not need it

    return in_segments(_open_own(folder, engine, device), folder.info)


def _open_own(folder: ModelFolder, engine: str, device: str) -> Engine:
    if engine == "auto":
        engine = "onnx" if device == "cpu" and folder.has_graphs else "torch"
    if engine.startswith("onnx"):
        return _open_onnx(folder, device, int8=engine == "onnx-int8")
    try:
        from codec.engine.torch_engine import TorchEngine  # heavy: only where a model runs
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError("torch", "torch", need="the torch engine") from None
    return TorchEngine(folder, device=device)


def engines_of(folder: ModelFolder) -> tuple[str, ...]:
    """The engines that have what they need in a model's folder."""
    if is_wrapped(folder):
        return (TRANSFORMERS,)
    lacks = {"onnx": not folder.has_graphs, "onnx-int8": not folder.has_int8_graphs}
    return tuple(name for name in ENGINES if not lacks.get(name))


def is_wrapped(folder: ModelFolder) -> bool:
    """Whether a model runs in transformers' own class."""
    return folder.config.encoder.kind == TRANSFORMERS


def _open_transformers(folder: ModelFolder, engine: str, device: str) -> Engine:
    if not is_wrapped(folder) or engine not in ("auto", TRANSFORMERS):
        raise ModelError(f"{folder.path}: does not run with the engine {engine}; use engine='auto'")
    try:
        from codec.engine.hf_engine import HfEngine  # heavy: only where such a model runs
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "transformers"):
            raise
        raise MissingExtraError(str(error.name), "interop", need=f"the model {folder.info.name}") from None
    return HfEngine(folder, device=device)


def _open_onnx(folder: ModelFolder, device: str, *, int8: bool) -> Engine:
    if not (folder.has_int8_graphs if int8 else folder.has_graphs):
        kind = "8-bit ONNX graphs" if int8 else "ONNX graphs"
        raise ModelError(f"{folder.path}: has no {kind}; write them with `codec export`, or use the torch engine")
    if device != "cpu":
        raise ModelError(f"device {device!r}: the onnx engine runs on the cpu; use engine='torch'")
    from codec.engine.onnx_engine import OnnxEngine  # heavy: only where a model runs

    return OnnxEngine(folder, int8=int8)
