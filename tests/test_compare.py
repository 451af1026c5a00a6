"""compare, systems, noise and comparereport of codec.quality: codecs on the same recordings."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from codec.api import Model
from codec.errors import AudioError, CodecError, ConfigError
from codec.quality import compare, comparereport
from codec.quality.noise import add_noise
from codec.quality.systems import Coded, Facts, Floats, System

FIXTURES = Path(__file__).parent / "fixtures"
FILES = {name: FIXTURES / name for name in ("librispeech_4267_287369-0000.flac", "rhasspy_nathalie_06_24k.flac")}


def pcm(audio: Floats, sample_rate: int) -> Sequence[Coded]:
    """A codec: samples of 4 and of 8 bits."""
    points = []
    for n_bits in (4, 8):
        scale = np.float32(2 ** (n_bits - 1))
        coarse = (np.round(audio * scale) / scale).astype(np.float32)
        points.append(Coded(f"{n_bits} bits", coarse, sample_rate, n_bits * len(audio), 0.5, 0.25))
    return points


PCM = System(Facts("PCM <1>", 16000, note="rounded"), pcm)


@pytest.fixture(scope="module")
def result(tiny: Model) -> compare.Comparison:
    groups = {"rhasspy_nathalie_06_24k.flac": "Dutch"}
    systems = (compare.model_system(tiny), PCM)
    return compare.compare(systems, FILES, metrics=("si_sdr",), groups=groups, examples=1)


def test_every_codec_has_every_file_at_every_point_with_its_counted_bits(result: compare.Comparison) -> None:
    points = {(point.system, point.label): point for point in compare.points_of(result.rows)}
    assert list(points) == [
        ("tiny", "2 codebooks"),
        ("tiny", "4 codebooks"),
        ("PCM <1>", "4 bits"),
        ("PCM <1>", "8 bits"),
    ]
    assert all(point.n_files == 2 for point in points.values())
    seconds = [row.seconds for row in result.rows if row.label == "8 bits"]
    rates = (16000, 24000)
    expected = sum(8 * rate * time for rate, time in zip(rates, seconds, strict=True)) / sum(seconds)
    assert points["PCM <1>", "8 bits"].bitrate == pytest.approx(expected)
    assert points["PCM <1>", "8 bits"].rtf == pytest.approx(2 * 0.75 / sum(seconds))
    assert points["tiny", "4 codebooks"].bitrate == pytest.approx(2 * points["tiny", "2 codebooks"].bitrate)
    assert 1000 <= points["tiny", "4 codebooks"].bitrate < 1050  # 50 frames, 4 codebooks, 5 bits; the last is not full


def test_finer_steps_score_better(result: compare.Comparison) -> None:
    four, eight = compare.points_of([row for row in result.rows if row.system == "PCM <1>"])
    assert eight.means["si_sdr"].value > four.means["si_sdr"].value + 15


def test_the_facts_of_a_model_are_those_of_its_info(result: compare.Comparison, tiny: Model) -> None:
    facts = result.facts[0]
    assert (facts.frame_rate, facts.latency, facts.is_streaming) == (50, tiny.info.latency, True)
    assert facts.parameters == sum(tiny.info.parameters.values())


def test_the_files_hold_all_that_was_measured(tmp_path: Path, result: compare.Comparison) -> None:
    about = {"data": "fixtures", "command": "codec compare <here>"}
    paths = comparereport.write_comparison(tmp_path / "new", result, about)
    with paths[0].open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(result.rows) == 8
    assert {row["group"] for row in rows} == {"", "Dutch"}
    data = json.loads(paths[1].read_text(encoding="utf-8"))
    assert data["condition"] == "clean speech"
    assert data["systems"][1]["gmacs"] is None
    ET.fromstring(paths[2].read_text(encoding="utf-8"))
    page = paths[3].read_text(encoding="utf-8")
    assert page.count("<audio") == 5  # the original and four decoded versions
    assert "PCM &lt;1&gt;" in page
    assert "<h2>Dutch</h2>" in page
    assert "<script" not in page


def test_noise_is_mixed_in_at_its_ratio() -> None:
    draw = np.random.default_rng(0)
    speech, noise = (draw.standard_normal(size).astype(np.float32) for size in (1000, 300))
    mixed = add_noise(speech, noise, 10.0, np.random.default_rng(1)) - speech
    assert 10 * np.log10((speech**2).sum() / (mixed**2).sum()) == pytest.approx(10, abs=1e-3)
    assert len(np.unique(np.round(mixed, 6))) <= 300 * 2
    with pytest.raises(AudioError, match="noise: silent"):
        add_noise(speech, np.zeros(10, np.float32), 10.0, draw)


def test_in_noise_it_is_said_what_the_reference_is() -> None:
    source = (FIXTURES / "demo.flac",)
    files = dict(list(FILES.items())[:1])
    scores = {}
    for against in ("noisy", "clean"):
        noise = compare.NoiseOptions(source, 10.0, against)
        found = compare.compare([PCM], files, metrics=("si_sdr",), noise=noise, examples=0)
        assert against in found.condition
        assert "10 dB SNR" in found.condition
        scores[against] = found.rows[1].scores["si_sdr"]
    assert scores["clean"] == pytest.approx(10, abs=1)  # the noise itself
    assert scores["noisy"] > 20


def test_groups_come_from_any_column_of_a_manifest(tmp_path: Path) -> None:
    manifest = tmp_path / "files.csv"
    manifest.write_text("path,language\na.flac,en\nsub/b.flac,nl\n", encoding="utf-8")
    files = {"a.flac": tmp_path / "a.flac", "b": tmp_path / "sub" / "b.flac", "c": tmp_path / "c.flac"}
    assert compare.read_groups(manifest, "language", files) == {"a.flac": "en", "b": "nl"}
    with pytest.raises(ConfigError, match=r"files\.csv: no column tongue; there are path, language"):
        compare.read_groups(manifest, "tongue", files)
    with pytest.raises(CodecError, match="cannot be read"):
        compare.read_groups(tmp_path / "missing.csv", "language", files)


def test_what_cannot_be_compared_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two have one name"):
        compare.compare([PCM, PCM], FILES, metrics=("si_sdr",))
    bad = tmp_path / "bad.wav"
    bad.write_text("no audio")
    with pytest.raises(AudioError, match=r"none of 1 files could be compared; bad\.wav: not an audio file"):
        compare.compare([PCM], {"bad.wav": bad}, metrics=("si_sdr",))
    with pytest.raises(ConfigError, match="reference loud: unknown; noisy or clean"):
        compare.NoiseOptions((bad,), 10.0, "loud")
