"""Prove on this machine that a model gives what was promised: `codec verify`.

>>> report = Report("a model", (Check("files", "pass", "3 of 3"), Check("codes", "miss", "1 %", ">= 99.9 %")))
>>> report.passed, [check.name for check in report.misses]
(False, ['codes'])
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codec import codesfile
from codec.api import Model, check_same_model
from codec.codes import info_of_header
from codec.codesfile.condition import condition_of
from codec.engine import ENGINES, Audio, Codes, engines_of, open_engine
from codec.errors import CodecError, CodesFileError, MissingExtraError, ModelError
from codec.files import describe_os_error
from codec.golden import (
    GOLDEN,
    MIN_AUDIO_DB,
    MIN_CODES,
    PACKAGES,
    Golden,
    codes_agreement,
    difference_db,
    hash_of,
    machine_facts,
    read_golden,
    shaped_noise,
)
from codec.hub import DEFAULT, EMBEDDED, find_model
from codec.modelfolder import WEIGHTS, ModelFolder, check_file, read_facts
from codec.stream import MODES
from codec.transcode import open_named_model

CODES_BAR, AUDIO_BAR, EQUAL_BAR = f">= {MIN_CODES:.1%}", f">= {MIN_AUDIO_DB:g} dB", "=="
# Of audio, for what is compared with ==: more than a block; a step of torch takes milliseconds.
SECONDS = {"block": 2.8, "frame": 0.4}
LOW_PRECISION = ("onnx-int8",)  # other numbers than full precision, and on other CPUs: reported there, not judged
CUTTINGS = 2  # random chunkings to try


@dataclass(frozen=True)
class Check:
    """One row of the table.

    Attributes:
        name: what was checked.
        result: `pass`, `miss`, `none` where there is nothing to check, `info` where no answer is wrong.
        measured: what was found.
        bar: what was asked for.
    """

    name: str
    result: str
    measured: str
    bar: str = ""


@dataclass(frozen=True)
class Report:
    """All checks of one model or file."""

    subject: str
    checks: tuple[Check, ...]

    @property
    def misses(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.result == "miss")

    @property
    def passed(self) -> bool:
        """Whether none failed."""
        return not self.misses


def verify_model(name_or_path: str | os.PathLike[str] = DEFAULT) -> Report:
    """Check a model: its files, golden vectors, invariances, and that the modes and engines agree.

    Args:
        name_or_path: an embedded model's name, or a model folder.

    Raises:
        ModelError: no such model, or a model.json that cannot be read.
    """
    folder, files = read_facts(find_model(name_or_path if isinstance(name_or_path, str) else Path(name_or_path)))
    checks = list(_check_files(folder, files))
    if any(check.result == "miss" for check in checks):
        checks.append(Check("everything else", "none", "not run: the files are not whole"))
        return Report(folder.info.name, tuple(checks))
    golden, row = _find_golden(folder)
    models, rows = _open_models(folder)
    checks += [row, *rows]
    audio = shaped_noise(folder.info.sample_rate, SECONDS["block"]) if golden is None else golden.samples
    runs: dict[tuple[str, str], _Run] = {}
    for name, model in models.items():
        for mode in MODES:
            checks += _guarded(f"{name} {mode}", _check_mode, model, audio, golden, mode, runs)
    for name in models:
        checks += _compare(f"modes agree, {name}", runs.get((name, "block")), runs.get((name, "frame")))
    for first, second in itertools.combinations(models, 2):
        for mode in MODES:
            bound = first not in LOW_PRECISION and second not in LOW_PRECISION
            pair = runs.get((first, mode)), runs.get((second, mode))
            checks += _compare(f"{first} and {second} agree, {mode}", *pair, bound=bound)
    return Report(folder.info.name, tuple(checks))


def verify_codes_file(path: Path, *, model: str | None = None) -> Report:
    """Check a `.codes` file: header, every block, trailer, and that its model is here and decodes it.

    Args:
        path: the file.
        model: a name or folder to load its model from; the name in the header when None.

    Raises:
        CodesFileError: the file cannot be opened.
    """
    try:
        with path.open("rb") as file:
            return Report(str(path), tuple(_check_codes_file(path, codesfile.Reader(file, name=str(path)), model)))
    except CodesFileError as error:  # of the header: without it nothing else can be read
        return Report(str(path), (Check("header", "miss", _short(error, path), "CRC-32"),))
    except OSError as error:
        raise CodesFileError(f"{path}: cannot be read: {describe_os_error(error)}") from None


@dataclass(frozen=True, eq=False)
class _Run:
    """What one engine and mode made of the clip; the audio is decoded from the reference codes."""

    codes: Codes
    audio: Audio


def _check_files(folder: ModelFolder, files: dict[str, str]) -> Iterator[Check]:
    for name, checksum in files.items():
        try:
            check_file(folder.path / name, checksum)
        except (ModelError, OSError) as error:
            yield Check(f"file {name}", "miss", _short(error, folder.path / name), "SHA-256")
        else:
            yield Check(f"file {name}", "pass", checksum[:12], "SHA-256")
    if files.get(WEIGHTS) != folder.info.weights_hash:
        yield Check("weights_hash", "miss", f"model.json names no {WEIGHTS} of that hash", EQUAL_BAR)


def _find_golden(folder: ModelFolder) -> tuple[Golden | None, Check]:
    try:
        golden = read_golden(folder.path)
    except ModelError as error:
        return None, Check("golden vectors", "miss", _short(error, folder.path / GOLDEN))
    if golden is None:
        is_shipped = folder.path.resolve().parent == EMBEDDED.resolve()
        return None, Check("golden vectors", "miss" if is_shipped else "none", f"the folder has no {GOLDEN}")
    theirs, mine = golden.weights_hash[:12], folder.info.weights_hash[:12]
    if golden.weights_hash != folder.info.weights_hash:
        return None, Check("golden vectors", "miss", f"of weights {theirs}, these are {mine}", EQUAL_BAR)
    if golden.about.get("sample_rate") != folder.info.sample_rate:
        return None, Check("golden vectors", "miss", "of another sample rate", EQUAL_BAR)
    return golden, Check("golden vectors", "pass", f"{len(golden.codes)} of weights {theirs}", EQUAL_BAR)


def _open_models(folder: ModelFolder) -> tuple[dict[str, Model], list[Check]]:
    """A model for each engine that is installed; a row for each that is not."""
    models: dict[str, Model] = {}
    rows = []
    for name in dict.fromkeys((*ENGINES, *engines_of(folder))):
        if name not in engines_of(folder):
            rows.append(Check(f"engine {name}", "none", "the folder has no graphs for it"))
            continue
        try:
            engine = open_engine(folder, engine=name)
            engine.init_encoder(1), engine.init_decoder(1)  # graphs are opened at their first use
        except MissingExtraError:
            rows.append(Check(f"engine {name}", "none", "not installed"))
        except CodecError as error:
            rows.append(Check(f"engine {name}", "miss", _short(error, folder.path)))
        else:
            models[name] = Model(folder.info, engine)
            facts = machine_facts(name)
            package = PACKAGES[name]
            rows.append(Check(f"engine {name}", "info", f"{package} {facts[package]}, {facts['machine']}"))
    if not models:
        rows.append(Check("engines", "miss", "none can run this model", ">= 1"))
    return models, rows


def _guarded(name: str, work: Callable[..., Iterator[Check]], *args: object) -> list[Check]:
    """The rows of some work; an error, whatever it is, becomes the last of them."""
    rows: list[Check] = []
    try:
        rows.extend(work(*args))
    except Exception as error:  # a damaged model may fail in any way; the table says so
        rows.append(Check(name, "miss", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"))
    return rows


def _check_mode(
    model: Model, audio: Audio, golden: Golden | None, mode: str, runs: dict[tuple[str, str], _Run]
) -> Iterator[Check]:
    """All checks of one engine in one mode; its results go to `runs`, for those between engines and modes."""
    key = (model.engine.name, mode)
    encoded = model.encode(audio, mode=mode)
    codes, condition = encoded.data, encoded.condition
    if golden is not None:
        reference = golden.codes[golden.reference]
    else:
        reference = next(iter(runs.values())).codes if runs else codes
    run = _Run(codes, model.decode(model.codes(reference, len(audio), mode=mode, condition=condition)))
    runs[key] = run
    where = " ".join(key)
    if golden is not None:
        known = key if key in golden.codes else golden.reference
        bound = key[0] not in LOW_PRECISION or machine_facts(key[0]) in (
            record.machine for record in golden.exact if record.engine == key[0]
        )
        yield from _compare(f"golden, {where}", _Run(golden.codes[known], golden.audio[known]), run, bound=bound)
        yield _exact_row(golden, key, run)
    part = audio[: round(SECONDS[mode] * model.info.sample_rate)]
    yield _check_chunks(model, part, mode)
    yield _check_batch(model, part, mode)
    yield _check_restore(model, part, mode)


def _compare(name: str, ref: _Run | None, run: _Run | None, *, bound: bool = True) -> list[Check]:
    """Rows for codes and audio of two runs, judged where they are bound to agree; none where one did not come about."""
    if ref is None or run is None:
        return []
    share, level = codes_agreement(ref.codes, run.codes), difference_db(ref.audio, run.audio)
    measured = f"{share:.3%} of {ref.codes.size}"
    heard = "equal" if level == 999 else f"{level:.0f} dB"
    if not bound:
        return [Check(f"{name}: codes", "info", measured), Check(f"{name}: audio", "info", heard)]
    return [
        Check(f"{name}: codes", "pass" if share >= MIN_CODES else "miss", measured, CODES_BAR),
        Check(f"{name}: audio", "pass" if level >= MIN_AUDIO_DB else "miss", heard, AUDIO_BAR),
    ]


def _exact_row(golden: Golden, key: tuple[str, str], run: _Run) -> Check:
    """Whether codes and audio are bit for bit those of the same kind of machine."""
    name, facts = f"golden, {' '.join(key)}: exact", machine_facts(key[0])
    records = [record for record in golden.exact if (record.engine, record.mode) == key]
    found = (hash_of(run.codes), hash_of(run.audio))
    if any((record.codes, record.audio) == found for record in records):
        return Check(name, "info", "codes and audio ==")
    same_codes = any(record.codes == found[0] for record in records)
    kind = "the same" if any(record.machine == facts for record in records) else "another"
    return Check(name, "info", f"codes {'==' if same_codes else '!='}, audio !=, of {kind} kind of machine")


def _check_chunks(model: Model, audio: Audio, mode: str) -> Check:
    """Random cuttings of the audio and of the codes against the whole."""
    generator = np.random.default_rng()
    encoded = model.encode(audio, mode=mode)
    codes = encoded.data
    with model.stream_decoder(mode=mode, whole=True, condition=encoded.condition) as decoder:
        whole = np.concatenate((decoder.feed(codes), decoder.flush()), -1)
    n_equal = 0
    for _ in range(CUTTINGS):
        encoder = model.stream_encoder(mode=mode, whole=True)
        decoder = model.stream_decoder(mode=mode, whole=True, condition=encoded.condition)
        parts = [encoder.feed(part) for part in _cut(audio, generator)]
        cut_codes = np.concatenate((*parts, encoder.flush()), -1)
        sounds = [decoder.feed(part) for part in _cut(codes, generator)]
        n_equal += np.array_equal(codes, cut_codes) and np.array_equal(
            whole, np.concatenate((*sounds, decoder.flush()), -1)
        )
    return _equal_row(f"chunks, {model.engine.name} {mode}", n_equal, CUTTINGS, "cuttings")


def _cut(array: npt.NDArray[Any], generator: np.random.Generator) -> list[npt.NDArray[Any]]:
    """Pieces of the last axis, some of them empty."""
    return np.split(array, np.sort(generator.integers(0, array.shape[-1] + 1, 12)), axis=-1)


def _check_batch(model: Model, audio: Audio, mode: str) -> Check:
    """Rows of a batch of unequal lengths, filled up with noise, against each row alone."""
    sizes = [len(audio), 2 * len(audio) // 3, len(audio) // 5]
    batch = np.random.default_rng().uniform(-1, 1, (3, 1, len(audio))).astype(np.float32)
    for row, size in zip(batch, sizes, strict=True):
        row[0, :size] = audio[:size]
    together = model.encode(batch, mode=mode, lengths=sizes)
    sounds = model.decode(together)
    n_equal = 0
    for size, codes, sound in zip(sizes, together, sounds, strict=True):
        alone = model.encode(audio[:size], mode=mode)
        same_codes = np.array_equal(codes.data[0] if codes.data.ndim == 3 else codes.data, alone.data)
        n_equal += same_codes and np.array_equal(sound[:, :size], np.atleast_2d(model.decode(alone)))
    return _equal_row(f"batch and padding, {model.engine.name} {mode}", n_equal, 3, "rows")


def _check_restore(model: Model, audio: Audio, mode: str) -> Check:
    """Streams that go on from a saved state, in another stream object, against the streams that were saved."""
    at = int(np.random.default_rng().integers(1, len(audio)))
    encoders = [model.stream_encoder(mode=mode, whole=True) for _ in range(2)]
    first = encoders[0].feed(audio[:at])
    encoders[1].load_state(encoders[0].state())
    codes = [np.concatenate((encoder.feed(audio[at:]), encoder.flush()), -1) for encoder in encoders]
    condition = encoders[0].condition
    decoders = [model.stream_decoder(mode=mode, whole=True, condition=condition) for _ in range(2)]
    decoders[0].feed(first)
    decoders[1].load_state(decoders[0].state())
    sounds = [np.concatenate((decoder.feed(codes[0]), decoder.flush()), -1) for decoder in decoders]
    n_equal = np.array_equal(codes[0], codes[1]) + np.array_equal(sounds[0], sounds[1])
    return _equal_row(f"save and restore, {model.engine.name} {mode}", n_equal, 2, "streams")


def _equal_row(name: str, n_equal: int, n_all: int, what: str) -> Check:
    return Check(name, "pass" if n_equal == n_all else "miss", f"{n_equal} of {n_all} {what} equal", EQUAL_BAR)


def _check_codes_file(path: Path, reader: codesfile.Reader, model_name: str | None) -> Iterator[Check]:
    header = reader.header
    yield Check("header", "pass", f"{header.model}, {header.n_codebooks} codebooks, {header.mode}", "CRC-32")
    is_whole = False
    try:
        sizes = [block.shape[-1] for block in reader.blocks()]
    except CodesFileError as error:
        yield Check("blocks and trailer", "miss", _short(error, path), "CRC-32")
    else:
        is_whole = True
        yield Check("blocks and trailer", "pass", f"{len(sizes)} blocks, {sum(sizes)} frames", "CRC-32")
    try:
        model = open_named_model(header.model, header.weights_hash, model=model_name)
        check_same_model(info_of_header(header), model.info)
    except CodecError as error:
        yield Check("model", "miss", str(error), "same weights")
        return
    yield Check("model", "pass", f"weights {header.weights_hash[:12]}", "same weights")
    if is_whole:
        yield from _guarded("decoding", _check_decoding, reader, model)
    else:
        yield Check("decoding", "none", "not run: the file is not whole")


def _check_decoding(reader: codesfile.Reader, model: Model) -> Iterator[Check]:
    """Decode the whole file, block after block, in constant memory."""
    header = reader.header
    condition = condition_of(header.sections, header.channels)
    channels = header.channels if model.info.audio_channels == 1 else None
    decoder = model.stream_decoder(mode=header.mode, channels=channels, whole=True, condition=condition)
    n_samples, finite = 0, True
    decoder.trim(end=reader.n_samples)
    for codes in reader.blocks():
        audio = decoder.feed(codes if codes.ndim == 3 or channels is None else codes[None])
        n_samples, finite = n_samples + audio.shape[-1], finite and bool(np.isfinite(audio).all())
    audio = decoder.flush()
    n_samples, finite = n_samples + audio.shape[-1], finite and bool(np.isfinite(audio).all())
    right = finite and n_samples == reader.n_samples
    measured = f"{n_samples} samples{'' if finite else ', not all finite'}"
    yield Check("decoding", "pass" if right else "miss", measured, f"== {reader.n_samples} samples")


def _short(error: BaseException, path: Path) -> str:
    """An error's text without the path, or its folder, that the row or the title names."""
    return str(error).removeprefix(f"{path}: ").removeprefix(f"{path}{os.sep}")
