"""scores, report, reportpage and spectrogram of codec.quality: the numbers and files of an evaluation."""

from __future__ import annotations

import base64
import csv
import dataclasses
import html.parser
import io
import json
import math
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rich.console import Console

from codec import audio
from codec.errors import AudioError, CodecError
from codec.quality import report, spectrogram
from codec.quality.metrics import CodebookUse
from codec.quality.report import Decoded, EvalResult, Example, FileScore

DEMO = Path(__file__).parent / "fixtures" / "demo.flac"


def row(file: str, seconds: float, codebooks: int, **scores: float) -> FileScore:
    plain = {"pesq": 2.0, "stoi": 0.9, "estoi": 0.8, "si_sdr": 5.0, "mel_distance": 0.4}
    bitrate = scores.pop("bitrate", 500.0 * codebooks)
    return FileScore(file, seconds, codebooks, bitrate, 0.01, 0.02, plain | scores)


@pytest.fixture(scope="module")
def result() -> EvalResult:
    speech = audio.read(DEMO)[0][0, :24000]
    decoded = tuple(Decoded(f"{q} codebooks", (np.round(speech * 8 * q) / (8 * q)).astype(np.float32)) for q in (2, 8))
    rows = (row("b <i>.wav", 1.0, 8), row("a.wav", 3.0, 8, pesq=math.nan, bitrate=4400.0), row("a.wav", 3.0, 2))
    use = (CodebookUse(0.5, 300.0), CodebookUse(1.0, 900.0))
    example = Example("b <i>.wav", 16000, speech, decoded)
    return EvalResult("tiny", "0123abcd", "2026-11-21", "some/dev", rows, use, (example,), "codec eval tiny dev")


def test_scores_count_files_and_rates_count_seconds(result: EvalResult) -> None:
    two, eight = report.summarize(result.rows)
    assert (two.codebooks, eight.codebooks, eight.n_files, eight.seconds) == (2, 8, 2, 4.0)
    assert eight.bitrate == pytest.approx((4000 * 1 + 4400 * 3) / 4)
    assert (eight.means["pesq"].value, eight.means["pesq"].n_files) == (2.0, 1)
    assert math.isnan(eight.means["pesq"].low)
    assert eight.means["stoi"].low == eight.means["stoi"].high == pytest.approx(0.9)


def test_the_same_result_writes_the_same_bytes(tmp_path: Path, result: EvalResult) -> None:
    first = [path.read_bytes() for path in report.write_report(tmp_path / "new" / "folder", result)]
    again = [path.read_bytes() for path in report.write_report(tmp_path / "new" / "folder", result)]
    assert first == again
    assert len(list((tmp_path / "new" / "folder").iterdir())) == 3


def test_csv_has_every_row_and_leaves_unknown_cells_empty(tmp_path: Path, result: EvalResult) -> None:
    path, _, _ = report.write_report(tmp_path, result)
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("file", "seconds", "codebooks", "bitrate", "rtf_encode", "rtf_decode", "group"),
        *("pesq", "stoi", "estoi", "si_sdr", "mel_distance"),
    ]
    assert [one["file"] for one in rows] == [one.file for one in result.rows]
    assert (rows[0]["pesq"], rows[1]["pesq"], rows[1]["bitrate"]) == ("2.0", "", "4400.0")


def test_json_is_strict_and_holds_means_use_and_model(tmp_path: Path, result: EvalResult) -> None:
    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    _, path, _ = report.write_report(tmp_path, result)
    data = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert (data["model"], data["weights_hash"], data["date"]) == ("tiny", "0123abcd", "2026-11-21")
    assert data["codebook_use"] == [{"usage": 0.5, "perplexity": 300.0}, {"usage": 1.0, "perplexity": 900.0}]
    assert data["summaries"][1]["means"]["pesq"] == {"value": 2.0, "low": None, "high": None, "n_files": 1, "weight": 0}


def test_the_terminal_table_shows_the_means(result: EvalResult) -> None:
    console = Console(width=140, file=io.StringIO(), record=True)
    console.print(report.table(result))
    text = console.export_text()
    assert "PESQ-WB" in text
    assert re.search(r"8 +│ +4.30 +│ +2.00 +│ 0.900", text)


def test_words_weigh_the_files_and_are_always_told(tmp_path: Path, result: EvalResult) -> None:
    rows = (row("a.wav", 1.0, 8, dwer=0.0, dwer_words=30.0), row("b.wav", 1.0, 8, dwer=40.0, dwer_words=10.0))
    spoken = dataclasses.replace(result, rows=(*rows, row("c.wav", 1.0, 8, dwer=math.nan, dwer_words=0.0)))
    dwer = report.summarize(spoken.rows)[0].means["dwer"]
    assert (dwer.value, dwer.n_files, dwer.weight) == (10.0, 2, 40.0)
    assert dwer.low == 0
    assert dwer.high == pytest.approx(40)
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(report.table(spoken))
    assert "(0.0 to 40.0, 40 words)" in console.export_text()
    scores, _, page = report.write_report(tmp_path, spoken)
    assert "0.0 to 40.0, 40 words" in page.read_text(encoding="utf-8")
    assert scores.read_text().splitlines()[0].endswith("mel_distance,dwer,dwer_words")


