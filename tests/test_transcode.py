"""codec.transcode: files give what the API gives, in constant memory; damage, sections, pipes."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

import codec
from codec import codesfile
from codec.api import Model, load
from codec.audio import read, resample, write
from codec.codes import make_header
from codec.config import Part
from codec.errors import AudioError, CodecError, CodesError, CodesFileError, ModelError
from codec.transcode import DecodeOptions, EncodeOptions, decode_file, encode_file, open_named_model

Speech = npt.NDArray[np.float32]

FIXTURES = Path(__file__).resolve().parent / "fixtures"
DEMO = FIXTURES / "demo.flac"


def encode(model: Model, source: Path, target: Path, **options: object) -> Path:
    encode_file(model, source, target, EncodeOptions(**options))  # type: ignore[arg-type]
    return target


def decode(model: Model, source: Path, target: Path, **options: object) -> tuple[str, ...]:
    done = decode_file(lambda header: model, source, target, DecodeOptions(**options))  # type: ignore[arg-type]
    return done.warnings


def pcm(path: Path) -> npt.NDArray[np.int16]:
    samples: npt.NDArray[np.int16] = soundfile.read(path, dtype="int16", always_2d=True)[0].T
    return samples


def as_pcm(audio: Speech) -> npt.NDArray[np.int16]:
    """What a 16-bit file holds of audio."""
    samples: npt.NDArray[np.int16] = np.rint(np.atleast_2d(audio) * 32768.0).clip(-32768, 32767).astype(np.int16)
    return samples


@pytest.fixture(scope="module")
def coded(tiny: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo, six seconds, as a .codes file of the tiny model."""
    return encode(tiny, DEMO, tmp_path_factory.mktemp("coded") / "demo.codes")


