"""compare, systems and comparereport of codec.quality: codecs on the same recordings."""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from codec.api import Model
from codec.errors import AudioError, ConfigError
from codec.quality import compare, comparereport
from codec.quality.noise import NoiseOptions
from codec.quality.systems import Coded, Facts, Floats, System, at_most

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
    systems = (compare.model_system(tiny, gmacs=0.125), PCM)
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
    assert [system["gmacs"] for system in data["systems"]] == [0.125, None]
    tables = paths[2].read_text(encoding="utf-8")
    assert "Dutch: 1 files, clean speech" in tables
    assert "| tiny | 2 codebooks |" in tables
    assert {line.count("|") for line in tables.split("\n\n")[1].splitlines()} == {11}
    ET.fromstring(paths[3].read_text(encoding="utf-8"))
    page = paths[4].read_text(encoding="utf-8")
    assert page.count("<audio") == 5  # the original and four decoded versions
    assert "PCM &lt;1&gt;" in page
    assert "<h2>Dutch, 1 files</h2>" in page
    assert "<script" not in page
    assert re.search(r'rowgroup" colspan="5"><span>tiny<small>50 frames/s; [\d.]+ M parameters; 0.12', page)
    assert page.count('scope="rowgroup"') == 2 + 2  # each codec once, over all files and over the Dutch one
    assert page.count('<th scope="row">') == 8
    assert page.count("<details open>") == 1


def test_the_products_of_a_model_are_counted_and_without_torch_unknown(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 0 < compare.gmacs_of(str(tiny_path)) < 0.1
    assert math.isnan(compare.gmacs_of("no/such/model"))
    monkeypatch.setitem(sys.modules, "codec.cost", None)  # as where torch is missing
    assert math.isnan(compare.gmacs_of(str(tiny_path)))


def test_in_noise_it_is_said_what_the_reference_is() -> None:
    source = (FIXTURES / "demo.flac",)
    files = dict(list(FILES.items())[:1])
    scores = {}
    for against in ("noisy", "clean"):
        noise = NoiseOptions(source, 10.0, against)
        found = compare.compare([PCM], files, metrics=("si_sdr",), noise=noise, examples=0)
        assert against in found.condition
        assert "10 dB SNR" in found.condition
        scores[against] = found.rows[1].scores["si_sdr"]
    assert scores["clean"] == pytest.approx(10, abs=1)  # the noise itself
    assert scores["noisy"] > 20


def test_peers_can_be_kept_below_a_rate() -> None:
    assert at_most(6.0, (3.2, 6, 9.2)) == (3.2, 6)
    with pytest.raises(ConfigError, match=r"no operating point up to 2 kbit/s; the lowest is 3\.2"):
        at_most(2.0, (3.2, 6))


def test_what_cannot_be_compared_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two have one name"):
        compare.compare([PCM, PCM], FILES, metrics=("si_sdr",))
    bad = tmp_path / "bad.wav"
    bad.write_text("no audio")
    with pytest.raises(AudioError, match=r"none of 1 files could be compared; bad\.wav: not an audio file"):
        compare.compare([PCM], {"bad.wav": bad}, metrics=("si_sdr",))