def test_groups_have_tables_of_their_own_with_their_counts(tmp_path: Path, result: EvalResult) -> None:
    rows = (*(dataclasses.replace(one, group="Dutch") for one in result.rows[:1]), *result.rows[1:])
    grouped = dataclasses.replace(result, rows=rows, condition="speech in noise")
    assert list(grouped.grouped()) == ["Dutch"]
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(report.table(grouped, group="Dutch"))
    assert "(Dutch, 1 files, speech in noise)" in console.export_text()
    _, data, page = report.write_report(tmp_path, grouped)
    assert json.loads(data.read_text(encoding="utf-8"))["groups"]["Dutch"][0]["n_files"] == 1
    assert "<h2>Dutch, 1 files</h2>" in page.read_text(encoding="utf-8")
    assert "speech in noise" in page.read_text(encoding="utf-8")


class Page(html.parser.HTMLParser):
    """Collects the tags of a page, and checks that they nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def data_of(uri: str | None) -> bytes:
    return base64.b64decode((uri or "").split(",", 1)[1])


def test_the_page_needs_nothing_but_itself(tmp_path: Path, result: EvalResult) -> None:
    _, _, path = report.write_report(tmp_path, result)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    sources = [attributes["src"] for _, attributes in page.found if "src" in attributes]
    assert len(sources) == 6
    assert all((source or "").startswith("data:") for source in sources)
    assert not page.all("script")
    assert not page.all("link")
    assert "http" not in re.sub(r"base64,[^\"]*", "", text)
    assert "<i>" not in text
    assert "b &lt;i&gt;.wav" in text


def test_players_play_and_pictures_are_named(tmp_path: Path, result: EvalResult) -> None:
    _, _, path = report.write_report(tmp_path, result)
    page = Page(path.read_text(encoding="utf-8"))
    versions = [result.examples[0].audio, *(one.audio for one in result.examples[0].decoded)]
    for player, expected in zip(page.all("audio"), versions, strict=True):
        heard, rate = soundfile.read(io.BytesIO(data_of(player["src"])), dtype="float32")
        assert rate == 16000
        np.testing.assert_allclose(heard, expected, atol=2**-15)
        assert "controls" in player
        assert player["aria-label"]
    assert all(image["alt"] for image in page.all("img"))
    assert all(box["tabindex"] == "0" for box in page.all("div") if box.get("class") == "wide")


def test_an_empty_evaluation_still_makes_a_report(tmp_path: Path) -> None:
    paths = report.write_report(tmp_path, EvalResult("tiny", "0", "2026-11-21", "dev", (), ()))
    assert all(path.stat().st_size > 0 for path in paths)


def test_bad_examples_and_impossible_folders_are_one_clear_error(tmp_path: Path, result: EvalResult) -> None:
    broken = Example("x.wav", 16000, np.full(1000, np.nan, np.float32), ())
    with pytest.raises(AudioError, match=r"x\.wav: sample 0 is NaN"):
        report.write_report(tmp_path / "bad", dataclasses.replace(result, examples=(broken,)))
    assert not (tmp_path / "bad" / "report.html").exists()
    (tmp_path / "file").touch()
    with pytest.raises(CodecError, match="file: cannot be made a folder"):
        report.write_report(tmp_path / "file", result)


# pictures


def read_png(data: bytes) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint8]], bytes]:
    """Pixels (height, width) and palette, by the PNG specification, sections 5.2 and 5.3."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        chunks[kind], at = body, at + 12 + length
    assert list(chunks) == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)
    assert not rows[:, 0].any()
    return rows[:, 1:], chunks[b"PLTE"]


def test_a_png_reads_back_pixel_by_pixel() -> None:
    shades = np.arange(12, dtype=np.uint8).reshape(3, 4)
    pixels, palette = read_png(spectrogram.png(shades, spectrogram.magma()))
    np.testing.assert_array_equal(pixels, shades)
    assert len(palette) == 768


def test_the_colour_map_grows_brighter_all_the_way() -> None:
    luminance = spectrogram.magma() @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(np.convolve(luminance, np.ones(5) / 5, "valid")) > 0).all()
    # matplotlib's magma at 0, 128 and 255; the polynomial is within some 4 of 255
    np.testing.assert_allclose(spectrogram.magma()[[0, 128, 255]], [[0, 0, 4], [183, 55, 121], [252, 253, 191]], atol=6)


def test_a_tone_is_a_bright_line_at_its_height() -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(32000) / 16000).astype(np.float32)
    pixels, _ = read_png(spectrogram.picture(tone, 16000))
    assert pixels.shape[0] == spectrogram.PICTURE_BANDS
    assert 500 < pixels.shape[1] <= spectrogram.PICTURE_FRAMES + 1
    # 1 kHz is 15 mel, 8 kHz 45.2; rows count from the top
    assert pixels[:, 300].argmax() == pytest.approx(128 * (1 - 15 / 45.2), abs=2)


def test_one_scale_for_all_makes_quieter_audio_darker() -> None:
    speech = audio.read(DEMO)[0][0, :16000]
    faint = speech * np.float32(0.1)
    top = float(spectrogram.loudness_db(speech, 16000).max())
    loud, _ = read_png(spectrogram.picture(speech, 16000, top_db=top))
    quiet, _ = read_png(spectrogram.picture(faint, 16000, top_db=top))
    own, _ = read_png(spectrogram.picture(faint, 16000))
    assert loud.max() == own.max() == 255
    assert quiet.max() == pytest.approx(255 * (1 - 20 / spectrogram.RANGE_DB), abs=1)


@pytest.mark.parametrize("n", [0, 1, 100, 200_000])
def test_any_length_makes_a_picture(n: int) -> None:
    pixels, _ = read_png(spectrogram.picture(np.zeros(n, np.float32), 16000))
    assert 1 <= pixels.shape[1] <= spectrogram.PICTURE_FRAMES + 1
