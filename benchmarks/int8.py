"""What int8 weights would cost and give: size, time of a 20 ms step, agreement of codes, PESQ and STOI.

    python benchmarks/int8.py FOLDER_OF_AUDIO [--model MODEL] [--files N]

The weights of matrix products become int8, one scale for each output channel, with 7 bits (`reduce_range`), because the
8-bit products of CPUs without VNNI saturate; what goes in is quantized when it is known (dynamic). The codebook search
stays float32: its products are `Gemm` nodes, which are left alone. So does the inverse STFT.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic

from codec import audio as audio_io
from codec.engine import Audio, Codes
from codec.engine.onnx_engine import OnnxEngine
from codec.export.runtime import export_model
from codec.hub import find_model
from codec.modelfolder import DECODER, ENCODER, ModelFolder, read_model
from codec.quality.metrics import pesq_wb, stoi

N_STEPS = 400  # of one frame, for the time
SECONDS = 8  # of each file


def fold(source: Path, target: Path) -> None:
    """The graph with its weights inside, as float32 constants: what the quantizer can see."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    graph, metadata = onnx.load(target), onnx.load(source, load_external_data=False).metadata_props
    for node in graph.graph.node:
        node.name = node.output[0]
    del graph.metadata_props[:]
    graph.metadata_props.extend(metadata)
    onnx.save(graph, target)


def quantize(folder: ModelFolder, target: Path) -> ModelFolder:
    """The same model with int8 weights in its graphs."""
    target.mkdir()
    for name in (ENCODER, DECODER):
        fold(folder.path / name, target / f"float_{name}")
        products = [x.name for x in onnx.load(target / f"float_{name}").graph.node if x.op_type == "MatMul"]
        quantize_dynamic(
            target / f"float_{name}",
            target / name,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=products[-1:] if name == DECODER else [],  # the inverse STFT
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
    return replace(folder, path=target)


def run(engine: OnnxEngine, audio: Audio, n_codebooks: int) -> tuple[Codes, Audio]:
    """Audio (T,) through one engine in one block, with its own codes."""
    codes, _ = engine.encode_step(audio[None, None], engine.init_encoder(1), n_codebooks)
    return codes, engine.decode_step(codes, engine.init_decoder(1))[0][0, 0]


def time_steps(engines: dict[str, OnnxEngine], hop: int, n_codebooks: int) -> None:
    """Steps of one frame, the engines in turn: the machine's other work meets both."""
    audio = np.random.default_rng(0).standard_normal((1, 1, hop)).astype(np.float32) * 0.1
    codes = np.zeros((1, n_codebooks, 1), np.int64)
    spent: dict[str, list[float]] = {f"{name} {part}": [] for name in engines for part in ("encode", "decode")}
    states = {name: [engine.init_encoder(1), engine.init_decoder(1)] for name, engine in engines.items()}
    for _ in range(N_STEPS):
        for name, engine in engines.items():
            start = time.perf_counter()
            _, states[name][0] = engine.encode_step(audio, states[name][0], n_codebooks)
            middle = time.perf_counter()
            _, states[name][1] = engine.decode_step(codes, states[name][1])
            spent[f"{name} encode"].append(middle - start)
            spent[f"{name} decode"].append(time.perf_counter() - middle)
    for name, times in spent.items():
        print(f"{name:16} min {min(times) * 1e3:.3f} ms, p20 {np.quantile(times, 0.2) * 1e3:.3f} ms")


def compare(engines: dict[str, OnnxEngine], folder: ModelFolder, files: list[Path]) -> None:
    """Codes, PESQ and STOI of both engines on real speech."""
    info, scores, equal = folder.info, {name: [] for name in engines}, []
    for file in files:
        audio, rate = audio_io.read(file)
        if rate != info.sample_rate:
            continue
        clip = audio[0][: SECONDS * rate]
        padded = np.pad(clip, (0, info.delay + -(len(clip) + info.delay) % info.hop_length))
        found = {name: run(engine, padded, info.codebooks) for name, engine in engines.items()}
        equal.append(np.mean(found["fp32"][0] == found["int8"][0], axis=(0, 2)))
        for name, (_, made) in found.items():
            made = made[info.delay : info.delay + len(clip)]
            scores[name].append((pesq_wb(clip, made), stoi(clip, made)))
    print(f"{len(equal)} files, equal codes by codebook: {np.round(np.mean(equal, axis=0), 3).tolist()}")
    for name, pairs in scores.items():
        pesq, intelligible = np.mean(pairs, axis=0)
        print(f"{name} PESQ-WB {pesq:.3f}, STOI {intelligible:.4f}")


def main() -> None:
    """Print the study."""
    parser = argparse.ArgumentParser(description="int8 weights against float32")
    parser.add_argument("audio", type=Path)
    parser.add_argument("--model", default="default_16k")
    parser.add_argument("--files", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        export_model(str(find_model(options.model)), Path(work) / "fp32", np.zeros(16000, np.float32) + 0.01)
        folder = read_model(Path(work) / "fp32")
        small = quantize(folder, Path(work) / "int8")
        sizes = [(small.path / name).stat().st_size for name in (ENCODER, DECODER)]
        print(f"weights fp16 {folder.weights_path.stat().st_size / 1e6:.1f} MB, int8 graphs {sum(sizes) / 1e6:.1f} MB")
        engines = {"fp32": OnnxEngine(folder), "int8": OnnxEngine(small)}
        time_steps(engines, folder.info.hop_length, folder.info.codebooks)
        compare(engines, folder, sorted(options.audio.glob("*.flac"))[: options.files])


if __name__ == "__main__":
    main()
