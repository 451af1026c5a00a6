"""The onnxruntime engine: numpy and onnxruntime alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnxruntime

from codec.engine import Audio, Codes, State
from codec.errors import ModelError
from codec.modelfolder import GRAPHS, INT8_GRAPHS, ModelFolder

# onnxruntime's names of the types that a state can have
TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
SAME = 0.01  # of the loudest sample: 8-bit products round, another entry is heard


class OnnxEngine:
    """Runs a model's graphs on the CPU, on one thread: the same sums in the same order on any number of cores.

    Args:
        folder: the model.
        int8: matrix products in 8 bits, from their own graphs: faster; other codes.
    """

    def __init__(self, folder: ModelFolder, *, int8: bool = False) -> None:
        self.name = "onnx-int8" if int8 else "onnx"
        encoder, decoder = INT8_GRAPHS if int8 else GRAPHS
        self._encoder = Graph(folder.path / encoder, folder.info.weights_hash)
        self._decoder = Graph(folder.path / decoder, folder.info.weights_hash)
        self._takes_missing = False  # not known yet

    def init_encoder(self, batch: int) -> State:
        """As `Engine`."""
        return self._encoder.init_state(batch)

    def init_decoder(self, batch: int) -> State:
        """As `Engine`."""
        return self._decoder.init_state(batch)

    def encode_step(self, audio: Audio, state: State, n_codebooks: int) -> tuple[Codes, State]:
        """As `Engine`."""
        codes, after = self._encoder.run(audio, state)
        return codes[:, :n_codebooks], after

    def decode_step(self, codes: Codes, state: State) -> tuple[Audio, State]:
        """As `Engine`."""
        if not self._takes_missing and codes.size and codes.item(codes.argmin()) < 0:  # as `check_codes`
            self._try_missing(codes)
        return self._decoder.run(codes, state)

    def __reduce__(self) -> NoReturn:
        """A session has no form that could be copied or sent to another process. Raises: ModelError."""
        raise ModelError("a loaded model cannot be copied or pickled; call codec.load in each process")

    def _try_missing(self, codes: Codes) -> None:
        """Refuse codes of -1 where the graph, of an older build or another family, takes them for something else."""
        n_sent = int((codes >= 0).sum(1).min())
        sent = np.arange(codes.shape[1])[None, :, None] < n_sent
        probe = np.where(sent, 0, -1).repeat(codes.shape[2], 2)
        heard, wanted = (self._decoder.run(x, self.init_decoder(1))[0] for x in (probe, probe[:, :n_sent]))
        if np.abs(heard - wanted).max() > SAME * np.abs(wanted).max():
            raise ModelError(
                f"{self._decoder.path}: decodes no frames of fewer codebooks; export again, or use the torch engine"
            )
        self._takes_missing = True


@dataclass(frozen=True, eq=False)
class Opened:
    """A graph that onnxruntime has opened, with the names, shapes and types of what goes in and comes out."""

    run: Callable[..., list[Any]]
    inputs: tuple[str, ...]
    outputs: list[str]
    states: tuple[tuple[tuple[int, ...], type], ...]


class Graph:
    """One graph, opened at its first use: who only encodes does not wait for the decoder. Threads may share it."""

    def __init__(self, path: Path, weights_hash: str) -> None:
        self.path, self._weights_hash = path, weights_hash
        self._opened: Opened | None = None
        self._lock = threading.Lock()

    def init_state(self, batch: int) -> State:
        """Zeros, for `batch` rows. Raises: ModelError: the graph cannot be opened, or is of other weights."""
        return tuple(np.zeros((batch, *shape), kind) for shape, kind in self._open().states)

    def run(self, x: Any, state: State) -> tuple[Any, State]:
        """One step: the graph's first output and the next state. Raises: ModelError as `init_state`."""
        opened = self._opened or self._open()
        first, *after = opened.run(opened.outputs, dict(zip(opened.inputs, (x, *state), strict=True)))
        return first, tuple(after)

    def _open(self) -> Opened:
        if self._opened is None:
            with self._lock:  # the first threads come together; a session takes tenths of a second and much memory
                self._opened = self._opened or self._read()
        return self._opened

    def _read(self) -> Opened:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors come as exceptions, and are told once
        try:
            session = onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own errors have no common base
            reason = str(error).splitlines()[0]
            raise ModelError(f"{self.path}: onnxruntime cannot open it ({reason}); use the torch engine") from None
        found = session.get_modelmeta().custom_metadata_map.get("weights_hash")
        if found != self._weights_hash:
            raise ModelError(
                f"{self.path}: made for weights {str(found)[:12]}, not {self._weights_hash[:12]}; export again"
            )
        inputs = session.get_inputs()
        states = tuple((tuple(x.shape[1:]), TYPES[x.type]) for x in inputs[1:])
        return Opened(session.run, tuple(x.name for x in inputs), [x.name for x in session.get_outputs()], states)
