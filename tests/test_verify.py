"""`codec verify` passes on what is whole and names what is not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file, save_file

import codec
from codec import verify as verification
from codec.engine import ENGINES, Audio, Codes, Engine, State, open_engine
from codec.errors import CodesFileError, ModelError
from codec.export.golden import write_golden
from codec.export.graphs import write_graphs
from codec.golden import GOLDEN, Golden, read_golden, write_file
from codec.modelfolder import GRAPHS, INT8_GRAPHS, WEIGHTS, ModelFolder, read_facts, read_model, write_model
from codec.stream import MODES
from codec.verify import Report, verify_codes_file, verify_model

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "tests" / "fixtures" / "demo.flac"
WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # an import of it fails
sys.argv = ["codec", "verify", {subject!r}, "--json"]
import codec.cli
codec.cli.main()
"""

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(scope="module")
def released(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with graphs and golden vectors."""
    folder = tmp_path_factory.mktemp("released") / "tiny"
    shutil.copytree(tiny_path, folder)
    write_graphs(folder, int8=True)
    audio, sample_rate = codec.read_audio(DEMO)
    clip = folder.parent / "clip.flac"
    soundfile.write(clip, audio[0, : sample_rate // 2], sample_rate)
    write_golden(folder, clip, source="LibriSpeech 2836-5354-0000", licence="CC BY 4.0")
    return folder


@pytest.fixture
def folder(released: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(released, tmp_path / "tiny"))


@pytest.fixture
def onnx_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch has no say: its steps of one frame take most of the time."""
    monkeypatch.setattr(verification, "ENGINES", ("onnx",))
    monkeypatch.setattr(verification, "engines_of", lambda folder: ("onnx",))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the audio, where what is compared is not the matter."""
    monkeypatch.setattr(verification, "SECONDS", {"block": 0.7, "frame": 0.2})


def misses(report: Report) -> dict[str, str]:
    return {check.name: check.measured for check in report.misses}


def results(report: Report) -> dict[str, str]:
    return {check.name: check.result for check in report.checks}


def flip(path: Path, at: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 1
    path.write_bytes(data)


def rewrite(folder: Path) -> None:
    """Make model.json say what lies in the folder."""
    model, _ = read_facts(folder)
    write_model(folder, model.info, model.config)


def without_torch(subject: str) -> dict[str, Any]:
    program = WITHOUT_TORCH.format(subject=subject)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_a_released_model_passes_every_check(released: Path) -> None:
    report = verify_model(released)
    assert misses(report) == {}
    found = results(report)
    for engine in ENGINES:
        for mode in ("block", "frame"):
            for name in ("golden, {}: codes", "golden, {}: audio", "chunks, {}", "batch and padding, {}"):
                assert found[name.format(f"{engine} {mode}")] == "pass"
            assert found[f"save and restore, {engine} {mode}"] == "pass"
        assert found[f"modes agree, {engine}: codes"] == "pass"
    assert found["onnx and torch agree, block: audio"] == found["onnx and torch agree, frame: codes"] == "pass"
    assert found["onnx and onnx-int8 agree, block: codes"] == "info"  # another precision: told, not judged
    assert {f"file {name}" for name in (WEIGHTS, *GRAPHS, *INT8_GRAPHS, GOLDEN)} < set(found)


def test_golden_vectors_are_part_of_the_folder_and_say_where_their_clip_is_from(released: Path) -> None:
    golden = read_golden(released)
    assert golden is not None
    assert golden.about["licence"] == "CC BY 4.0"
    assert golden.weights_hash == read_model(released).info.weights_hash
    assert len(golden.codes) == len(golden.exact) == len(ENGINES) * len(MODES)
    assert f'"{GOLDEN}"' in (released / "model.json").read_text()
    assert (released / GOLDEN).stat().st_size < 300_000


@pytest.mark.parametrize("name", [WEIGHTS, *GRAPHS, *INT8_GRAPHS, GOLDEN])
def test_one_flipped_byte_is_a_miss_that_is_named(name: str, folder: Path) -> None:
    flip(folder / name)
    found = misses(verify_model(folder))
    assert list(found) == [f"file {name}"]
    assert "damaged: SHA-256" in found[f"file {name}"]


def test_a_missing_file_is_a_miss_that_is_named(folder: Path) -> None:
    (folder / GRAPHS[1]).unlink()
    assert list(misses(verify_model(folder))) == [f"file {GRAPHS[1]}"]


def test_the_command_prints_a_table_and_exits_with_1_on_a_miss(folder: Path, run: Run) -> None:
    flip(folder / WEIGHTS)
    done = run("verify", folder)
    text = done.stdout.decode()
    assert done.returncode == 1
    assert f"missed: file {WEIGHTS}" in text
    assert "SHA-256" in text
    assert b"Traceback" not in done.stderr


def test_damaged_golden_vectors_that_model_json_does_not_know_are_a_miss(folder: Path, onnx_only: None) -> None:
    (folder / GOLDEN).write_bytes((folder / GOLDEN).read_bytes()[:1000])
    rewrite(folder)
    assert "damaged" in misses(verify_model(folder))["golden vectors"]


def test_other_weights_miss_the_golden_vectors_and_the_graphs(folder: Path, onnx_only: None) -> None:
    weights = load_file(folder / WEIGHTS)
    changed = {name: (x * 1.01).astype(x.dtype) for name, x in weights.items()}
    save_file(changed, folder / WEIGHTS, metadata={"format": "pt"})  # the graphs point to places in this file
    rewrite(folder)
    found = misses(verify_model(folder))
    assert "of weights" in found["golden vectors"]
    assert "made for weights" in found["engine onnx"]


def test_golden_codes_and_audio_that_differ_are_misses(folder: Path, onnx_only: None) -> None:
    golden = read_golden(folder)
    assert golden is not None
    codes = {key: np.where(np.arange(x.shape[1]) % 100 == 0, 1 - x.clip(0, 1), x) for key, x in golden.codes.items()}
    audio = {key: x + np.float32(0.1) for key, x in golden.audio.items()}
    write_file(folder / GOLDEN, Golden(golden.clip, golden.about, golden.weights_hash, codes, audio))
    rewrite(folder)
    found = misses(verify_model(folder))
    assert set(found) == {f"golden, onnx {mode}: {what}" for mode in ("block", "frame") for what in ("codes", "audio")}


def test_golden_vectors_are_written_again_over_damaged_ones(folder: Path, released: Path) -> None:
    flip(folder / GOLDEN)
    write_golden(folder, released.parent / "clip.flac", source="LibriSpeech 2836-5354-0000", licence="CC BY 4.0")
    assert read_model(folder).info.name == "tiny"


def test_without_golden_vectors_the_rest_is_checked(tiny_path: Path, short: None) -> None:
    report = verify_model(tiny_path)
    assert report.passed
    assert results(report)["golden vectors"] == results(report)["engine onnx"] == "none"
    assert results(report)["chunks, torch frame"] == "pass"


def test_an_embedded_model_without_golden_vectors_is_a_miss(
    folder: Path, onnx_only: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / GOLDEN).unlink()
    rewrite(folder)
    monkeypatch.setattr(verification, "EMBEDDED", folder.parent)
    assert list(misses(verify_model(folder))) == ["golden vectors"]


class Drifting:
    """An engine whose results depend on how often it was called: what every exactness check must find."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._calls = engine, 0

    @property
    def name(self) -> str:
        return self._engine.name

    def init_encoder(self, batch: int) -> State:
        return self._engine.init_encoder(batch)

    def init_decoder(self, batch: int) -> State:
        return self._engine.init_decoder(batch)

    def encode_step(self, audio: Audio, state: State, n_codebooks: int) -> tuple[Codes, State]:
        codes, state = self._engine.encode_step(audio, state, n_codebooks)
        self._calls += 1
        return (codes + self._calls) % 32, state

    def decode_step(self, codes: Codes, state: State) -> tuple[Audio, State]:
        audio, state = self._engine.decode_step(codes, state)
        self._calls += 1
        return audio + np.float32(self._calls), state


def test_an_engine_that_drifts_misses_every_exactness_check(
    released: Path, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_drifting(folder: ModelFolder, *, engine: str) -> Engine:
        opened = open_engine(folder, engine=engine)
        return Drifting(opened) if engine == "onnx" else opened

    monkeypatch.setattr(verification, "open_engine", open_drifting)
    found = misses(verify_model(released))
    for name in ("chunks", "batch and padding", "save and restore", "golden"):
        assert any(row.startswith(f"{name}, onnx block") for row in found)
    assert {"modes agree, onnx: codes", "onnx and torch agree, block: audio"} < set(found)


def test_a_folder_that_is_not_there_is_an_error_that_names_all_it_could_be(run: Run) -> None:
    done = run("verify", "tokens/")
    assert done.returncode == 1
    expected = "codec: tokens/: not there; name a model, a .codes file or a folder that codec tokenize made"
    assert done.stderr.decode().strip() == expected


def test_an_unknown_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model\.json"):
        verify_model(tmp_path)


@pytest.fixture
def codes_file(released: Path, tmp_path: Path) -> Path:
    audio, sample_rate = codec.read_audio(DEMO)
    path = tmp_path / "demo.codes"
    codec.load(released).encode(audio[0], sample_rate).save(path)
    return path


def test_a_whole_file_passes(codes_file: Path, released: Path) -> None:
    report = verify_codes_file(codes_file, model=str(released))
    assert results(report) == dict.fromkeys(("header", "blocks and trailer", "model", "decoding"), "pass")


@pytest.mark.parametrize(
    ("at", "row"), [(0.0, "header"), (0.01, "header"), (0.5, "blocks and trailer"), (0.999, "blocks and trailer")]
)
def test_a_flipped_byte_of_a_file_is_a_miss_that_is_named(
    at: float, row: str, codes_file: Path, released: Path
) -> None:
    flip(codes_file, at)
    assert list(misses(verify_codes_file(codes_file, model=str(released)))) == [row]


def test_a_truncated_file_is_a_miss(codes_file: Path, released: Path) -> None:
    codes_file.write_bytes(codes_file.read_bytes()[:-1])
    assert "blocks and trailer" in misses(verify_codes_file(codes_file, model=str(released)))


def test_a_file_of_other_weights_or_of_an_unknown_model_is_a_miss(codes_file: Path, folder: Path) -> None:
    for graph in GRAPHS + INT8_GRAPHS:
        (folder / graph).unlink()
    (folder / GOLDEN).unlink()
    weights = load_file(folder / WEIGHTS)
    save_file({name: x + np.ones((), x.dtype) for name, x in weights.items()}, folder / WEIGHTS)
    rewrite(folder)
    assert "load the model that made them" in misses(verify_codes_file(codes_file, model=str(folder)))["model"]
    assert "not among the known ones" in misses(verify_codes_file(codes_file))["model"]


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CodesFileError, match="no such file"):
        verify_codes_file(tmp_path / "nothing.codes")


def test_without_torch_it_says_that_the_engine_is_not_installed(released: Path) -> None:
    report = without_torch(str(released))
    rows = {check["name"]: check for check in report["checks"]}
    assert report["passed"]
    assert rows["engine torch"]["measured"] == "not installed"
    assert rows["golden, onnx frame: codes"]["result"] == "pass"
    assert not any(name.startswith("chunks, torch") for name in rows)


@pytest.mark.slow  # of the tiny model: the test above
def test_the_embedded_model_passes_without_torch() -> None:
    assert without_torch("default_16k")["passed"]


@pytest.mark.slow
def test_the_embedded_model_passes_with_every_engine() -> None:
    assert misses(verify_model("default_16k")) == {}
