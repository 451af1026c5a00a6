"""How fast a model runs on this machine: `codec bench`.

>>> report = bench_model(seconds=0.2, engines=("onnx",), cold=False)
>>> report.engines[0].engine, report.engines[0].rtf_encode.n >= 3
('onnx', True)
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from codec.api import Model, load
from codec.audiowriter import write
from codec.config import ModelInfo
from codec.engine import Audio
from codec.errors import CodecError, MissingExtraError, ModelError
from codec.golden import shaped_noise
from codec.hub import DEFAULT, find_model
from codec.modelfolder import read_facts
from codec.timing import Job, Spread, take_turns

# What can run a model: the arguments of `codec.load`, which are options of the command line too.
VARIANTS: dict[str, dict[str, str]] = {
    "onnx": {"engine": "onnx"},
    "onnx int8": {"engine": "onnx-int8"},
    "torch": {"engine": "torch"},
}
CLIP_FRAMES = 126  # with the delay one whole block of 128 frames
ROWS = 32  # streams of the batched step
MAX_ROUNDS, MAX_STARTS = 40, 3
BURST = 25  # steps in a row
COLD_SECONDS = 3.0  # of the file that the command line encodes
OWN_PROCESS = """
import sys
from codec.timing import peak_memory
import codec.cli
try:
    codec.cli.main()
finally:
    print(peak_memory(), file=sys.stderr)
