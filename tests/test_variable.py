"""Frames of unlike numbers of codebooks: container version 3 (docs/codes-format.md, clause 10) and the rate control.

The golden files were written once, by `write_golden` below; they must never change.
"""

from __future__ import annotations

import io
import itertools
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

import codec
from codec import codesfile
from codec.api import Model, load
from codec.arrays import as_codes
from codec.cli.info import describe
from codec.codesfile import CodesFile, Header, Reader, read
from codec.codesfile.counts import counts_of, is_wrong
from codec.codesfile.fields import Cursor
from codec.codesfile.packed import with_prior
from codec.codesfile.prior import read_prior
from codec.codesfile.rans import PythonCoder, open_coder
from codec.codesfile.variable import index_frequencies
from codec.config import ModelConfig, Part
from codec.errors import CodesError, CodesFileError, ModelError
from codec.export.folder import write_folder
from codec.network import Network
from codec.stream.variable import choose_control
from codec.transcode import DecodeOptions, EncodeOptions, decode_file, encode_file

GOLDEN = Path(__file__).parent / "golden"
PRIOR = GOLDEN / "entropy_coded.prior.safetensors"
FIXTURES = Path(__file__).parent / "fixtures"
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


def golden_file(n_frames: int = 50, *, packed: bool = False) -> CodesFile:
    """Two channels, frames of 1, 2 or 3 codebooks, a short last block."""
    header = Header("golden", "ab" * 16, "frame", 100, 10, (16, 16, 8), channels=2, frame_codebooks=(1, 2, 3))
    steps = np.arange(n_frames)
    codes = np.stack([[(steps * (3 + q) + 5 * c) // 2 % size for q, size in enumerate((16, 16, 8))] for c in range(2)])
    counts = 1 + np.stack([steps // 4 % 3, steps // 7 % 3])[:, None]
    codes = np.where(np.arange(3)[:, None] < counts, codes, -1)
    return CodesFile(with_prior(header, read_prior(PRIOR)) if packed else header, codes, n_frames * 10 - 3)


def written(codes_file: CodesFile) -> bytes:
    file = io.BytesIO()
    codesfile.write(file, codes_file, prior=read_prior(PRIOR) if codes_file.header.prior_id else None)
    return file.getvalue()


def write_golden(folder: Path) -> None:
    for packed in (False, True):
        (folder / f"variable{'_packed' * packed}.codes").write_bytes(written(golden_file(packed=packed)))


class Pipe(io.BytesIO):
    def seekable(self) -> bool:
        return False


@pytest.fixture(scope="module")
def embedded() -> Model:
    return load()


@pytest.fixture(scope="module")
def speech() -> Any:
    return soundfile.read(FIXTURES / "demo.flac", dtype="float32")[0][: 3 * 16000]


# The container.


@pytest.mark.parametrize("packed", [False, True])
def test_a_golden_file_gives_its_codes_for_ever(packed: bool) -> None:
    data, wanted = (GOLDEN / f"variable{'_packed' * packed}.codes").read_bytes(), golden_file(packed=packed)
    for source in (io.BytesIO(data), Pipe(data)):
        found = read(source, priors=[PRIOR])
        assert (found.codes == wanted.codes).all()
        assert (found.header, found.n_samples) == (wanted.header, 497)
    assert written(wanted) == data


def payload_of(data: bytes, number: int) -> bytes:
    """The payload of a full block, which says its length in one byte."""
    at = Reader(io.BytesIO(data), priors=[PRIOR]).block_offset(number)
    return data[at + 1 : at + 1 + (Cursor(data[at:], 0).varint("length") - 3) // 2]


def test_a_decoder_bit_by_bit_reads_the_golden_file() -> None:
    """Clause 10.2."""
    wanted = golden_file()
    bits = [byte >> i & 1 for byte in payload_of(written(wanted), 0) for i in range(8)]

    def take(n_bits: int) -> int:
        taken = [bits.pop(0) for _ in range(n_bits)]
        return sum(bit << i for i, bit in enumerate(taken))

    counts = [[1 + take(2) for _ in range(10)] for _ in range(2)]
    for channel, q, frame in itertools.product(range(2), range(3), range(10)):
        there = q < counts[channel][frame]
        assert wanted.codes[channel, q, frame] == (take((4, 4, 3)[q]) if there else -1)
    assert len(bits) < 8
    assert not any(bits)


def test_a_decoder_in_plain_integers_reads_the_packed_golden_file() -> None:
    """Clause 10.3."""
    prior, wanted = read_prior(PRIOR), golden_file(packed=True)
    coder = open_coder(payload_of(written(wanted), 0), kind=PythonCoder)
    memories, last = [prior.start(1), prior.start(1)], [-1, -1]
    for frame in range(20):
        row = wanted.codes[:, :, frame]
        for channel in range(2):
            weights = [1 if last[channel] < 0 else 4 ** (8 - abs(i - last[channel])) for i in range(3)]
            found = [weight * 2**23 // sum(weights) for weight in weights]
            found[max(last[channel], 0)] += 2**23 - sum(found)
            last[channel] = int(coder.decode(np.array([found]))[0])
            assert last[channel] + 1 == (row[channel] >= 0).sum()
        for q, channel in itertools.product(range(3), range(2)):
            if q <= last[channel]:
                known = prior.frequencies(prior.context(memories[channel]), row[channel : channel + 1, :q])
                assert coder.decode(known)[0] == row[channel, q]
        memories = [prior.remember(memory, row[c : c + 1]) for c, memory in enumerate(memories)]
    assert coder.is_empty()


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_any_codes_come_back_and_any_range_of_them(data: st.DataObject) -> None:
    sizes = tuple(data.draw(st.lists(st.sampled_from([1, 2, 5, 1024, 2**31]), min_size=1, max_size=5)))
    channels, n_frames = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 40))
    allowed = tuple(sorted({*data.draw(st.lists(st.integers(1, len(sizes)), max_size=4)), len(sizes)}))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    codes = np.stack([rng.integers(0, size, (channels, n_frames)) for size in sizes], 1)
    counts = rng.choice(allowed, (channels, 1, n_frames))
    codes = np.where(np.arange(len(sizes))[:, None] < counts, codes, -1)
    codes = codes[0] if channels == 1 else codes
    header = Header("m", "ab" * 16, "block", 80, 10, sizes, channels=channels, frame_codebooks=allowed)
    file = written(CodesFile(header, codes, n_frames * 10))
    for source in (io.BytesIO(file), Pipe(file)):
        found = read(source)
        assert found.header == header
        assert (found.codes == codes).all()
    start = data.draw(st.integers(0, n_frames))
    stop = data.draw(st.integers(start, n_frames))
    assert (Reader(io.BytesIO(file)).read_frames(start, stop) == codes[..., start:stop]).all()


def test_appending_gives_the_bytes_of_writing_in_one_go(tmp_path: Path) -> None:
    for packed in (False, True):
        whole, path = golden_file(60, packed=packed), tmp_path / "x.codes"
        prior = read_prior(PRIOR) if packed else None
        codesfile.write(path, CodesFile(whole.header, whole.codes[..., :33], 330), prior=prior)
        with codesfile.append(path, priors=[PRIOR]) as writer:
            writer.append(whole.codes[..., 33:40])
            writer.append(whole.codes[..., 40:])
            writer.close(whole.n_samples)
        assert path.read_bytes() == written(whole)


@pytest.mark.parametrize("packed", [False, True])
def test_every_flipped_byte_is_found_and_the_blocks_before_it_are_kept(packed: bool) -> None:
    whole = golden_file(60, packed=packed)
    data, per_block = written(whole), whole.header.frames_per_block
    reader = Reader(io.BytesIO(data), priors=[PRIOR])
    begin, third = reader.block_offset(0), reader.block_offset(2)
    for at in range(5, len(data), 17 if packed else 5):
        bad = io.BytesIO(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
        with pytest.raises((CodesFileError, ModelError)):
            read(bad, priors=[PRIOR])
        if at >= begin:
            bad.seek(0)
            found = read(bad, priors=[PRIOR], partial=True)
            n_kept = found.codes.shape[-1]
            assert (found.codes == whole.codes[..., :n_kept]).all()
            assert n_kept >= (2 * per_block if at >= third else 0)
            assert found.warnings


@pytest.mark.slow
def test_a_stranger_cannot_make_the_search_for_the_next_good_block_endless() -> None:
    """A header may claim blocks of a megabyte (clause 6), and the next good one could begin at each byte."""
    n_books = 1024
    header = Header("m", "00" * 16, "block", 16000, 320, (1024,) * n_books, frame_codebooks=(1, n_books))
    random = np.random.default_rng(0)
    codes = random.integers(0, 1024, (n_books, 3 * header.frames_per_block))
    data = written(CodesFile(header, codes, 320))
    begin = time.process_time()
    reader = Reader(io.BytesIO(data[: len(data) // 3 + 100] + random.bytes(len(data) // 2)), partial=True)
    assert sum(1 for _ in reader.blocks()) == 1
    assert "CRC-32 does not match" in reader.warnings[0] or "ends in it" in reader.warnings[0]
    assert time.process_time() - begin < 30


def test_frames_that_the_header_does_not_allow_are_refused() -> None:
    header = golden_file().header
    for row, text in (([3, -1, 5], "code -1 of codebook 1, frame 0"), ([-1, -1, -1], "code -1 of codebook 0, frame 0")):
        with pytest.raises(CodesError, match=text):
            CodesFile(header, np.array([row, [1, 1, 1]])[..., None], 0)
    for counts in ((2, 1, 3), (1, 2), (0, 3), (1, 1, 3), (4,)):
        with pytest.raises(CodesError, match=r"frame_codebooks .* ascending numbers from 1 to 3"):
            Header("m", "ab" * 16, "frame", 100, 10, (16, 16, 8), frame_codebooks=counts)
    with pytest.raises(CodesError, match="divisors"):
        Header("m", "ab" * 16, "frame", 100, 10, (16, 8), (1, 2), frame_codebooks=(1, 2))


def test_frequencies_of_choices_sum_to_what_the_coder_wants() -> None:
    for n_counts in (1, 2, 4, 64):
        found = index_frequencies(np.arange(-1, n_counts), n_counts)
        assert (found.sum(1) == 1 << 23).all()
        assert (found > 0).all()


# Codes in memory.


def test_only_a_suffix_that_leaves_a_prefix_that_decodes_may_be_missing(embedded: Model) -> None:
    data = np.zeros((8, 6), np.int64)
    for frame, count in enumerate((8, 6, 4, 2)):
        data[count:, frame] = -1
    codes = embedded.codes(data)
    assert (codes.codebooks, codes.frame_codebooks) == (8, (2, 4, 6, 8))
    assert not is_wrong(data, (1024,) * 8, (2, 4, 6, 8)).any()
    assert codes.bitrate == pytest.approx(50 * (36 * 10 / 6 + 2))
    for q, frame, value in ((1, 3, -1), (0, 5, -1), (7, 0, -1), (5, 2, 0), (7, 3, -2)):
        wrong = data.copy()
        wrong[q, frame] = value
        with pytest.raises(CodesError, match=r"code -[12] at codebook [0-7], frame [0-5]"):
            embedded.codes(wrong)


@pytest.mark.parametrize("engine", ["onnx", "onnx-int8", pytest.param("torch", marks=pytest.mark.slow)])
def test_a_frame_of_fewer_codebooks_decodes_as_that_prefix_does(engine: str) -> None:
    runner = load(engine=engine).engine
    codes = np.random.default_rng(0).integers(0, 1024, (2, 8, 12))
    for count in (2, 6):
        fewer = codes.copy()
        fewer[:, count:] = -1
        heard, _ = runner.decode_step(fewer, runner.init_decoder(2))
        wanted, _ = runner.decode_step(codes[:, :count], runner.init_decoder(2))
        assert np.array_equal(heard, wanted)
    mixed = codes.copy()
    mixed[:, 2:, 6:] = -1
    heard, state = runner.decode_step(mixed, runner.init_decoder(2))
    first, state = runner.decode_step(codes[..., :6], runner.init_decoder(2))
    second, _ = runner.decode_step(codes[:, :2, 6:], state)
    assert np.abs(heard - np.concatenate((first, second), -1)).max() < (0.02 if engine == "onnx-int8" else 1e-5)


# Rate control.


def feed_all(encoder: Any, audio: Any) -> list[Any]:
    return [encoder.feed(audio), encoder.flush()]


def test_the_mean_is_at_no_time_over_the_bitrate_and_near_it_in_the_end(embedded: Model, speech: Any) -> None:
    long = np.concatenate([speech] * 5)[: len(speech) * 5 // 320 * 320]
    for bitrate in (1100, 2000, 3100):
        for gain in (1.0, 0.05):
            control = choose_control(embedded.info, bitrate)
            blank = np.zeros((1, control.counts[-1], len(long) // 320), np.int64)
            codes, _ = control.apply(blank, np.float32(gain) * long[None], control.begin(), hop_length=320)
            bits = np.array(control.bits)[np.searchsorted(control.counts, counts_of(codes)[0])]
            spent = np.cumsum(bits) / np.arange(1, len(bits) + 1) * 50
            assert (spent <= bitrate * (1 + 1e-9)).all()
            assert spent[-1] >= 0.97 * bitrate


def test_a_pause_gets_the_fewest_and_what_it_saves_goes_to_speech(embedded: Model, speech: Any) -> None:
    for pause in (np.zeros(32000), np.random.default_rng(0).normal(0, 1e-3, 32000)):
        audio = np.concatenate((speech, pause, speech)).astype(np.float32)
        encoder = embedded.stream_encoder(bitrate=2000, variable=True, mode="block")
        codes = embedded.codes(np.concatenate(feed_all(encoder, audio), -1))
        counts = counts_of(codes.data)
        n = len(speech) // 320
        assert (counts[n + 5 : n + 100] == 2).all()
        assert counts[n + 100 :].mean() > 4.5
        assert codes.bitrate <= 2000


@pytest.mark.parametrize("mode", ["block", "frame"])
def test_every_chunking_rows_and_a_saved_state_give_the_same(embedded: Model, speech: Any, mode: str) -> None:
    audio = speech[:16000]
    asked: dict[str, Any] = {"bitrate": 2000, "variable": True, "mode": mode}
    whole = embedded.codes(np.concatenate(feed_all(embedded.stream_encoder(**asked), audio), -1), len(audio), mode=mode)
    assert set(counts_of(whole.data)) > {2, 4}
    encoder, other = embedded.stream_encoder(**asked), embedded.stream_encoder(**asked)
    decoder = embedded.stream_decoder(mode=mode)
    parts, sounds = [], []
    for chunk in np.split(audio, [1, 700, 4321, 4321, 9000]):
        parts.append(encoder.feed(chunk))
        other.load_state(encoder.state())
        encoder, other = other, encoder
    parts.append(encoder.flush())
    assert np.array_equal(np.concatenate(parts, -1), whole.data)
    for part in parts:
        sounds.append(decoder.feed(part))
    decoder.trim(end=len(audio))
    sounds.append(decoder.flush())
    assert np.array_equal(np.concatenate(sounds)[: len(audio)], embedded.decode(whole))
    rows = embedded.stream_encoders(rows=2, **asked)
    given = [rows.feed({0: chunk, 1: 0.5 * chunk}) for chunk in np.split(audio, [700, 9000])]
    given.append(rows.flush([0, 1]))
    apart = np.concatenate([part[0] for part in given], -1) != whole.data
    assert apart.mean() < 0.01
    both = feed_all(embedded.stream_encoder(**asked, channels=2), np.stack((audio, audio[::-1])))
    assert np.array_equal(np.concatenate(both, -1)[0], whole.data)


def test_requests_that_cannot_be_are_refused(embedded: Model, speech: Any) -> None:
    requests: list[tuple[dict[str, Any], str]] = [
        ({}, "goes with a bitrate"),
        ({"codebooks": 4}, "give one of them"),
        ({"bitrate": 1000}, "needs at least 1050 bit/s"),
        ({"bitrate": float("nan")}, "bitrate=nan: give bits per second"),
        ({"bitrate": float("inf")}, "bitrate=inf: goes not with variable"),
    ]
    for asked, text in requests:
        with pytest.raises(CodesError, match=text):
            embedded.encode(speech, variable=True, **asked)
    state = embedded.stream_encoder(bitrate=2000, variable=True).state()
    with pytest.raises(codec.CodecError, match=r"variable '40\.0', this stream has None"):
        embedded.stream_encoder(codebooks=8).load_state(state)


@pytest.mark.parametrize(("mode", "lengths"), [("block", (1, 1001, 1310)), ("frame", (1, 101))])
def test_a_last_frame_that_the_encoder_fills_up_itself_counts_as_a_frame(
    tmp_path: Path, speech: Any, mode: str, lengths: tuple[int, ...]
) -> None:
    """An encoder with `ragged` takes what is left of the audio, which is no whole number of frames."""
    convs = {"n_filters": 2, "strides": [4, 5], "n_recurrent": 0, "padding": "mirror"}
    encoder = Part("conv", {**convs, "ragged": True})
    bottleneck = Part("residual", {"codebook_size": 16, "n_codebooks": 4})
    config = ModelConfig(encoder, bottleneck, Part("conv", convs), hop_length=20, latent_dim=4)
    write_folder(tmp_path, "ragged", config, Network(config).state_dict(), licence="CC0-1.0")
    model = load(tmp_path, engine="torch")
    asked: dict[str, Any] = {"bitrate": 8000, "variable": True, "mode": mode}
    for n_samples in lengths:
        audio = speech[16000 : 16000 + n_samples]
        padded = np.pad(audio, (0, -n_samples % 20))
        codes, whole = (np.concatenate(feed_all(model.stream_encoder(**asked), x), -1) for x in (audio, padded))
        assert codes.shape == (4, model.info.frames(n_samples))
        assert np.array_equal(counts_of(codes), counts_of(whole))


# Files.


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_decodes_whole_and_in_sections(tmp_path: Path, embedded: Model, packed: bool) -> None:
    path, target = tmp_path / "x.codes", tmp_path / "x.wav"
    prior = read_prior(Path(codec.__file__).parent / "models" / "default_16k") if packed else None
    options = EncodeOptions(bitrate=2000, variable=True, prior=prior)
    done = encode_file(embedded, FIXTURES / "demo.flac", path, options)
    codes = codec.open(path)
    assert done.bitrate == pytest.approx(codes.bitrate)
    assert 1800 < done.bitrate <= 2000
    whole = embedded.decode(codes)
    assert len(whole) == codes.n_samples
    facts = describe(path)
    assert (facts["bitrate"], facts["frame_codebooks"]) == (pytest.approx(codes.bitrate), [2, 4, 6, 8])
    decode_file(lambda header: embedded, path, target, DecodeOptions(start=2.5, end=3.1))
    part = soundfile.read(target, dtype="float32")[0]
    assert np.abs(part - whole[40000:49600]).max() < 1e-3
    again = tmp_path / "again.codes"
    codes.save(again)
    assert np.array_equal(as_codes(codec.open(again).data, "codes"), codes.data)
    fewer = codes.prefix(4)
    fewer.save(again)
    assert codec.open(again).frame_codebooks == (2, 4)


@pytest.mark.slow
def test_the_command_writes_such_a_file_and_info_tells_its_mean(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "x.codes"
    done = run("encode", FIXTURES / "demo.flac", path, "--bitrate", "2k", "--variable")
    assert done.returncode == 0, done.stderr
    facts = json.loads(run("info", path, "--json").stdout)
    assert facts["frame_codebooks"] == [2, 4, 6, 8]
    assert 1800 < facts["bitrate"] <= 2000
    refused = run("encode", FIXTURES / "demo.flac", path, "--variable", "--overwrite")
    assert refused.returncode == 2
    assert b"goes with a bitrate" in refused.stderr
