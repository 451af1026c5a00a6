"""Golden vectors come back as they were written, and are small."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from codec.errors import ModelError
from codec.export.golden import describe_clip
from codec.golden import (
    GOLDEN,
    ExactHash,
    Golden,
    codes_agreement,
    cpu_features,
    difference_db,
    hash_of,
    machine_facts,
    pack_audio,
    read_golden,
    shaped_noise,
    unpack_audio,
    write_file,
)

FIXTURES = Path(__file__).parent / "fixtures"


def make_golden(*, n_entries: int = 4) -> Golden:
    samples = (shaped_noise(16000, 3) * 32767).astype(np.int16)
    keys = [(engine, mode) for engine in ("onnx", "torch") for mode in ("block", "frame")][:n_entries]
    codes = np.random.default_rng(1).integers(0, 1024, (8, 150))
    about = {"source": "noise", "licence": "CC0-1.0", "sample_rate": 16000, "sha256": hash_of(samples)}
    exact = tuple(ExactHash(*key, machine_facts(key[0]), "00", "11") for key in keys)
    audio = {key: shaped_noise(16000, 3) for key in keys}
    return Golden(samples, about, "ab" * 32, dict.fromkeys(keys, codes), audio, exact)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    golden = make_golden()
    write_file(tmp_path / GOLDEN, golden)
    again = read_golden(tmp_path)
    assert again is not None
    assert (again.clip == golden.clip).all()
    assert (again.about, again.weights_hash, again.exact) == (golden.about, golden.weights_hash, golden.exact)
    assert list(again.codes) == list(golden.codes)
    for key, codes in golden.codes.items():
        assert np.array_equal(again.codes[key], codes)
        assert difference_db(golden.audio[key], again.audio[key]) > 80


def test_equal_entries_are_stored_once_and_others_apart(tmp_path: Path) -> None:
    golden = make_golden()
    write_file(tmp_path / GOLDEN, golden)
    assert (tmp_path / GOLDEN).stat().st_size < 300_000
    golden.codes["torch", "frame"] = golden.codes["torch", "frame"].copy()  # type: ignore[index]
    golden.codes["torch", "frame"][0, 0] += 1
    write_file(tmp_path / GOLDEN, golden)
    again = read_golden(tmp_path)
    assert again is not None
    assert codes_agreement(again.codes["torch", "frame"], again.codes["onnx", "block"]) == 1 - 1 / 1200


@pytest.mark.parametrize("loudness", [1e-4, 1.0])
def test_packed_audio_keeps_80_db_of_loud_and_quiet(loudness: float) -> None:
    audio = shaped_noise(16000, 1.01) * np.float32(loudness)
    packed, scale = pack_audio(audio)
    assert difference_db(audio, unpack_audio(packed, scale, len(audio))) > 80


def test_the_difference_of_silence_and_of_garbage_is_a_number() -> None:
    zeros = np.zeros(4, np.float32)
    assert difference_db(zeros, zeros) == 999
    assert difference_db(zeros, np.full(4, np.nan, np.float32)) == -999
    assert difference_db(zeros, zeros[:3]) == -999
    assert difference_db(np.ones(4, np.float32), np.full(4, 1.1, np.float32)) == pytest.approx(20, abs=0.01)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[: len(data) // 2],
    "no metadata": lambda data: data.replace(b'"golden"', b'"silver"'),
    "a later format": lambda data: data.replace(b'\\"format\\": 1', b'\\"format\\": 9'),
    "no entries": lambda data: data,
    "too deep": lambda _: save({}, {"golden": "[" * 100_000}),
}


@pytest.mark.parametrize("damage", [*DAMAGES, "another clip"])
def test_damaged_golden_vectors_are_refused_in_one_line(damage: str, tmp_path: Path) -> None:
    path = tmp_path / GOLDEN
    write_file(path, make_golden(n_entries=0 if damage == "no entries" else 1))
    if damage == "another clip":  # wherever the clip lies in the file
        golden = make_golden(n_entries=1)
        about = {**golden.about, "sha256": "00"}
        write_file(path, Golden(golden.clip, about, golden.weights_hash, golden.codes, golden.audio))
    else:
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(ModelError, match=r"golden\.safetensors: (damaged|format 9)") as error:
        read_golden(tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_without_them_gives_none(tmp_path: Path) -> None:
    assert read_golden(tmp_path) is None


def test_the_clip_s_source_and_licence_come_from_the_table_beside_it(tmp_path: Path) -> None:
    source, licence = describe_clip(FIXTURES / "demo.flac")
    assert "LibriSpeech" in source
    assert licence == "CC BY 4.0"
    with pytest.raises(ModelError, match="source and licence"):
        describe_clip(tmp_path / "demo.flac")


def test_a_machine_is_told_by_its_features_and_versions() -> None:
    facts = machine_facts("onnx")
    assert set(facts) == {"machine", "features", "numpy", "onnxruntime"}
    assert facts["features"] == cpu_features()
    assert json.loads(json.dumps(facts)) == facts
