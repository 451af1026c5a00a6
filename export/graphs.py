"""A model folder's networks as `encoder.onnx` and `decoder.onnx`, and the same with 8-bit products, `*.int8.onnx`.

encoder: audio (B, C, n * hop_length), states -> codes (B, Q, n) of all codebooks, next states
decoder: codes (B, q, n) of any prefix that decodes, states -> audio (B, C, n * hop_length), next states

C is 1, or 2 where the network codes two channels together. Where a model codes in segments, a step is a segment at unit
loudness, and the codebooks are those of the network alone.
Batch and block length are dynamic; `state_0, state_1, ...` become `next_state_0, ...`; the first states are zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
from onnx import TensorProto

from codec.engine import is_wrapped
from codec.engine.torch_engine import load_network
from codec.errors import ModelError
from codec.export.builder import OPSET, Builder, check_opset, stored_tensors
from codec.export.calibrate import BLOCK, observe, read_clips
from codec.export.emit import emit
from codec.export.emit_bottleneck import emit_decode, emit_encode
from codec.export.int8 import Products, Seen, find_form
from codec.export.writer import Value, Writer
from codec.modelfolder import GRAPHS, INT8_GRAPHS, ModelFolder, read_model, write_model
from codec.network import Network

OBSERVED = "observed.onnx"  # a graph that is there while the 8-bit ones are made
Build = Callable[[Writer, Network], None]


def write_graphs(
    path: Path, clips: Sequence[Path] = (), *, golden: Path | None = None, int8: bool = False, opset: int = OPSET
) -> ModelFolder:
    """Write the graphs into a model folder, instead of those that lie there, and note them in its model.json.

    Args:
        path: the folder.
        clips: audio files of speech, the first 3 seconds of which set the scales of the 8-bit products; when empty, the
            clip of the golden vectors, or shaped noise in a folder without. The same clips give the same graphs.
        golden: the folder whose golden vectors are meant; `path` when None.
        int8: those with 8-bit products too.
        opset: version of the standard's operators, one of `codec.export.builder.OPSETS`.

    Raises:
        ModelError: a folder that cannot be read, another opset, or a layer without an ONNX form.
        AudioError: a clip that cannot be read.
    """
    check_opset(opset)
    folder = read_model(path)
    if is_wrapped(folder):
        raise ModelError(f"{path}: runs in transformers' own class, which has no ONNX form here; use it as it is")
    source = _Source(folder, load_network(folder), opset)
    for name, build in zip(GRAPHS, (_encoder, _decoder), strict=True):
        source.write(build, name)
    if int8:
        audio = read_clips(folder.info, clips, golden or path)
        audio = audio.repeat(folder.info.audio_channels, 1)
        codes = source.write_int8(_encoder, INT8_GRAPHS[0], [audio], BLOCK * folder.info.hop_length)
        shortest = codes[:, : folder.info.prefixes[0]]
        source.write_int8(_decoder, INT8_GRAPHS[1], [codes, shortest], BLOCK)
    else:
        for name in INT8_GRAPHS:
            (path / name).unlink(missing_ok=True)
    return write_model(path, folder.info, folder.config)


@dataclass(frozen=True)
class _Source:
    """What graphs are made from."""

    folder: ModelFolder
    network: Network
    opset: int

    def write(self, build: Build, name: str, products: Products | None = None) -> None:
        """One graph as a file; products without forms become outputs."""
        folder, network = self.folder, self.network
        graph = Builder(stored_tensors(folder.weights_path), opset=self.opset)
        writer = Writer(graph, {module: key for key, module in network.named_modules()}, int8=products)
        build(writer, network)
        writer.write_states()
        if products is not None and products.forms is None:
            for i, (rows, weight) in enumerate(products.inputs):
                graph.output(f"rows_{i}", rows, None)
                graph.output(f"weight_{i}", weight, None)
        metadata = {"model": folder.info.name, "weights_hash": folder.info.weights_hash}
        onnx.save(graph.model(Path(name).stem, metadata), folder.path / name)
        if name != OBSERVED:  # its outputs have no shape, which onnxruntime allows and the standard does not
            onnx.checker.check_model(str(folder.path / name))

    def write_int8(self, build: Build, name: str, inputs: list[npt.NDArray[Any]], block: int) -> npt.NDArray[Any]:
        """Observe the network on the inputs, then write it with 8-bit products; what it gave for the first input."""
        products = Products()
        observed = self.folder.path / OBSERVED
        try:
            self.write(build, OBSERVED, products)
            runs = [observe(observed, len(products.inputs), x, block) for x in inputs]
        finally:
            observed.unlink(missing_ok=True)
        forms = [
            find_form(Seen.joined(parts), after_norm=rows in products.norms)
            for parts, (rows, _) in zip(zip(*(seen for _, seen in runs), strict=True), products.inputs, strict=True)
        ]
        self.write(build, name, Products(forms))
        return runs[0][0]


def _encoder(writer: Writer, network: Network) -> None:
    channels = network.config.channels
    audio = writer.graph.input("audio", ["batch", channels, "samples"])
    row = writer.graph.op("Unsqueeze", audio, writer.graph.constant([2]))
    codes = emit_encode(writer, network.bottleneck, emit(writer, network.encoder, Value(row, channels)))
    writer.graph.output("codes", codes, ["batch", network.bottleneck.n_codebooks, "frames"], TensorProto.INT64)


def _decoder(writer: Writer, network: Network) -> None:
    codes = writer.graph.input("codes", ["batch", "codebooks", "frames"], TensorProto.INT64)
    audio = emit(writer, network.decoder, emit_decode(writer, network.bottleneck, codes))
    row = writer.graph.op("Squeeze", writer.first(audio), writer.graph.constant([2]))
    writer.graph.output("audio", row, ["batch", network.config.channels, "samples"])
