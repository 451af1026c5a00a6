"""Export a model and prove that the graphs compute what torch computes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codec.engine import Audio, Codes, Engine
from codec.engine.onnx_engine import OnnxEngine
from codec.engine.torch_engine import TorchEngine
from codec.errors import ModelError
from codec.export.graphs import write_graphs
from codec.golden import MIN_AUDIO_DB, MIN_CODES, shaped_noise
from codec.hub import find_model
from codec.modelfolder import WEIGHTS, ModelFolder, read_model

BLOCK = 50  # frames of a step


@dataclass(frozen=True)
class Agreement:
    """Two engines on the same audio.

    Attributes:
        codes: share of equal codes.
        n_codes: how many were compared.
        audio_db: level of the difference of their audio, decoded from the same codes, below the audio, dB.
    """

    codes: float
    n_codes: int
    audio_db: float


def export_model(name: str, target: Path, audio: Audio | None = None, *, clips: Sequence[Path] = ()) -> Agreement:
    """Copy a model to `target`, write its graphs there, and compare the engines.

    Args:
        name: an embedded model's name, or a model folder.
        target: the folder, made if it is missing.
        audio: (T,) float32 at the model's rate to compare on; a minute of shaped noise when None.
        clips: audio files of speech that set the scales of the 8-bit products, as for `write_graphs`; when empty, the
            clip of the golden vectors that the model comes with.

    Raises:
        ModelError: a layer without an ONNX form, or engines that agree on less than 99.9 % of the codes or 60 dB.
    """
    source = read_model(find_model(name))
    target.mkdir(parents=True, exist_ok=True)
    if source.path.resolve() != target.resolve():
        for file in (source.weights_path, source.path / "model.json", source.path / "README.md"):
            if file.exists():
                shutil.copyfile(file, target / file.name)
        for stale in target.glob("*.onnx"):
            stale.unlink()
        _forget_graphs(target)
    folder = write_graphs(target, clips, golden=source.path)
    agreement = compare(folder, shaped_noise(folder.info.sample_rate, 60) if audio is None else audio)
    if agreement.codes < MIN_CODES or agreement.audio_db < MIN_AUDIO_DB:
        raise ModelError(
            f"{target}: the engines agree on {agreement.codes:.3%} of codes and to {agreement.audio_db:.0f} dB only"
        )
    return agreement


def compare(folder: ModelFolder, audio: Audio) -> Agreement:
    """Step both engines through audio (T,), block by block."""
    engines = (TorchEngine(folder), OnnxEngine(folder))
    size = folder.info.hop_length * BLOCK
    blocks = np.pad(audio, (0, -len(audio) % size)).reshape(-1, 1, 1, size)
    torch_codes, onnx_codes = (_encode(engine, blocks, folder.info.codebooks) for engine in engines)
    torch_audio, onnx_audio = (_decode(engine, torch_codes) for engine in engines)
    noise = float(np.square(torch_audio - onnx_audio, dtype=np.float64).sum())
    power = float(np.square(torch_audio, dtype=np.float64).sum())
    return Agreement(
        codes=float(np.mean(np.array(torch_codes) == np.array(onnx_codes))),
        n_codes=int(np.array(torch_codes).size),
        audio_db=10 * np.log10(max(power, 1e-20) / max(noise, 1e-20)),
    )


def _encode(engine: Engine, blocks: Audio, n_codebooks: int) -> list[Codes]:
    state, found = engine.init_encoder(1), []
    for block in blocks:
        codes, state = engine.encode_step(block, state, n_codebooks)
        found.append(codes)
    return found


def _decode(engine: Engine, blocks: list[Codes]) -> Audio:
    state, parts = engine.init_decoder(1), []
    for codes in blocks:
        audio, state = engine.decode_step(codes, state)
        parts.append(audio)
    return np.concatenate(parts, -1)


def _forget_graphs(folder: Path) -> None:
    """A copied model.json names its old graphs: keep the weights only."""
    file = folder / "model.json"
    data = json.loads(file.read_text())
    data["files"] = {WEIGHTS: data["files"][WEIGHTS]}
    file.write_text(json.dumps(data, indent=1) + "\n")
