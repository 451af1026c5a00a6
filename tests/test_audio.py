"""codec.audio, codec.audiowriter, codec.containers: real files, laws of chunking and length, hostile input."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import codec
from codec import audio
from codec.audio import AudioReader, AudioWriter, resampled_length
from codec.errors import AudioError

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "tests" / "fixtures"
DEMO = FIXTURES / "demo.flac"
SUFFIXES = ["wav", "flac", "ogg", "opus", "mp3"]


@pytest.fixture(scope="module")
def speech() -> audio.Audio:
    return audio.read(DEMO)[0]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, speech: audio.Audio) -> Callable[[str, int], Path]:
    """Give the demo's first second and a half in a format, at a rate, stereo."""
    folder = tmp_path_factory.mktemp("formats")

    def make(suffix: str, rate: int) -> Path:
        path = folder / f"{rate}.{suffix}"
        if not path.exists():
            signal = audio.resample(speech[:, :24000], 16000, rate)
            audio.write(path, np.concatenate([signal, 0.5 * signal]), rate)
        return path

    return make


def whole(path: Path | IO[bytes], **options: object) -> audio.Audio:
    with AudioReader(path, **options) as reader:  # type: ignore[arg-type]
        return np.concatenate(list(reader), axis=1)


# shapes


def test_fitting_mixes_or_keeps_the_channels() -> None:
    batch = np.random.default_rng(0).standard_normal((3, 2, 500)).astype(np.float32)
    assert audio.fit(batch, 16000, 8000, channels="mix").shape == (3, 1, 250)
    assert audio.fit(batch, 16000, 8000, channels="keep").shape == (3, 2, 250)


