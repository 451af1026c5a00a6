"""A published checkpoint to a model folder: converted, run once, and with graphs and golden vectors where they can be.

`convert` is what `codec convert` calls.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from codec.api import Model
from codec.audiowriter import write
from codec.convert.build import convert_checkpoint
from codec.engine import is_wrapped, open_engine
from codec.errors import ModelError
from codec.export.folder import room_beside, write_folder
from codec.golden import shaped_noise
from codec.modelfolder import ModelFolder, read_model

Say = Callable[[str], None]

SECONDS = 2.0  # of the audio that a converted model must code


def convert(source: Path, target: Path, kind: str, say: Say, *, name: str = "", graphs: bool = True) -> ModelFolder:
    """Write the model folder of a published checkpoint, all of it or nothing.

    Args:
        source: the checkpoint's file, or its folder.
        target: the folder, made if it is missing, refused if something lies there.
        kind: of the checkpoint, a key of `CONVERTERS`.
        say: gets each line of the report.
        name: of the model; the target's when empty.
        graphs: also write ONNX graphs and golden vectors, if onnx is installed and all layers have a form.

    Raises:
        ConfigError: an unknown kind.
        ModelError: a checkpoint that does not convert, a target that is not empty, or a model that gives no audio.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(f"{target}: something lies there; give a new folder")
    with room_beside(target.absolute().parent) as room:
        made = room / target.name
        try:
            folder = _write(source, made, kind, name or target.name)
            say(f"{target}: {sum(folder.info.parameters.values()):,} numbers, nothing left over")
            say(check_runs(folder))
            if graphs and not is_wrapped(folder):
                say(_add_graphs(folder))
        except ModelError as error:
            raise ModelError(str(error).replace(str(made), str(target))) from error
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():  # and is empty
            target.rmdir()
        made.rename(target)
    return read_model(target)


def _write(source: Path, target: Path, kind: str, name: str) -> ModelFolder:
    """The folder with our network, or with the weights as they are for a class of transformers."""
    if kind == "hf":
        try:
            from codec.convert import wrapped  # transformers: only where its models are
        except ModuleNotFoundError as error:
            if error.name != "transformers":
                raise
        else:
            if wrapped.is_wrapped(source):
                return wrapped.wrap(source, target, name)
    converted = convert_checkpoint(source, kind)
    return write_folder(target, name, converted.config, converted.weights, licence=converted.licence, half=False)


def check_runs(folder: ModelFolder) -> str:
    """Code and decode noise; a line that says what came out.

    Raises:
        ModelError: audio that is not finite or of another length.
    """
    model = Model(folder.info, open_engine(folder, engine="auto"))
    audio = shaped_noise(folder.info.sample_rate, SECONDS)
    codes = model.encode(audio)
    audio_hat = model.decode(codes)
    if audio_hat.shape[-1:] != audio.shape or not np.isfinite(audio_hat).all():
        raise ModelError(f"{folder.path}: the converted model gives no audio; the checkpoint is damaged")
    return f"forward: {SECONDS:g} s of noise to {codes.data.shape[1]} frames of {codes.codebooks} codes and back"


def _add_graphs(folder: ModelFolder) -> str:
    """Graphs, the agreement of the engines, and golden vectors; or why not."""
    try:
        from codec.export.golden import write_golden
        from codec.export.runtime import export_model
        from codec.export.speech import Speech
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        return "no graphs: onnx is not installed; pip install 'neural-codec[export]' and run codec export"
    noise = shaped_noise(folder.info.sample_rate, SECONDS)
    try:
        agreement = export_model(str(folder.path), folder.path, Speech(noise, "noise")).agreement
    except ModelError as error:
        if "no ONNX form" not in str(error):
            raise
        return f"no graphs: {error}"
    with tempfile.TemporaryDirectory(prefix="codec-convert-") as room:
        clip = Path(room) / "noise.wav"
        write(clip, noise[None], folder.info.sample_rate)
        write_golden(folder.path, clip, source="codec.golden.shaped_noise", licence="CC0-1.0")
    return (
        f"graphs: codes agree on {agreement.codes:.4%} of {agreement.n_codes}, audio to {agreement.audio_db:.0f} dB; "
        "golden vectors written"
    )