"""


@dataclass(frozen=True)
class CommandRun:
    """One run of the command line as a process of its own.

    Attributes:
        first_byte: seconds from its start to the first byte on stdout.
        wall: seconds to its end.
        memory_bytes: the most it held; None where the system does not tell.
    """

    first_byte: float
    wall: float
    memory_bytes: int | None


@dataclass(frozen=True)
class EngineBench:
    """What one engine does. Times in seconds; RTF is seconds of work per second of audio.

    Attributes:
        engine: a name of `VARIANTS`.
        rtf_encode: offline, mode `block`.
        rtf_decode: the same.
        step_encode: one `feed` of one frame, Python included.
        step_decode: the same.
        rows_encode: one `feed` of one frame for each of `ROWS` streams in one object.
        rows_decode: the same.
        cold: `codec encode` of a file of `COLD_SECONDS` as a process of its own; first byte, and to the end.
        cold_total: the same, seconds to the end.
        memory_bytes: the most that process held.
    """

    engine: str
    rtf_encode: Spread
    rtf_decode: Spread
    step_encode: Spread
    step_decode: Spread
    rows_encode: Spread
    rows_decode: Spread
    cold: Spread | None = None
    cold_total: Spread | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class BenchReport:
    """All engines of one model on one machine; `skipped` says why one is missing."""

    model: str
    machine: str
    threads: str
    frame: float  # seconds of audio of one step
    engines: tuple[EngineBench, ...]
    skipped: Mapping[str, str]

    def live_streams(self, step: Spread, rows: int = 1) -> float:
        """Streams in real time that one core holds, where it does nothing else, by the median step."""
        return rows * self.frame / step.median


def bench_model(
    name_or_path: str | os.PathLike[str] = DEFAULT,
    *,
    seconds: float = 20.0,
    engines: Sequence[str] | None = None,
    cold: bool = True,
) -> BenchReport:
    """Measure a model with each engine that this machine has, all in turn.

    Set OMP_NUM_THREADS=1 before torch is imported to compare engines thread by thread; onnxruntime runs on one.

    Args:
        name_or_path: an embedded model's name, or a model folder.
        seconds: about how long to measure, beside loading and the starts of the command line.
        engines: names of `VARIANTS`, or as `codec.load` has them; all that run when None.
        cold: also start the command line, up to three times for each engine.

    Raises:
        ModelError: no such model, an unknown engine, or none that runs.
    """
    folder, _ = read_facts(find_model(name_or_path if isinstance(name_or_path, str) else Path(name_or_path)))
    models, skipped = open_variants(folder.path, engines)
    if not models:
        raise ModelError(f"{folder.path}: no engine runs this model: {'; '.join(skipped.values())}")
    jobs = {name: steady_jobs(model) for name, model in models.items()}
    times: dict[str, dict[str, list[float]]] = {name: {} for name in models}
    for part, share in (("rtf", 0.4), ("step", 0.4), ("rows", 0.2)):
        together = {f"{name}|{key}": job for name in jobs for key, job in jobs[name].items() if key.startswith(part)}
        limit = seconds * share / len(together)
        burst = max(1, {"rtf": 1, "step": BURST, "rows": 5}[part] // folder.info.unit[1])
        found = take_turns(together, rounds=MAX_ROUNDS, seconds=limit, burst=burst)
        for key, values in found.items():
            times[key.partition("|")[0]][key.partition("|")[2]] = values
    starts = cold_starts(folder.path, tuple(models), seconds) if cold else {}
    info = folder.info
    clip_seconds = clip_seconds_of(info)
    results = []
    for name, found in times.items():
        spreads = {key: Spread.of(values) for key, values in found.items()}
        for key in ("rtf_encode", "rtf_decode"):
            spreads[key] = spreads[key].scaled(1 / clip_seconds)
        results.append(_with_starts(name, spreads, starts.get(name, [])))
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    frame = info.unit[0] / info.sample_rate
    return BenchReport(info.name, machine_name(), threads, frame, tuple(results), skipped)


def open_variants(path: Path, names: Sequence[str] | None = None) -> tuple[dict[str, Model], dict[str, str]]:
    """A loaded model for each engine that runs it, and why others do not.

    Raises:
        ModelError: an engine that is not one of `VARIANTS`.
    """
    labels = {options["engine"]: label for label, options in VARIANTS.items()}
    wanted = [labels.get(name, name) for name in names or VARIANTS]
    for name in wanted:
        if name not in VARIANTS:
            raise ModelError(f"engine {name!r}: unknown; use {', '.join(labels)}")
    models: dict[str, Model] = {}
    skipped: dict[str, str] = {}
    for name in wanted:
        try:
            models[name] = load(path, **VARIANTS[name])
            models[name].stream_encoder(), models[name].stream_decoder()  # graphs are opened at their first use
        except MissingExtraError:
            skipped[name] = f"{name}: not installed"
        except CodecError as error:
            skipped[name] = str(error)
    return models, skipped


def steady_jobs(model: Model, n_rows: int = ROWS) -> dict[str, Job]:
    """What is measured of one loaded model, by the names of `EngineBench`."""
    info = model.info
    audio = clip(info.sample_rate, clip_seconds_of(info))
    codes = model.encode(audio)
    encoder, decoder = model.stream_encoder(), model.stream_decoder()
    encoders, decoders = model.stream_encoders(rows=n_rows), model.stream_decoders(rows=n_rows)
    chunk, frame = audio[: info.unit[0]], codes.data[:, : info.unit[1]]
    chunks, frames = dict.fromkeys(range(n_rows), chunk), dict.fromkeys(range(n_rows), frame)
    return {
        "rtf_encode": lambda: model.encode(audio),
        "rtf_decode": lambda: model.decode(codes),
        "step_encode": lambda: encoder.feed(chunk),
        "step_decode": lambda: decoder.feed(frame),
        "rows_encode": lambda: encoders.feed(chunks),
        "rows_decode": lambda: decoders.feed(frames),
    }


def clip_seconds_of(info: ModelInfo) -> float:
    """Seconds of the clip that is coded whole; two segments at least."""
    return max(CLIP_FRAMES * info.hop_length, 2 * info.unit[0]) / info.sample_rate


def clip(sample_rate: int, duration: float) -> Audio:
    """Audio (T,) to measure with; its content changes no figure here."""
    return shaped_noise(sample_rate, duration)


def cold_starts(path: Path, names: Sequence[str], seconds: float) -> dict[str, list[CommandRun]]:
    """Runs of `codec encode FILE -`, the engines in turn, at least one each and no more once `seconds` are over."""
    runs: dict[str, list[CommandRun]] = {name: [] for name in names}
    rate = read_facts(path)[0].info.sample_rate
    with tempfile.TemporaryDirectory() as work:
        source = Path(work) / "clip.wav"
        write(source, clip(rate, COLD_SECONDS)[None], rate)
        begin = time.perf_counter()
        for turn in range(MAX_STARTS):
            for name in names:
                if turn == 0 or time.perf_counter() - begin < seconds:
                    options = [part for key, value in VARIANTS[name].items() for part in (f"--{key}", value)]
                    runs[name].append(run_command("encode", str(source), "-", "--model", str(path), *options))
    return runs


def run_command(*arguments: str) -> CommandRun:
    """Run `codec ...` as a process of its own, its output going to stdout.

    Raises:
        CodecError: it failed; with its last line.
    """
    begin = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", OWN_PROCESS, *arguments], bufsize=0, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        first_byte = time.perf_counter() - begin
        _, errors = process.communicate()
    wall = time.perf_counter() - begin
    lines = errors.decode(errors="replace").split()
    if process.returncode:
        raise CodecError(f"codec {' '.join(arguments)}: ended with {process.returncode}: {' '.join(lines[-30:])}")
    return CommandRun(first_byte, wall, int(lines[-1]) if lines[-1].isdigit() else None)


def machine_name() -> str:
    """The processor, its cores, and the system."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{name}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"


def _with_starts(name: str, spreads: Mapping[str, Spread], runs: Sequence[CommandRun]) -> EngineBench:
    steady = EngineBench(
        name,
        rtf_encode=spreads["rtf_encode"],
        rtf_decode=spreads["rtf_decode"],
        step_encode=spreads["step_encode"],
        step_decode=spreads["step_decode"],
        rows_encode=spreads["rows_encode"],
        rows_decode=spreads["rows_decode"],
    )
    if not runs:
        return steady
    memory = [run.memory_bytes for run in runs if run.memory_bytes is not None]
    return replace(
        steady,
        cold=Spread.of([run.first_byte for run in runs]),
        cold_total=Spread.of([run.wall for run in runs]),
        memory_bytes=round(float(np.median(memory))) if memory else None,
    )