@given(st.integers(0, 2000), st.integers(1, 640), st.integers(0, 700))
def test_padding_makes_whole_frames_of_silence(n: int, hop_length: int, delay: int) -> None:
    padded, n_samples = audio.pad_to_hop(np.ones((1, n), np.float32), hop_length, delay=delay)
    assert n_samples == n
    assert padded.shape[1] == -(-(n + delay) // hop_length) * hop_length
    assert padded.sum() == n


# reading


def test_a_real_file_is_read_whole(speech: audio.Audio) -> None:
    expected, rate = soundfile.read(DEMO, dtype="float32")
    assert rate == 16000
    assert speech.dtype == np.float32
    np.testing.assert_array_equal(speech[0], expected)


@pytest.mark.parametrize("rate", [16000, 48000])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_reads_the_same_in_any_chunks(files: Callable[[str, int], Path], suffix: str, rate: int) -> None:
    path = files(suffix, rate)
    reference = whole(path, sample_rate=24000, chunk=100.0)
    assert reference.shape == (2, resampled_length(24000, 16000, 24000))
    for chunk in (0.01, 0.37):
        with AudioReader(path, sample_rate=24000, chunk=chunk) as reader:
            chunks = list(reader)
            assert reader.n_samples == reader.n_samples_total == 36000
            assert (reader.source_rate, reader.source_channels, reader.n_channels) == (rate, 2, 2)
        assert {part.shape[1] for part in chunks[:-1]} == {round(chunk * 24000)}
        np.testing.assert_array_equal(np.concatenate(chunks, axis=1), reference)


def test_mp3_in_blocks_is_what_a_single_read_gives(files: Callable[[str, int], Path]) -> None:
    """Left alone, soundfile seeks between blocks, and libmpg123 then gives wrong samples at the seams."""
    path = files("mp3", 48000)
    expected, _ = soundfile.read(path, dtype="float32", always_2d=True)
    np.testing.assert_allclose(whole(path), expected.T, atol=1e-5)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_file_objects_and_pipes_read_as_the_file_does(files: Callable[[str, int], Path], suffix: str) -> None:
    path = files(suffix, 16000)
    np.testing.assert_array_equal(whole(io.BytesIO(path.read_bytes())), whole(path))
    with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as source:
        assert source.stdout is not None
        np.testing.assert_array_equal(whole(source.stdout), whole(path))
    assert whole(path).shape == (2, 24000)


def test_mixing_takes_the_mean_and_keeping_keeps(files: Callable[[str, int], Path]) -> None:
    path = files("flac", 16000)
    kept = whole(path)
    np.testing.assert_array_equal(whole(path, channels="mix"), audio.mix(kept))
    np.testing.assert_allclose(audio.mix(kept)[0], (kept[0] + kept[1]) / 2, atol=1e-7)


@pytest.mark.parametrize("n", [1, 2, 319])
def test_the_shortest_files_keep_their_length(tmp_path: Path, n: int) -> None:
    path = tmp_path / "short.wav"
    audio.write(path, np.full((1, n), 0.5, np.float32), 44100)
    assert whole(path).shape == (1, n)
    assert whole(path, sample_rate=16000).shape == (1, resampled_length(n, 44100, 16000))


def test_an_hour_needs_no_more_memory_than_a_second(tmp_path: Path) -> None:
    path = tmp_path / "hour.wav"
    minute = np.zeros((1, 60 * 8000), np.float32)
    with AudioWriter(path, 8000, 1) as writer:
        for _ in range(60):
            writer.write(minute)
    tracemalloc.start()
    with AudioReader(path, sample_rate=8000) as reader:
        n = sum(chunk.shape[1] for chunk in reader)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n == 3600 * 8000
    assert peak < 4_000_000


def test_a_wav_of_unknown_length_is_read_to_its_end(files: Callable[[str, int], Path]) -> None:
    data = files("wav", 16000).read_bytes()
    for size in (0xFFFFFFFF, 0x7FFFF000):
        piped = data[:4] + struct.pack("<I", size) + data[8:40] + struct.pack("<I", size) + data[44:]
        np.testing.assert_array_equal(whole(io.BytesIO(piped)), whole(files("wav", 16000)))


def test_a_flac_of_unknown_length_is_read_to_its_end(files: Callable[[str, int], Path]) -> None:
    data = bytearray(files("flac", 16000).read_bytes())
    data[21] &= 0xF0  # STREAMINFO, total samples: 36 bits, 0 means unknown
    data[22:26] = bytes(4)
    with AudioReader(io.BytesIO(bytes(data))) as reader:
        assert reader.n_samples_total is None
        assert sum(chunk.shape[1] for chunk in reader) == 24000


# hostile input


def refusal(source: object) -> str:
    with pytest.raises(AudioError) as caught:
        whole(source)  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_truncated_file_is_refused_wherever_it_ends(files: Callable[[str, int], Path], suffix: str) -> None:
    data = files(suffix, 16000).read_bytes()
    # The last frames of an MP3 may be missing unseen: its tag may count the encoder's padding or not.
    slack = 2000 if suffix == "mp3" else 4
    for size in (0, 1, 10, 60, 300, len(data) // 3, len(data) // 2, len(data) - slack):
        assert refusal(io.BytesIO(data[:size])).startswith("audio: ")


def test_a_flipped_bit_gives_audio_or_one_clear_error(files: Callable[[str, int], Path]) -> None:
    generator = np.random.default_rng(1)
    for suffix in ("wav", "flac", "ogg"):
        data = files(suffix, 16000).read_bytes()
        for _ in range(25):
            damaged = bytearray(data)
            damaged[generator.integers(0, min(600, len(data)))] ^= 1 << int(generator.integers(8))
            read, text = np.zeros((1, 1), np.float32), ""
            try:
                read = whole(io.BytesIO(bytes(damaged)))
            except AudioError as failure:
                text = str(failure)
            assert np.isfinite(read).all()
            assert "\n" not in text


def test_what_is_no_audio_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not audio at all\n" * 100)
    (tmp_path / "notes.raw").write_text("not audio at all\n" * 100)
    (tmp_path / "empty.wav").touch()
    assert "not an audio file" in refusal(tmp_path / "notes.txt")
    assert "not an audio file" in refusal(tmp_path / "notes.raw")
    assert refusal(tmp_path / "empty.wav").endswith("empty.wav: empty file; nothing to encode")
    assert "no such file" in refusal(tmp_path / "missing.wav")
    assert "is a folder" in refusal(tmp_path)


def test_no_samples_and_low_rates_are_refused(tmp_path: Path) -> None:
    audio.write(tmp_path / "talk.wav", np.zeros((1, 0), np.float32), 16000)
    assert refusal(tmp_path / "talk.wav").endswith("talk.wav: no samples; nothing to encode")
    audio.write(tmp_path / "low.wav", np.zeros((1, 10), np.float32), 7999)
    assert "7999 Hz; at least 8000 Hz" in refusal(tmp_path / "low.wav")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_samples_that_are_not_numbers_are_refused_with_their_place(tmp_path: Path, value: float) -> None:
    signal = np.zeros((1, 40000), np.float32)
    signal[0, 33333] = value
    audio.write(tmp_path / "bad.wav", signal, 16000, subtype="FLOAT")
    assert "bad.wav: sample 33333 is NaN, infinite or absurdly large" in refusal(tmp_path / "bad.wav")


def test_names_that_are_not_utf8_are_read_and_written(tmp_path: Path, speech: audio.Audio) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/t\xe9l\xff.wav"))
    audio.write(path, speech[:, :100], 16000)
    assert whole(path).shape == (1, 100)


def test_reading_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    whole(io.BytesIO(DEMO.read_bytes()))
    refusal(io.BytesIO(b"not audio"))
    with pytest.raises(AudioError, match="before the section does"):
        AudioReader(io.BytesIO(DEMO.read_bytes()), section=(60.0, None))
    assert list(tmp_path.iterdir()) == []


# writing


def test_a_closed_file_takes_nothing_more_and_leaves_nothing_beside_it(tmp_path: Path, speech: audio.Audio) -> None:
    writer = AudioWriter(tmp_path / "x.wav", 16000, 1)
    writer.write(speech)
    writer.close()
    with pytest.raises(AudioError, match="closed"):
        writer.write(speech)
    assert [path.name for path in tmp_path.iterdir()] == ["x.wav"]


@pytest.mark.parametrize("kind", ["wav PCM_16", "wav PCM_24", "flac PCM_16", "wav FLOAT"])
def test_what_was_read_from_a_lossless_file_is_written_unchanged(
    tmp_path: Path, speech: audio.Audio, kind: str
) -> None:
    suffix, subtype = kind.split()
    path = tmp_path / f"copy.{suffix}"
    audio.write(path, speech, 16000, subtype=subtype)
    np.testing.assert_array_equal(audio.read(path)[0], speech)
    assert soundfile.info(path).subtype == subtype


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 500), max_size=8))
def test_chunks_are_written_one_after_another(sizes: list[int]) -> None:
    signal = np.random.default_rng(0).uniform(-1, 1, (2, sum(sizes))).astype(np.float32)
    target = io.BytesIO()
    with AudioWriter(target, 16000, 2) as writer:
        for part in np.split(signal, np.cumsum(sizes)[:-1], axis=1) if sizes else []:
            writer.write(part)
    assert writer.n_samples == sum(sizes)
    read, rate = soundfile.read(io.BytesIO(target.getvalue()), dtype="float32", always_2d=True)
    assert rate == 16000
    np.testing.assert_allclose(read.T, signal, atol=2**-15)


