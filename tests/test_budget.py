"""A whole file fills its bitrate: the mean is as near to it as one codebook of one frame, and never over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

import codec
from codec.api import Model, load
from codec.arrays import as_codes
from codec.codesfile.counts import counts_of
from codec.config import ModelInfo
from codec.stream.budget import WINDOW, fill
from codec.stream.variable import choose_control
from codec.transcode import EncodeOptions, encode_file

FIXTURES = Path(__file__).parent / "fixtures"
INFO = ModelInfo("m", 100, 10, 0, (1024,) * 8, (1,) * 8, tuple(range(1, 9)), {}, "")  # 10 frames a second


@pytest.fixture(scope="module")
def embedded() -> Model:
    return load()


def bits_of(codes: Any, bitrate: float, info: ModelInfo) -> list[int]:
    """Bits of each channel, the choices included."""
    control = choose_control(info, bitrate)
    return [sum(control.bits[control.counts.index(n)] for n in counts_of(channel)) for channel in codes]


@pytest.mark.parametrize("bitrate", [1100, 2000, 3100])
def test_a_file_of_speech_is_within_one_codebook_of_its_bitrate(embedded: Model, bitrate: int) -> None:
    audio = soundfile.read(FIXTURES / "demo.flac", dtype="float32")[0][: 3 * 16000]
    step = max(np.diff(choose_control(embedded.info, bitrate).bits))
    for gain in (1.0, 0.05):
        codes = embedded.encode(np.float32(gain) * audio, bitrate=bitrate, variable=True)
        (bits,) = bits_of([codes.data], bitrate, embedded.info)
        room = bitrate * codes.n_frames / 50
        assert room - step - 1e-6 <= bits <= room + 1e-6


@given(st.integers(0, 99), st.integers(1, 3), st.integers(0, 1500), st.sampled_from([170, 200, 333.3, 700]))
@settings(max_examples=25, deadline=None)
def test_any_pieces_give_the_same_and_no_channel_is_over(seed: int, channels: int, frames: int, rate: float) -> None:
    rng = np.random.default_rng(seed)
    control = choose_control(INFO, rate)
    levels = np.repeat(rng.uniform(-70, 0, (channels, frames)), 10, axis=1)
    audio = np.float32(10 ** (levels / 20)) * rng.choice(np.array([-1, 1], np.float32), levels.shape)
    audio = audio[:, : max(0, 10 * frames - 3)]  # the last frame is short
    codes = rng.integers(0, 1024, (channels, control.counts[-1], frames))
    whole = np.concatenate([codes[..., :0], *fill([(audio, codes)], control, hop_length=10)], -1)
    assert whole.shape == codes.shape
    assert (whole[whole >= 0] == codes[whole >= 0]).all()
    cuts = np.sort(rng.integers(0, frames + 1, 4))
    sounds = np.split(audio, np.sort(np.minimum(10 * cuts + rng.integers(0, 9, 4), audio.shape[1])), axis=1)
    late = np.split(codes, np.maximum(cuts - 2, 0), axis=-1)
    parts = fill(zip(sounds, late, strict=True), control, hop_length=10)
    assert np.array_equal(np.concatenate([codes[..., :0], *parts], -1), whole)
    n_windows = -(-frames // round(10 * WINDOW))
    full = frames * control.bits[-1]
    for bits in bits_of(whole, rate, INFO) if frames else []:
        wanted = min(rate / 10 * frames, full)
        assert wanted - n_windows * max(np.diff(control.bits)) <= bits <= wanted + 1e-3


def test_a_long_file_fills_with_what_an_earlier_pause_saved() -> None:
    control = choose_control(INFO, 200)
    n = round(10 * WINDOW)
    audio = np.concatenate((np.zeros(10 * n), np.random.default_rng(0).normal(0, 0.1, 10 * n)))[None].astype(np.float32)
    whole = np.concatenate(list(fill([(audio, np.zeros((1, 8, 2 * n), int))], control, hop_length=10)), -1)
    counts = counts_of(whole[0])
    assert (counts[:n] == control.counts[0]).all()
    (bits,) = bits_of(whole, 200, INFO)
    assert 0 <= 200 / 10 * 2 * n - bits <= max(np.diff(control.bits))


def test_silence_gets_the_fewest_and_speech_what_it_saves(embedded: Model) -> None:
    speech = soundfile.read(FIXTURES / "demo.flac", dtype="float32")[0][: 2 * 16000]
    codes = embedded.encode(np.concatenate((speech, np.zeros(32000, np.float32))), bitrate=2000, variable=True)
    counts = counts_of(codes.data)
    assert (counts[105:] == 2).all()
    assert counts[:100].mean() > 4.5


def test_a_file_holds_what_encode_gives_for_its_samples(tmp_path: Path, embedded: Model) -> None:
    encode_file(embedded, FIXTURES / "demo.flac", tmp_path / "x.codes", EncodeOptions(bitrate=2000, variable=True))
    audio = soundfile.read(FIXTURES / "demo.flac", dtype="float32")[0]
    wanted = embedded.encode(audio, bitrate=2000, variable=True)
    found = codec.open(tmp_path / "x.codes")
    assert np.array_equal(as_codes(found.data, "codes"), wanted.data)
    assert 1990 < found.bitrate <= 2000
