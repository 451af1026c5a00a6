"""Export a model and prove that the graphs compute what torch computes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codec.engine import Audio, Codes, Engine
from codec.engine.onnx_engine import OnnxEngine
from codec.engine.segments import in_segments
from codec.engine.torch_engine import TorchEngine
from codec.errors import ModelError
from codec.export.builder import OPSET, check_opset
from codec.export.folder import MODEL_JSON, room_beside
from codec.export.graphs import write_graphs
from codec.export.speech import Speech, read_speech
from codec.golden import GOLDEN, MIN_AUDIO_DB, MIN_CODES
from codec.hub import find_model
from codec.modelfolder import ModelFolder, read_facts, read_model

CARD = "README.md"
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


@dataclass(frozen=True)
class Exported:
    """What an export found.

    Attributes:
        agreement: of the torch engine and the float32 graphs.
        int8: of the float32 graphs and those with 8-bit products; None where these were not asked for.
        speech: what it was measured on, in words.
    """

    agreement: Agreement
    int8: Agreement | None
    speech: str


def export_model(
    name: str,
    target: Path,
    audio: Speech | None = None,
    *,
    clips: Sequence[Path] = (),
    int8: bool = False,
    opset: int = OPSET,
) -> Exported:
    """A model with its graphs in `target`, after the engines were compared; all of it or nothing.

    The prior is copied; golden vectors are not, since they tell what other graphs gave, but stay where `target` is the
    model's own folder.

    Args:
        name: an embedded model's name, or a model folder.
        target: the folder, made if it is missing; graphs that lie there go.
        audio: to compare on; a minute of the model's golden clip when None.
        clips: audio files of speech that set the scales of the 8-bit products, as for `write_graphs`; when empty, the
            clip of the golden vectors that the model comes with.
        int8: graphs with 8-bit products too.
        opset: version of the standard's operators, one of `codec.export.builder.OPSETS`.

    Raises:
        ModelError: a layer without an ONNX form, another opset, or engines that agree on less than 99.9 % of the codes
            or 60 dB.
        AudioError: a clip that cannot be read.
    """
    check_opset(opset)
    source = read_model(find_model(name))
    if target.exists() and not target.is_dir():
        raise ModelError(f"{target}: is a file; name a folder")
    speech = read_speech(source.info, (), source.path) if audio is None else audio
    with room_beside(target) as staged:
        is_same = target.exists() and source.path.samefile(target)
        _stage(source, staged, is_same=is_same)
        folder = write_graphs(staged, clips, golden=source.path, int8=int8, opset=opset)
        agreement = compare(folder, speech.audio)
        if agreement.codes < MIN_CODES or agreement.audio_db < MIN_AUDIO_DB:
            heard = f"{agreement.codes:.3%} of codes and to {agreement.audio_db:.0f} dB"
            raise ModelError(f"{target}: nothing written: torch and the graphs agree on {heard} only; please report it")
        low = compare(folder, speech.audio, int8=True) if int8 else None
        _move(staged, target, is_same=is_same)
    return Exported(agreement, low, speech.source)


def compare(folder: ModelFolder, audio: Audio, *, int8: bool = False) -> Agreement:
    """Step two engines through audio (T,), block by block: torch and onnx, or onnx and its 8-bit products."""
    info, full = folder.info, OnnxEngine(folder)
    pair = (full, OnnxEngine(folder, int8=True)) if int8 else (TorchEngine(folder), full)
    first, second = (in_segments(engine, info) for engine in pair)
    size = info.hop_length * BLOCK if info.segments is None else info.segments.length
    blocks = np.pad(audio, (0, -len(audio) % size)).reshape(-1, 1, 1, size)
    if info.audio_channels > 1:  # unlike ones
        blocks = np.concatenate((blocks, blocks[..., ::-1]), 2)
    codes, other_codes = (_encode(engine, blocks, info.codebooks) for engine in (first, second))
    made, other = (_decode(engine, codes) for engine in (first, second))
    noise = float(np.square(made - other, dtype=np.float64).sum())
    power = float(np.square(made, dtype=np.float64).sum())
    return Agreement(
        codes=float(np.mean(np.array(codes) == np.array(other_codes))),
        n_codes=int(np.array(codes).size),
        audio_db=float(10 * np.log10(max(power, 1e-20) / max(noise, 1e-20))),
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


def _stage(source: ModelFolder, room: Path, *, is_same: bool) -> None:
    """All of a model but its graphs, in a folder where new ones can be written; model.json names these files alone."""
    files = read_facts(source.path)[1]
    kept = [name for name in files if not name.endswith(".onnx") and (is_same or name != GOLDEN)]
    for name in (*kept, CARD):
        if (source.path / name).exists():
            shutil.copyfile(source.path / name, room / name)  # no second name: onnx refuses weights that have one
    data = json.loads((source.path / MODEL_JSON).read_text())
    data["files"] = {name: files[name] for name in kept}
    (room / MODEL_JSON).write_text(json.dumps(data, indent=1) + "\n")


def _move(room: Path, target: Path, *, is_same: bool) -> None:
    """What is new to its place; what it replaces goes first, model.json comes last."""
    target.mkdir(parents=True, exist_ok=True)
    for stale in (*target.glob("*.onnx"), *([] if is_same else [target / GOLDEN])):
        stale.unlink(missing_ok=True)
    names = [file.name for file in room.iterdir() if not is_same or file.suffix == ".onnx"]
    for name in sorted({*names, MODEL_JSON}, key=lambda name: name == MODEL_JSON):
        os.replace(room / name, target / name)