def test_what_is_beyond_full_scale_is_cut_and_counted(tmp_path: Path) -> None:
    signal = np.array([[0.0, 1.0, 1.5, -1.0, -7.0]], np.float32)
    cut = np.array([0, 1 - 2**-15, 1 - 2**-15, -1, -1], np.float32)
    for name, subtype, expected in (("int.wav", None, cut), ("f.wav", "FLOAT", signal[0])):
        with AudioWriter(tmp_path / name, 16000, 1, subtype=subtype) as writer:
            writer.write(signal)
        assert writer.n_clipped == (2 if subtype is None else 0)
        np.testing.assert_array_equal(audio.read(tmp_path / name)[0][0], expected)


def test_a_pipe_gets_a_wav_of_unknown_length_that_reads_back(speech: audio.Audio) -> None:
    code = "import sys; from codec import audio; audio.write(sys.stdout.buffer, *audio.read(sys.argv[1]))"
    shown = subprocess.run([sys.executable, "-c", code, DEMO], stdout=subprocess.PIPE, cwd=ROOT, check=True).stdout
    assert shown[40:44] == b"\xff" * 4
    np.testing.assert_array_equal(whole(io.BytesIO(shown)), speech)


@pytest.mark.skipif(os.name == "nt", reason="Windows names this error otherwise")
def test_a_reader_of_a_pipe_that_goes_away_is_no_error_of_the_audio(speech: audio.Audio) -> None:
    """So `codec decode x.codes - | head -c 100` ends as quietly as any other program does."""
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(BrokenPipeError), open(writer, "wb", buffering=0) as pipe:
        audio.write(pipe, speech, 16000)


def test_a_redirected_file_gets_its_true_length_unless_appended(tmp_path: Path, speech: audio.Audio) -> None:
    for mode, known in (("wb", True), ("ab", False)):
        path = tmp_path / f"{mode}.wav"
        with open(path, mode) as file:
            assert isinstance(file, io.BufferedWriter)
            audio.write(file, speech, 16000)
        assert (path.read_bytes()[40:44] == struct.pack("<I", 2 * speech.size)) is known
        np.testing.assert_array_equal(audio.read(path)[0], speech)