@pytest.fixture(scope="module")
def coded_by_frame(tiny: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(tiny, DEMO, tmp_path_factory.mktemp("coded") / "demo.codes", mode="frame")


# files against the API


@pytest.mark.parametrize(
    ("codebooks", "mode", "n_samples"), [(2, "block", 45000), (4, "block", 45000), (2, "frame", 15000)]
)
def test_a_file_gives_the_codes_and_the_audio_of_the_api(
    tiny: Model, tmp_path: Path, mode: str, codebooks: int, n_samples: int
) -> None:
    audio, rate = read(FIXTURES / "rhasspy_nathalie_06_24k.flac")
    write(source := tmp_path / "short.wav", audio[:, :n_samples], rate)
    wanted = tiny.encode(read(source)[0][0], rate, codebooks=codebooks, mode=mode)
    path = encode(tiny, source, tmp_path / "x.codes", codebooks=codebooks, mode=mode)
    codes = codec.open(path)
    assert np.array_equal(codes.data, wanted.data)
    assert (codes.n_samples, codes.mode) == (wanted.n_samples, mode)
    assert decode(tiny, path, tmp_path / "x.wav") == ()
    assert np.array_equal(pcm(tmp_path / "x.wav"), as_pcm(tiny.decode(codes)))


@pytest.mark.parametrize("channels", ["mix", "keep"])
def test_a_stereo_file_gives_what_the_api_gives(tiny: Model, speech: Speech, tmp_path: Path, channels: str) -> None:
    source = tmp_path / "stereo.wav"
    write(source, speech[:60000].reshape(2, 30000), 22050)
    audio, rate = read(source)
    codes = tiny.encode(audio, rate, channels=channels)
    path = encode(tiny, source, tmp_path / "x.codes", channels=channels)
    assert np.array_equal(codec.open(path).data, codes.data)
    decode(tiny, path, tmp_path / "x.wav")
    assert np.array_equal(pcm(tmp_path / "x.wav"), as_pcm(tiny.decode(codes)))


@pytest.mark.parametrize("n_samples", [1, 321, 20481])
def test_the_decoded_file_has_as_many_samples_as_the_source(
    tiny: Model, speech: Speech, tmp_path: Path, n_samples: int
) -> None:
    write(tmp_path / "in.wav", speech[None, :n_samples], 16000)
    path = encode(tiny, tmp_path / "in.wav", tmp_path / "x.codes")
    decode(tiny, path, tmp_path / "out.flac")
    assert pcm(tmp_path / "out.flac").shape == (1, n_samples)


def test_the_decoded_file_takes_the_rate_asked_for(tiny: Model, coded: Path, tmp_path: Path) -> None:
    decode(tiny, coded, tmp_path / "x.wav", sample_rate=48000)
    assert soundfile.info(tmp_path / "x.wav").samplerate == 48000
    assert np.array_equal(pcm(tmp_path / "x.wav"), as_pcm(resample(tiny.decode(codec.open(coded)), 16000, 48000)))


def test_pipes_carry_the_same_bytes_as_files(tiny: Model, coded: Path, tmp_path: Path) -> None:
    out = io.BytesIO()
    with DEMO.open("rb") as source:
        encode_file(tiny, source, out, EncodeOptions())
    assert out.getvalue() == coded.read_bytes()
    decode(tiny, coded, tmp_path / "x.wav")
    audio = io.BytesIO()
    decode_file(lambda header: tiny, io.BytesIO(out.getvalue()), audio, DecodeOptions())
    assert np.array_equal(soundfile.read(io.BytesIO(audio.getvalue()), dtype="int16")[0], pcm(tmp_path / "x.wav")[0])


# sections


@pytest.fixture(scope="module")
def finite(write_model: Callable[[Path, str, Part], Path], tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model whose decoder depends on few frames, so that a section begins in the middle of the file."""
    options = {"n_filters": 2, "strides": [4, 8, 10], "n_recurrent": 0, "n_attention": 0}
    folder = tmp_path_factory.mktemp("models") / "finite"
    return load(write_model(folder, "finite", Part("conv", options)))


@pytest.fixture(scope="module", params=["block", "frame"])
def whole(request: pytest.FixtureRequest, tiny: Model, coded: Path, coded_by_frame: Path) -> tuple[Path, Any]:
    """A file of each mode, and all of its audio."""
    path = coded if request.param == "block" else coded_by_frame
    return path, as_pcm(tiny.decode(codec.open(path)))


@pytest.mark.parametrize(
    ("start", "end"), [(0.0, 0.5), (0.01, 0.02), (1.27, 1.29), (1.5, 4.2), (3.0, None), (5.99, 99.0), (2.56, 3.84)]
)
def test_a_section_equals_that_part_of_the_whole(
    tiny: Model, whole: tuple[Path, Any], tmp_path: Path, start: float, end: float | None
) -> None:
    path, samples = whole
    decode(tiny, path, tmp_path / "part.wav", start=start, end=end)
    first, last = round(start * 16000), samples.shape[1] if end is None else round(end * 16000)
    assert np.array_equal(pcm(tmp_path / "part.wav"), samples[:, first:last])


@pytest.mark.parametrize("rate", [8000, 44100])
def test_neighbouring_sections_at_another_rate_join_to_that_part_of_the_whole(
    tiny: Model, coded: Path, tmp_path: Path, rate: int
) -> None:
    """What the resampler sees around a section is decoded too; its seams stand elsewhere, so all but for rounding."""
    decode(tiny, coded, tmp_path / "all.wav", sample_rate=rate)
    decode(tiny, coded, tmp_path / "one.wav", sample_rate=rate, start=1.23, end=2.0)
    decode(tiny, coded, tmp_path / "two.wav", sample_rate=rate, start=2.0)
    joined = np.concatenate([pcm(tmp_path / "one.wav"), pcm(tmp_path / "two.wav")], axis=1)
    part = pcm(tmp_path / "all.wav")[:, -(-123 * rate // 100) :]
    assert joined.shape == part.shape
    assert np.abs(joined.astype(int) - part).max() <= 1


def test_a_late_section_does_not_decode_what_is_before_it(finite: Model, tmp_path: Path) -> None:
    assert finite.info.context is not None
    assert finite.info.context < 128
    coded = encode(finite, DEMO, tmp_path / "x.codes")
    decode(finite, coded, tmp_path / "all.wav")
    data = bytearray(coded.read_bytes())
    data[200] ^= 1  # the second block's; only reading it would tell
    coded.write_bytes(data)
    assert decode(finite, coded, tmp_path / "part.wav", start=5.0, end=5.5) == ()
    assert np.array_equal(pcm(tmp_path / "part.wav"), pcm(tmp_path / "all.wav")[:, 80000:88000])


@pytest.mark.parametrize(
    ("start", "end"),
    [(7.0, None), (2.0, 1.0), (2.0, 2.0), (2.99999, 3.00001), (-1.0, None), (float("nan"), None), (0.0, float("nan"))],
)
def test_a_section_that_is_not_there_is_refused(
    tiny: Model, coded: Path, tmp_path: Path, start: float, end: float | None
) -> None:
    with pytest.raises(CodesFileError, match="no audio from"):
        decode(tiny, coded, tmp_path / "x.wav", start=start, end=end)
    assert not list(tmp_path.iterdir())


def test_a_section_of_a_pipe_is_refused(tiny: Model, coded: Path, tmp_path: Path) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    with pytest.raises(CodesFileError, match="is a pipe; copy it to a file"):
        decode_file(lambda header: tiny, Pipe(coded.read_bytes()), tmp_path / "x.wav", DecodeOptions(start=1.0))
    assert not list(tmp_path.iterdir())


# damage


def test_a_truncated_file_gives_its_whole_blocks_and_a_warning(tiny: Model, coded: Path, tmp_path: Path) -> None:
    data = coded.read_bytes()
    (tmp_path / "cut.codes").write_bytes(data[: len(data) // 2])
    decode(tiny, coded, tmp_path / "all.wav")
    (warning,) = decode(tiny, tmp_path / "cut.codes", tmp_path / "cut.wav")
    assert "cut.codes: byte" in warning
    assert "the file ends in it" in warning
    there = pcm(tmp_path / "cut.wav")
    assert there.shape[1] % 16000 == 16000 - tiny.info.delay
    assert np.array_equal(there, pcm(tmp_path / "all.wav")[:, : there.shape[1]])


def test_a_flipped_bit_ends_the_audio_before_its_block(tiny: Model, coded: Path, tmp_path: Path) -> None:
    data = bytearray(coded.read_bytes())
    data[len(data) // 2] ^= 16
    (tmp_path / "bad.codes").write_bytes(data)
    decode(tiny, coded, tmp_path / "all.wav")
    (warning,) = decode(tiny, tmp_path / "bad.codes", tmp_path / "bad.wav")
    assert "CRC-32 does not match" in warning
    there = pcm(tmp_path / "bad.wav")
    assert 0 < there.shape[1] < 96000
    assert np.array_equal(there, pcm(tmp_path / "all.wav")[:, : there.shape[1]])


def test_a_missing_trailer_costs_no_audio(tiny: Model, coded: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.codes").write_bytes(coded.read_bytes()[:-3])
    assert len(decode(tiny, tmp_path / "cut.codes", tmp_path / "cut.wav")) == 1
    decode(tiny, coded, tmp_path / "all.wav")
    n_samples = pcm(tmp_path / "all.wav").shape[1]
    assert np.array_equal(pcm(tmp_path / "cut.wav")[:, :n_samples], pcm(tmp_path / "all.wav"))


@pytest.mark.parametrize("keep", [0, 3, 20, 110])
def test_a_file_without_one_whole_block_is_an_error_and_leaves_no_target(
    tiny: Model, coded: Path, tmp_path: Path, keep: int
) -> None:
    (tmp_path / "cut.codes").write_bytes(coded.read_bytes()[:keep])
    with pytest.raises(CodesFileError, match=r"cut\.codes: byte"):
        decode(tiny, tmp_path / "cut.codes", tmp_path / "x.wav")
    assert [path.name for path in tmp_path.iterdir()] == ["cut.codes"]


def test_a_file_that_holds_no_audio_decodes_to_none(tiny: Model, tmp_path: Path) -> None:
    header = make_header(tiny.info, "block", 4)
    codesfile.write(tmp_path / "x.codes", codesfile.CodesFile(header, np.zeros((4, 0), np.int64), 0))
    assert decode(tiny, tmp_path / "x.codes", tmp_path / "x.wav") == ()
    assert pcm(tmp_path / "x.wav").shape[1] == 0


# models


def test_an_unknown_model_is_named_with_the_way_out() -> None:
    with pytest.raises(ModelError, match=r"made by the model 'tiny'.*default_16k.*--model"):
        open_named_model("tiny", "00" * 16)


def test_a_model_name_in_a_file_is_never_taken_for_a_path(tiny_path: Path) -> None:
    with pytest.raises(ModelError, match="not among the known ones"):
        open_named_model(str(tiny_path), "00" * 16)


def test_the_wrong_model_is_refused_with_the_file_named(embedded: Model, coded: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"demo\.codes: codes of tiny .* this is default_16k"):
        decode(embedded, coded, tmp_path / "x.wav")
    assert not list(tmp_path.iterdir())


# targets


def test_an_existing_target_is_kept_unless_it_may_be_replaced(tiny: Model, coded: Path, tmp_path: Path) -> None:
    for name in ("x.codes", "x.wav"):
        (tmp_path / name).write_bytes(b"old")
    with pytest.raises(CodesFileError, match="exists; pass overwrite=True"):
        encode(tiny, DEMO, tmp_path / "x.codes")
    with pytest.raises(AudioError, match="exists; pass overwrite=True"):
        decode(tiny, coded, tmp_path / "x.wav")
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"old"}
    encode(tiny, DEMO, tmp_path / "x.codes", overwrite=True)
    decode(tiny, coded, tmp_path / "x.wav", overwrite=True)
    assert (tmp_path / "x.codes").read_bytes() == coded.read_bytes()


@pytest.mark.parametrize(
    ("options", "error"),
    [({"codebooks": 3}, CodesError), ({"mode": "x"}, CodecError), ({"channels": "left"}, AudioError)],
)
def test_a_wrong_option_leaves_nothing_behind(
    tiny: Model, tmp_path: Path, options: dict[str, object], error: type[CodecError]
) -> None:
    with pytest.raises(error):
        encode(tiny, DEMO, tmp_path / "x.codes", **options)
    assert not list(tmp_path.iterdir())


def test_a_source_that_turns_bad_in_the_middle_leaves_nothing_behind(
    tiny: Model, speech: Speech, tmp_path: Path
) -> None:
    samples = np.tile(speech, 2)
    samples[150000] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 16000, "FLOAT")
    with pytest.raises(AudioError, match="sample 150000 is NaN"):
        encode(tiny, tmp_path / "nan.wav", tmp_path / "x.codes")
    assert [path.name for path in tmp_path.iterdir()] == ["nan.wav"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_is_one_clear_error(tiny: Model, coded: Path, tmp_path: Path) -> None:
    with pytest.raises(CodesFileError, match="no space left"):
        encode(tiny, DEMO, Path("/dev/full"))
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(CodesFileError, match="no space left"):
        encode_file(tiny, DEMO, full, EncodeOptions())
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(AudioError, match="no space left"):
        decode_file(lambda header: tiny, coded, full, DecodeOptions())


# memory

# Linux counts the memory of the test runner, of which the process began as a copy, into ru_maxrss; VmHWM starts at 0.
MEASURE = """
import resource, sys
from pathlib import Path
from codec.api import load
from codec.transcode import DecodeOptions, EncodeOptions, decode_file, encode_file
model, source, coded = load(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[2] + ".codes")
def peak():
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
encode_file(model, source, coded, EncodeOptions())
print(peak())
decode_file(lambda header: model, coded, Path(sys.argv[2] + ".flac"), DecodeOptions())
print(peak())
"""


def peaks_mib(model: str | Path, source: Path) -> tuple[float, float]:
    """Peak memory of a process that encodes a file, and of it after decoding that again."""
    command = [sys.executable, "-c", MEASURE, str(model), str(source)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    encoding, both = (int(line) / unit for line in done.stdout.split())
    return encoding, both


def long_speech(path: Path, speech: Speech, minutes: float) -> Path:
    with soundfile.SoundFile(path, "w", 16000, 1, "PCM_16") as file:
        for _ in range(round(minutes * 60 / 6)):
            file.write(speech[:96000])
    return path


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_the_file(tiny_path: Path, speech: Speech, tmp_path: Path) -> None:
    short, long = (peaks_mib(tiny_path, long_speech(tmp_path / f"{m}.wav", speech, m)) for m in (0.5, 4))
    # Four minutes are 15 MiB of float32; one copy of them would show.
    assert long[0] - short[0] < 6
    assert long[1] - short[1] < 6


@pytest.mark.slow
def test_an_hour_encodes_and_decodes_in_less_than_400_megabytes(speech: Speech, tmp_path: Path) -> None:
    source = long_speech(tmp_path / "hour.wav", speech, 60)
    assert peaks_mib("default_16k", source)[1] < 400e6 / 2**20
    assert soundfile.info(tmp_path / "hour.wav.flac").frames == soundfile.info(source).frames
