"""The onnxruntime engine: numpy and onnxruntime alone."""

from __future__ import annotations

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
        if not self._takes_missing and codes.min(initial=0) < 0:
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


class Graph:
    """One graph, opened at its first use: who only encodes does not wait for the decoder."""

    def __init__(self, path: Path, weights_hash: str) -> None:
        self.path, self._weights_hash = path, weights_hash
        self._session: Any = None

    def init_state(self, batch: int) -> State:
        """Zeros."""
        self._open()
        return tuple(np.zeros((batch, *shape), kind) for shape, kind in self._states)

    def run(self, x: Any, state: State) -> tuple[Any, State]:
        """One step."""
        feeds = dict(zip(self._names, (x, *state), strict=True))
        first, *after = self._session.run(self._outputs, feeds)
        return first, tuple(after)

    def _open(self) -> None:
        if self._session is not None:
            return
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors come as exceptions, and are told once
        try:
            self._session = onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own errors have no common base
            reason = str(error).splitlines()[0]
            raise ModelError(f"{self.path}: onnxruntime cannot open it ({reason}); use the torch engine") from None
        found = self._session.get_modelmeta().custom_metadata_map.get("weights_hash")
        if found != self._weights_hash:
            raise ModelError(
                f"{self.path}: made for weights {str(found)[:12]}, not {self._weights_hash[:12]}; export again"
            )
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._names = [x.name for x in inputs]
        self._outputs = [x.name for x in outputs]
        self._states = [(tuple(x.shape[1:]), TYPES[x.type]) for x in inputs[1:]]
