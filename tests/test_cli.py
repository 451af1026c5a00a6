"""The command line: files, folders, pipes; one clear line for every mistake, and no target after it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

import codec
from codec.api import Model
from codec.audio import write
from support.commandline import only_line

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "tests" / "fixtures"
DEMO = FIXTURES / "demo.flac"
SHORT = FIXTURES / "librispeech_4267_287369-0000.flac"

Speech = npt.NDArray[np.float32]
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]
Call = Callable[..., tuple[int, str, str]]


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# the real command


def test_encode_info_and_decode_a_file(call: Call, tmp_path: Path) -> None:
    code, out, err = call("encode", DEMO, tmp_path / "x.codes", "--bitrate", "2k")
    assert (code, out) == (0, "")
    line = only_line(err)
    assert line.startswith(f"{DEMO} -> {tmp_path / 'x.codes'}: 6.04 s, 2 kbit/s, ")
    assert line.endswith(" real time")
    facts = json.loads(call("info", "--json", tmp_path / "x.codes")[1])
    assert (facts["model"], facts["codebooks"], facts["bitrate"], facts["samples"]) == ("default_16k", 4, 2000.0, 96640)
    code, _, err = call("decode", tmp_path / "x.codes")
    assert code == 0, err
    assert soundfile.info(tmp_path / "x.wav").frames == 96640
    assert names(tmp_path) == ["x.codes", "x.wav"]


def test_stdin_and_stdout_of_real_processes_carry_audio_and_codes(run: Run, embedded: Model) -> None:
    encoded = run("encode", "-", "-", stdin=SHORT.read_bytes())
    assert encoded.returncode == 0, encoded.stderr
    assert only_line(encoded.stderr.decode()).startswith("<stdin> -> <stdout>: 3.36 s")
    decoded = run("decode", "-", stdin=encoded.stdout)
    assert decoded.returncode == 0, decoded.stderr
    samples = np.frombuffer(decoded.stdout[44:], "<i2")
    audio = soundfile.read(SHORT, dtype="float32")[0]
    wanted = np.rint(embedded.decode(embedded.encode(audio)) * 32768.0).clip(-32768, 32767)
    assert np.array_equal(samples, wanted)


def test_models_lists_the_embedded_one(call: Call) -> None:
    code, out, _ = call("models")
    assert code == 0
    assert out.startswith("default_16k: 16000 Hz, 50 frames/s, up to 8 codebooks of 1024, 1, 2, 3, 4 kbit/s, latency ")
    assert json.loads(call("models", "--json")[1])["name"] == "default_16k"


def test_a_bare_command_prints_the_help_and_is_wrong_usage(call: Call) -> None:
    code, _, err = call()
    assert code == 2
    assert err.startswith("Usage: codec")


# batches


@pytest.fixture
def folder(speech: Speech, tmp_path: Path) -> Path:
    """Two good files, one in a folder within, and one that is no audio."""
    place = tmp_path / "in"
    (place / "deep").mkdir(parents=True)
    write(place / "a.wav", speech[None, :4000], 16000)
    write(place / "deep" / "b.flac", speech[None, :4000], 16000)
    (place / "bad.wav").write_text("not audio at all")
    (place / "notes.txt").write_text("left alone")
    return place


def test_a_batch_goes_on_after_a_bad_file_and_ends_with_a_table(
    call: Call, tiny_path: Path, folder: Path, tmp_path: Path
) -> None:
    code, _, err = call("encode", folder, tmp_path / "out", "--model", tiny_path)
    assert code == 1
    assert names(tmp_path / "out") == ["a.codes", "deep", "deep/b.codes"]
    assert "1 of 3 files failed" in err
    assert "bad.wav" in err.split("1 of 3 files failed")[1]
    code, _, err = call("decode", tmp_path / "out", tmp_path / "back", "--model", tiny_path)
    assert code == 0, err
    assert names(tmp_path / "back") == ["a.wav", "deep", "deep/b.wav"]
    code, _, err = call("encode", folder, tmp_path / "out", "--model", tiny_path)
    assert code == 1
    assert "3 of 3 files failed" in err


def test_a_glob_takes_what_it_names(call: Call, tiny_path: Path, folder: Path, tmp_path: Path) -> None:
    code, _, err = call("encode", folder / "**" / "[ab].*", tmp_path / "out", "--model", tiny_path, "--quiet")
    assert (code, err) == (0, "")
    assert names(tmp_path / "out") == ["a.codes", "b.codes"]


def test_without_a_target_the_codes_lie_beside_the_audio(call: Call, tiny_path: Path, folder: Path) -> None:
    assert call("encode", folder / "a.wav", "--model", tiny_path)[0] == 0
    assert (folder / "a.codes").is_file()


def test_sources_that_differ_in_their_suffix_alone_keep_it(
    call: Call, tiny_path: Path, folder: Path, tmp_path: Path
) -> None:
    (folder / "a.flac").write_bytes((folder / "deep" / "b.flac").read_bytes())
    (folder / "bad.wav").unlink()
    assert call("encode", folder, tmp_path / "out", "--model", tiny_path)[0] == 0
    assert names(tmp_path / "out") == ["a.flac.codes", "a.wav.codes", "deep", "deep/b.codes"]


def test_two_sources_for_one_target_are_refused_before_any_work(
    call: Call, tiny_path: Path, folder: Path, tmp_path: Path
) -> None:
    (folder / "a.flac").write_bytes((folder / "deep" / "b.flac").read_bytes())
    (folder / "deep" / "a.flac").write_bytes((folder / "a.flac").read_bytes())
    code, _, err = call("encode", folder / "a.flac", folder / "deep" / "a.flac", tmp_path / "out", "--model", tiny_path)
    assert code == 2
    assert "would both become" in only_line(err)
    assert not (tmp_path / "out").exists()


def test_many_files_need_a_folder(call: Call, tiny_path: Path, folder: Path) -> None:
    for target in ("-", folder / "notes.txt"):
        code, _, err = call("encode", folder, target, "--model", tiny_path)
        assert code == 2
        assert "need a folder as target" in only_line(err)


def test_of_several_names_the_last_is_the_folder(call: Call, tiny_path: Path, folder: Path, tmp_path: Path) -> None:
    sources = [folder / "a.wav", folder / "deep" / "b.flac"]
    assert call("encode", *sources, tmp_path / "codes", "--model", tiny_path)[0] == 0
    assert names(tmp_path / "codes") == ["a.codes", "b.codes"]
    for target in ("c.wav", "c.codes"):
        code, _, err = call("encode", *sources, tmp_path / target, "--model", tiny_path, "--overwrite")
        assert code == 2
        assert "2 files need a folder as target" in only_line(err)


def test_a_shell_pattern_without_a_target_costs_no_recording(call: Call, tiny_path: Path, folder: Path) -> None:
    """`codec encode *.wav --overwrite` where there are two of them."""
    kept = folder / "deep" / "b.flac"
    before = kept.read_bytes()
    assert call("encode", folder / "a.wav", kept, "--model", tiny_path, "--overwrite")[0] == 2
    assert kept.read_bytes() == before


def test_info_goes_on_after_a_bad_file(call: Call, coded: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.codes").write_bytes(b"RIFF")
    code, out, err = call("info", tmp_path / "bad.codes", coded, tmp_path / "none.codes")
    assert code == 1
    assert "  model           tiny\n" in out
    assert err.count("\n") == 2


# ten odd inputs, and some more


def wav(path: Path, samples: Sequence[float] | Speech, subtype: str = "FLOAT", rate: int = 16000) -> Path:
    soundfile.write(path, np.asarray(samples, np.float32), rate, subtype, format="WAV")
    return path


def cut(path: Path) -> Path:
    wav(path, np.zeros(8000, np.float32), "PCM_16")
    path.write_bytes(path.read_bytes()[:-1000])
    return path


def text(path: Path, content: str = "") -> Path:
    path.write_text(content)
    return path


ODD_SOURCES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda path: path, "no such file or folder"),
    "empty": (text, "empty file; nothing to encode"),
    "text": (lambda path: text(path, "hello\n" * 100), "not an audio file"),
    "truncated": (cut, "truncated"),
    "NaN": (lambda path: wav(path, [0.0, 0.1, np.nan]), "sample 2 is NaN"),
    "infinite": (lambda path: wav(path, [np.inf]), "sample 0 is NaN, infinite"),
    "no samples": (lambda path: wav(path, []), "no samples"),
    "absurd rate": (lambda path: wav(path, [0.0], rate=1 << 30), "at most 768000 Hz can be"),
}


@pytest.mark.parametrize("case", ODD_SOURCES)
def test_an_odd_source_is_one_clear_line_and_no_target(call: Call, tiny_path: Path, tmp_path: Path, case: str) -> None:
    make, reason = ODD_SOURCES[case]
    (tmp_path / "out").mkdir()
    source = make(tmp_path / "odd.wav")
    code, out, err = call("encode", source, tmp_path / "out" / "x.codes", "--model", tiny_path)
    assert (code, out) == (1, "")
    line = only_line(err)
    assert line.startswith(f"codec: {source}: ")
    assert reason in line
    assert not names(tmp_path / "out")


USAGE: dict[str, tuple[list[str], int, str]] = {
    "no such model": (["--model", "nope"], 1, "nope: no such model"),
    "no such device": (["--device", "tpu"], 1, "use cpu, cuda or mps"),
    "bitrate of words": (["--bitrate", "fast"], 2, "--bitrate fast: not a bitrate; write 2000 or 2k"),
    "bitrate too small": (["--bitrate", "200"], 2, "bitrate=200: tiny has 500, 1000 bit/s"),
    "bitrate in kilobits": (["--bitrate", "2"], 2, "for kilobits write 2k"),
    "codebooks": (["--codebooks", "3"], 2, "codebooks=3: tiny has 2, 4"),
    "both": (["--codebooks", "2", "--bitrate", "1k"], 2, "give one of them"),
    "channels": (["--channels", "left"], 2, "'left' is not one of 'mix', 'keep'"),
    "mode": (["--mode", "chunk"], 2, "'chunk' is not one of 'block', 'frame'"),
    "engine": (["--engine", "jax"], 2, "'jax' is not one of 'auto', 'onnx', 'onnx-int8', 'torch'"),
    "engine without graphs": (["--engine", "onnx"], 1, "has no ONNX graphs"),
    "option": (["--fast"], 2, "--fast"),
}


@pytest.mark.parametrize("case", USAGE)
def test_a_wrong_option_is_one_clear_line_and_no_target(call: Call, tiny_path: Path, tmp_path: Path, case: str) -> None:
    options, wanted, reason = USAGE[case]
    model = [] if "--model" in options else ["--model", tiny_path]
    code, _, err = call("encode", SHORT, tmp_path / "x.codes", *model, *options)
    assert code == wanted
    line = only_line(err)
    assert line.startswith("codec: ")
    assert reason in line
    assert ("see codec encode --help" in line) is (wanted == 2)
    assert not names(tmp_path)


BAD_TARGETS: dict[str, tuple[str, int, str]] = {
    "in a missing folder": ("none/x.codes", 1, "no such file or folder"),
    "in a file": ("kept.codes/x.codes", 1, "cannot be written"),
    "existing": ("kept.codes", 1, "exists; pass overwrite=True"),
    "where nobody may write": ("/proc/x.codes", 1, "x.codes: cannot be written"),
    "empty": ("", 2, "an empty name"),
    "a recording": ("kept.wav", 2, "kept.wav: is named like a source"),
}


@pytest.mark.parametrize("case", BAD_TARGETS)
def test_a_target_that_cannot_be_written_is_one_clear_line(
    call: Call, tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    target, wanted, reason = BAD_TARGETS[case]
    text(tmp_path / "kept.codes", "kept")
    monkeypatch.chdir(tmp_path)
    code, _, err = call("encode", SHORT, target, "--model", tiny_path)
    assert code == wanted
    assert reason in only_line(err)
    assert names(tmp_path) == ["kept.codes"]
    assert (tmp_path / "kept.codes").read_text() == "kept"


@pytest.mark.parametrize(("command", "stream"), [("encode", "stdin"), ("encode", "stdout"), ("decode", "stdin")])
def test_a_pipe_that_is_closed_is_one_clear_line(
    call: Call, tiny_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, stream: str
) -> None:
    """A service may start a program without stdin or stdout: `codec encode - x.codes <&-`."""
    monkeypatch.setattr(f"sys.{stream}", None)
    code, _, err = call(command, "-" if stream == "stdin" else SHORT, "-", "--model", tiny_path)
    assert code == 1
    assert only_line(err) == f"codec: <{stream}>: is closed; give a file instead of -"


def test_an_empty_source_is_not_taken_for_this_folder(call: Call, tiny_path: Path) -> None:
    code, _, err = call("encode", "", "--model", tiny_path)
    assert code == 2
    assert "an empty name" in only_line(err)


def test_a_file_is_never_its_own_target(call: Call, tiny_path: Path, tmp_path: Path) -> None:
    source = tmp_path / "a.wav"
    source.write_bytes(SHORT.read_bytes())
    code, _, err = call("encode", source, source, "--overwrite", "--model", tiny_path)
    assert code == 2
    assert "is source and target" in only_line(err)
    assert source.read_bytes() == SHORT.read_bytes()


ODD_CODES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "the file ends in its first five bytes"),
    "audio": (lambda data: SHORT.read_bytes(), "not a .codes file"),
    "future version": (lambda data: data[:4] + b"\x09" + data[5:], "container version 9"),
    "damaged header": (lambda data: data[:12] + bytes([data[12] ^ 1]) + data[13:], "header: CRC-32 does not match"),
    "no whole block": (lambda data: data[:90], "nothing can be decoded"),
}


@pytest.mark.parametrize("case", ODD_CODES)
def test_an_odd_codes_file_is_one_clear_line_and_no_target(
    call: Call, tiny_path: Path, coded: Path, tmp_path: Path, case: str
) -> None:
    damage, reason = ODD_CODES[case]
    source = tmp_path / "odd.codes"
    source.write_bytes(damage(coded.read_bytes()))
    code, _, err = call("decode", source, "--model", tiny_path)
    assert code == 1
    line = only_line(err)
    assert line.startswith(f"codec: {source}: byte ")
    assert reason in line
    assert names(tmp_path) == ["odd.codes"]


def test_a_damaged_codes_file_gives_its_good_part_a_warning_and_exit_code_3(
    call: Call, tiny_path: Path, coded: Path, tmp_path: Path
) -> None:
    source = tmp_path / "cut.codes"
    source.write_bytes(coded.read_bytes()[:-60])
    code, _, err = call("decode", source, "--model", tiny_path)
    assert code == 3
    warning, line = err.splitlines()
    assert warning.startswith(f"warning: {source}: byte ")
    assert "the file ends in it" in warning
    assert line.startswith(f"{source} -> {tmp_path / 'cut.wav'}")
    assert soundfile.info(tmp_path / "cut.wav").frames > 16000
    assert call("info", source)[0] == 3


def test_codes_of_a_model_that_is_not_here_name_it(call: Call, coded: Path, tmp_path: Path) -> None:
    code, _, err = call("decode", coded, tmp_path / "x.wav")
    assert code == 1
    assert "made by the model 'tiny'" in only_line(err)
    code, _, err = call("decode", coded, tmp_path / "x.wav", "--model", "default_16k")
    assert code == 1
    assert "codes of tiny" in only_line(err)
    assert not names(tmp_path)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--start", "9"], "no audio from 9 s to 3 s of 3.00 s"),
        (["--start", "nan"], "no audio from nan"),
        (["--sample-rate", "100"], "sample_rate=100: use whole Hz from 8000"),
    ],
)
def test_a_section_or_rate_that_cannot_be_is_one_clear_line(
    call: Call, tiny_path: Path, coded: Path, tmp_path: Path, options: list[str], reason: str
) -> None:
    code, _, err = call("decode", coded, tmp_path / "x.wav", "--model", tiny_path, *options)
    assert code == 1
    assert reason in only_line(err)
    assert not names(tmp_path)


def test_an_audio_suffix_that_cannot_be_written_is_one_clear_line(
    call: Call, tiny_path: Path, coded: Path, tmp_path: Path
) -> None:
    code, _, err = call("decode", coded, tmp_path / "x.aac", "--model", tiny_path)
    assert code == 1
    assert "unknown audio suffix .aac; use one of .wav" in only_line(err)


def test_the_version_is_that_of_the_package(call: Call) -> None:
    assert call("--version")[1].strip() == f"codec {codec.__version__}"
