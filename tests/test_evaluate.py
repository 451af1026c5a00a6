"""`codec eval`: scores of real speech as a table and as files; one clear line for every mistake."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from codec.api import Model
from codec.audio import write
from codec.quality import evaluate as evaluation
from codec.quality.evaluate import measured_bitrate, spread
from support.commandline import only_line

FIXTURES = Path(__file__).resolve().parent / "fixtures"

Speech = npt.NDArray[np.float32]
Call = Callable[..., tuple[int, str, str]]


def test_eval_prints_a_table_and_writes_the_reports(
    call: Call, tiny_path: Path, speech: Speech, tmp_path: Path
) -> None:
    (data := tmp_path / "in").mkdir()
    for i, name in enumerate(("a.wav", "b.wav", "c.wav")):
        write(data / name, speech[None, 16000 * i : 16000 * (i + 2)], 16000)
    code, table, err = call("eval", tiny_path, data, "--out", tmp_path / "out", "--limit", "2", "--examples", "1")
    assert code == 0, err
    assert "PESQ-WB" in table
    assert "RTF decode" in table
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "report.json", "scores.csv"]
    with (tmp_path / "out" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted({(row["file"], row["codebooks"]) for row in rows}) == [
        (file, count) for file in ("a.wav", "c.wav") for count in ("2", "4")
    ]
    assert all(float(row["rtf_encode"]) > 0 and float(row["rtf_decode"]) > 0 for row in rows)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["model"] == "tiny"
    assert report["machine"]
    assert report["command"] == f"codec eval {tiny_path} {data} --out {tmp_path / 'out'} --limit 2 --examples 1"
    assert len(report["codebook_use"]) == 4
    assert 1000 <= report["summaries"][1]["bitrate"] < 1060  # the last frame is not full, the delay adds one
    assert (tmp_path / "out" / "report.html").read_text().count("<audio") == 3


def test_eval_in_noise_and_by_group_says_what_was_judged(call: Call, tiny_path: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "files.csv"
    manifest.write_text(f"path,language\n{FIXTURES / 'talk.flac'},English\n")
    noise = ("--snr", "10", "--noise", FIXTURES / "demo.flac", "--reference", "clean")
    groups = ("--manifest", manifest, "--by", "language", "--metrics", "si_sdr", "--codebooks", "2")
    code, out, err = call("eval", tiny_path, FIXTURES / "talk.flac", *noise, *groups)
    assert code == 0, err
    assert "10 dB SNR, judged against the clean speech" in " ".join(out.split())
    assert "(English, 1 files" in out


def test_eval_goes_on_after_a_bad_file_and_tells(call: Call, tiny_path: Path, speech: Speech, tmp_path: Path) -> None:
    write(tmp_path / "a.wav", speech[None, :4000], 16000)
    (tmp_path / "bad.wav").write_text("not audio at all")
    code, out, err = call("eval", tiny_path, tmp_path, "--codebooks", "2")
    assert code == 1
    assert "1 files" in out
    assert "1 of 2 files failed" in err
    assert "not an audio file" in " ".join(err.split())


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        (["--codebooks", "2,3"], 2, "codebooks=3: tiny has 2, 4"),
        (["--codebooks", "two"], 2, "--codebooks two: not numbers; write 2,4,8"),
        (["--limit", "0"], 2, "--limit"),
        (["--out", "/proc/out"], 1, "/proc/out: cannot be made a folder"),
        (["--snr", "10"], 2, "--snr and --noise go together"),
        (["--by", "language"], 2, "--manifest and --by go together"),
    ],
)
def test_a_wrong_eval_is_one_clear_line(
    call: Call, tiny_path: Path, options: list[str], code: int, reason: str
) -> None:
    got, out, err = call("eval", tiny_path, FIXTURES, *options)
    assert (got, out) == (code, "")
    assert reason in only_line(err)


def test_eval_without_audio_is_one_clear_line(call: Call, tiny_path: Path, tmp_path: Path) -> None:
    assert "no file ending in" in only_line(call("eval", tiny_path, tmp_path)[2])
    (tmp_path / "bad.wav").write_text("no audio")
    code, _, err = call("eval", tiny_path, tmp_path)
    assert code == 1
    assert "none of 1 files could be evaluated; bad.wav: not an audio file" in only_line(err)


def test_the_measured_bitrate_counts_the_bits_of_the_codes(tiny: Model, speech: Speech) -> None:
    codes = tiny.encode(speech[:16000], codebooks=2)
    assert codes.n_frames == 52
    assert measured_bitrate(codes) == 52 * 2 * 5


@pytest.mark.slow
def test_decoded_files_do_not_pile_up_before_judges_that_are_slower(speech: Speech) -> None:
    waiting, most = [], 0
    with evaluation._open_scorer(1 + 1, ("si_sdr",)) as scorer:
        for _ in range(12):  # a process that scores takes a second to start
            waiting.append(scorer(speech, speech, 16000))
            most = max(most, sum(not done.done() for done in waiting))
    assert most <= 2 * evaluation.WAITING < 12
    assert all(done.result()["si_sdr"] > 60 for done in waiting)


def test_examples_are_spread_over_all_files() -> None:
    assert spread(10, 4) == (0, 3, 6, 9)
    assert spread(3, 4) == (0, 1, 2)
    assert (spread(5, 1), spread(5, 0), spread(0, 3)) == ((0,), (), ())