def test_samples_that_are_not_numbers_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="NaN or infinite"):
        audio.write(tmp_path / "x.wav", np.array([[0, np.nan]], np.float32), 16000)
    assert list(tmp_path.iterdir()) == []


def test_the_public_writer_takes_what_decode_gives_and_replaces_an_old_file(
    tmp_path: Path, speech: audio.Audio
) -> None:
    for kind in (speech, speech[0], torch.from_numpy(speech[0]), speech.astype(np.float64)):
        codec.write_audio(tmp_path / "x.wav", kind, 16000)
        np.testing.assert_array_equal(codec.read_audio(tmp_path / "x.wav")[0], speech)
    with pytest.raises(AudioError, match="exists"):
        codec.write_audio(tmp_path / "x.wav", speech, 16000, overwrite=False)


@pytest.mark.parametrize(
    ("path", "shape", "rate", "subtype", "reason"),
    [
        (None, (5,), 16000, None, "not a path"),
        ("x.wav", (1, 1, 5), 16000, None, "expected .samples,. or .channels, samples."),
        ("x.wav", (500, 2), 16000, None, "samples are the last axis"),
        ("x.wav", (5,), "16k", None, "sample_rate='16k': use whole Hz"),
        ("x.wav", (5,), 0, None, "sample_rate=0: use whole Hz"),
        ("x.wav", (5,), 16000, 24, "subtype=24: use one of"),
        ("x.wav", (5,), 16000, "PCM_25", "cannot be written; choose another"),
        ("x.m4a", (5,), 16000, None, "unknown audio suffix"),
    ],
)
def test_the_public_writer_refuses_by_name_what_it_cannot_write(
    tmp_path: Path, path: Any, shape: tuple[int, ...], rate: Any, subtype: Any, reason: str
) -> None:
    with pytest.raises(AudioError, match=reason):
        codec.write_audio(path and tmp_path / path, np.zeros(shape, np.float32), rate, subtype=subtype)
    assert list(tmp_path.iterdir()) == []


def interrupted(path: Path, speech: audio.Audio) -> None:
    with AudioWriter(path, 16000, 1) as writer:
        writer.write(speech)
        raise KeyboardInterrupt


def test_an_exception_or_ctrl_c_leaves_nothing(tmp_path: Path, speech: audio.Audio) -> None:
    for suffix in SUFFIXES:
        with pytest.raises(KeyboardInterrupt):
            interrupted(tmp_path / f"x.{suffix}", speech)
    assert list(tmp_path.iterdir()) == []


def test_existing_files_unknown_suffixes_and_impossible_rates_are_refused(tmp_path: Path, speech: audio.Audio) -> None:
    (tmp_path / "old.wav").write_bytes(b"old")
    cases: list[tuple[str, int, str]] = [
        ("old.wav", 16000, "old.wav exists; pass overwrite=True"),
        ("x.xyz", 16000, "unknown audio suffix .xyz; use one of .wav"),
        ("x.opus", 44100, "44100 Hz, 1 channels as OGG OPUS cannot be written"),
        ("no/x.wav", 16000, "no such file or folder"),
    ]
    for name, rate, text in cases:
        with pytest.raises(AudioError, match=text):
            audio.write(tmp_path / name, speech, rate)
    with (
        pytest.raises(AudioError, match="takes \\(2, samples\\)"),
        AudioWriter(tmp_path / "two.wav", 16000, 2) as writer,
    ):
        writer.write(speech)
    assert [path.name for path in tmp_path.iterdir()] == ["old.wav"]


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """Limit the size of files, which fails as a full disk does."""
    resource = pytest.importorskip("resource", reason="limits are of POSIX")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, speech: audio.Audio, suffix: str, small_files: Callable[[int], None]
) -> None:
    path = tmp_path / f"x.{suffix}"
    speech = speech[..., :32000]
    audio.write(path, speech, 16000)
    size = path.stat().st_size
    path.unlink()
    # The last sizes fail when libsndfile closes the file, which it does not tell.
    for limit in (0, 1, 100, size // 2, size - 300, size - 1):
        small_files(limit)
        with pytest.raises(AudioError, match=f"x.{suffix}: cannot be written: no space left"):
            audio.write(path, speech, 16000)
        small_files(1 << 40)
        assert list(tmp_path.iterdir()) == []
