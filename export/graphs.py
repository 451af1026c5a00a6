"""A model folder's networks as `encoder.onnx` and `decoder.onnx`, and the same with 8-bit products, `*.int8.onnx`.

encoder: audio (B, 1, n * hop_length), states -> codes (B, Q, n) of all codebooks, next states
decoder: codes (B, q, n) of any prefix that decodes, states -> audio (B, 1, n * hop_length), next states

Batch and block length are dynamic; `state_0, state_1, ...` become `next_state_0, ...`; the first states are zeros.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto

from codec.engine.torch_engine import load_network
from codec.export.builder import Builder, stored_tensors
from codec.export.emit import emit
from codec.export.emit_bottleneck import emit_decode, emit_encode
from codec.export.writer import Value, Writer
from codec.modelfolder import GRAPHS, INT8_GRAPHS, ModelFolder, read_model, write_model
from codec.network import Network


def write_graphs(path: Path) -> ModelFolder:
    """Write all graphs into a model folder and note them in its model.json.

    Raises:
        ModelError: a folder that cannot be read, or a layer without an ONNX form.
    """
    folder = read_model(path)
    network = load_network(folder)
    metadata = {"model": folder.info.name, "weights_hash": folder.info.weights_hash}
    for int8, names in ((False, GRAPHS), (True, INT8_GRAPHS)):
        for name, build in zip(names, (_encoder, _decoder), strict=True):
            graph = Builder(stored_tensors(folder.weights_path))
            writer = Writer(graph, {module: key for key, module in network.named_modules()}, int8=int8)
            build(writer, network)
            writer.write_states()
            onnx.save(graph.model(Path(name).stem, metadata), path / name)
            onnx.checker.check_model(str(path / name))
    return write_model(path, folder.info, folder.config)


def _encoder(writer: Writer, network: Network) -> None:
    audio = writer.graph.input("audio", ["batch", 1, "samples"])
    row = writer.graph.op("Unsqueeze", audio, writer.graph.constant([2]))
    codes = emit_encode(writer, network.bottleneck, emit(writer, network.encoder, Value(row, 1)))
    writer.graph.output("codes", codes, ["batch", network.bottleneck.n_codebooks, "frames"], TensorProto.INT64)


def _decoder(writer: Writer, network: Network) -> None:
    codes = writer.graph.input("codes", ["batch", "codebooks", "frames"], TensorProto.INT64)
    audio = emit(writer, network.decoder, emit_decode(writer, network.bottleneck, codes))
    row = writer.graph.op("Squeeze", writer.first(audio), writer.graph.constant([2]))
    writer.graph.output("audio", row, ["batch", 1, "samples"])
