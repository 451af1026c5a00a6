"""Models that code in overlapping segments: EnCodec's one at 48 kHz, here in small and with random weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import codec
from codec.config import ModelConfig, Part, to_dict
from codec.engine import Audio
from codec.engine.segments import SegmentEngine, books_of, loudness_of
from codec.errors import AudioError, CodecError, CodesError, ConfigError, ModelError
from codec.export.folder import write_folder
from codec.modelfolder import read_model
from codec.network import Network
from codec.segments import Segments
from codec.train.config import Recipe
from codec.transcode import DecodeOptions, EncodeOptions, decode_file, encode_file
from codec.verify import verify_codes_file, verify_model

FIXTURES = Path(__file__).parent / "fixtures"
SECOND = Segments(length=48000, stride=47520)
# Segments of 400 samples every 320, frames of 40: the 360 samples of one before the last fill a frame less.
SHORT = Segments(length=400, stride=320)
HOP = 40


def config_of(segments: Segments | None = SHORT, **changes: object) -> ModelConfig:
    options = {"n_filters": 4, "strides": (4, 10), "causal": False, "norm": "conv", "padding": "mirror"}
    parts = (Part("conv", {**options, "ragged": True}), Part("residual", {"n_codebooks": 3, "codebook_size": 16}))
    config = ModelConfig(*parts, Part("conv", options), 16000, HOP, channels=2, latent_dim=8, segments=segments)
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("models") / "both"
    network = Network(config_of())
    for book in network.bottleneck.codebooks:
        torch.nn.init.normal_(book.embed)
    write_folder(path, "both", config_of(), network.state_dict(), licence="", half=False)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> codec.Model:
    return codec.load(folder)


def stereo(n_samples: int) -> Audio:
    """Two recordings side by side, (2, T)."""
    clips = [codec.read_audio(FIXTURES / name)[0][0, 9000:] for name in ("rhasspy_nathalie_03.flac", "talk.flac")]
    return np.stack([clip[:n_samples] for clip in clips])


def test_frames_and_samples_belong_together() -> None:
    assert [SECOND.frames(n, 320) for n in (0, 1, 320, 321, 47520, 47521, 48000, 95041)] == [
        *(0, 1, 1, 2, 149, 151, 152, 301)
    ]
    assert [SECOND.samples(n, 320) for n in (0, 1, 150, 151, 300)] == [0, 320, 48000, 47840, 95520]
    for n_samples in range(2000):
        n_frames = SHORT.frames(n_samples, HOP)
        assert n_samples <= SHORT.samples(n_frames, HOP) <= n_frames * HOP
        assert n_frames >= SHORT.frames(n_samples - 1, HOP) if n_samples else n_frames == 0


@pytest.mark.parametrize(
    ("length", "stride", "hop"), [(400, 400, 40), (400, 190, 40), (0, 0, 40), (410, 330, 40), (400, 319, 40)]
)
def test_segments_that_cannot_be_are_refused(length: int, stride: int, hop: int) -> None:
    with pytest.raises(ConfigError, match=r"segments: \d+ samples every \d+"):
        Segments(length, stride).check(hop)


def test_a_network_says_what_segments_ask_of_it() -> None:
    with pytest.raises(ConfigError, match="networks of two channels code in segments"):
        config_of(segments=None)
    with pytest.raises(ConfigError, match="one channel or two, found 3"):
        config_of(channels=3)
    with pytest.raises(ConfigError, match="'hifi' codes one channel"):
        Network(config_of(encoder=Part("hifi", {})))
    with pytest.raises(ConfigError, match="segments need a ragged encoder"):
        Network(config_of(encoder=Part("conv", config_of().decoder.options)))
    with pytest.raises(ConfigError, match="converted, not trained"):
        Recipe("both", config_of())
    with pytest.raises(ConfigError, match="conv needs causal: false"):
        Network(config_of(decoder=Part("conv", {**config_of().decoder.options, "causal": True})))


def test_a_model_says_what_it_is(model: codec.Model, folder: Path) -> None:
    info = model.info
    assert (info.audio_channels, info.latency, info.frame_rate) == (2, 400 / 16000, 500)
    assert (info.prefixes, info.codebook_size, info.divisors) == ((3, 4, 5), 16, (10, 10, 1, 1, 1))
    assert info.bitrate_of(4) == pytest.approx(500 * (2 * 16 / 10 + 2 * 4))
    assert config_of().frame_rate == info.frame_rate
    with pytest.raises(CodesError, match="mode 'x'"):
        model.stream_encoder(mode="x")
    assert read_model(folder).info == info
    assert to_dict(info)["segments"] == {"length": 400, "stride": 320}


def test_loudness_travels_as_it_is() -> None:
    loudness = np.array([1e-8, 0.1, -0.3, 1.0], np.float32)
    assert (loudness_of(books_of(loudness)) == loudness).all()
    assert books_of(loudness).min() >= 0
    assert books_of(loudness).max() < 1 << 16


def test_a_segment_is_coded_as_if_it_were_alone_at_loudness_one(model: codec.Model) -> None:
    x = stereo(1100)
    codes = model.encode(x).data
    for k in range(3):
        part = x[:, 320 * k : 320 * k + 400]
        loudness = 1e-8 + np.sqrt(np.square(part.mean(0)).mean())
        assert loudness_of(codes[None, :2, 10 * k])[0] == pytest.approx(loudness)
        assert np.array_equal(codes[:, 10 * k : 10 * (k + 1)], model.encode(part).data[:, :10])
    louder = model.encode(4 * x).data
    assert np.array_equal(louder[2:], codes[2:])
    assert np.allclose(model.decode(model.codes(louder)), 4 * model.decode(model.codes(codes)), atol=1e-6)


def test_neighbours_fade_into_each_other_in_a_straight_line(model: codec.Model) -> None:
    codes = model.encode(stereo(700)).data[:, :20]
    first, second = (model.decode(model.codes(codes[:, at : at + 10])) for at in (0, 10))
    whole = model.decode(model.codes(codes))
    assert np.array_equal(whole[:, :320], first[:, :320])
    assert np.array_equal(whole[:, 400:], second[:, 80:])
    share = np.arange(1, 81) / 81
    assert np.allclose(whole[:, 320:400], first[:, 320:] * (1 - share) + second[:, :80] * share, atol=1e-6)


def test_a_frame_that_a_segment_lacks_before_another_is_dropped_again(model: codec.Model) -> None:
    """The sign of its loudness says so: its other frames sound as they do without it."""
    codes = model.encode(stereo(355)).data
    assert codes.shape == (5, 11)
    assert loudness_of(codes[None, :2, 0])[0] < 0
    assert np.array_equal(codes[:, 8], codes[:, 9])
    alone = codes[:, :9].copy()
    alone[:2] = books_of(-loudness_of(codes[None, :2, 0]))[0][:, None]
    assert np.array_equal(model.decode(model.codes(codes))[:, :320], model.decode(model.codes(alone))[:, :320])


def check_cuttings(model: codec.Model, n_samples: int, mode: str) -> None:
    x, rng = stereo(n_samples), np.random.default_rng(n_samples)
    codes = model.encode(x)
    encoder, decoder = model.stream_encoder(mode=mode, channels=2), model.stream_decoder(mode=mode)
    parts = [encoder.feed(part) for part in np.split(x, np.sort(rng.integers(0, n_samples + 1, 9)), 1)]
    found = np.concatenate((*parts, encoder.flush()), 1)
    assert np.array_equal(found, codes.data)
    cuts = np.sort(rng.integers(0, found.shape[1] + 1, 9))
    heard = np.concatenate((*(decoder.feed(part) for part in np.split(found, cuts, 1)), decoder.flush()), 1)
    assert heard.shape == (2, model.info.samples(codes.n_frames))
    assert np.array_equal(heard[:, :n_samples], model.decode(codes))
    assert decoder.flush().shape == (2, 0)


def test_streams_give_the_same_for_every_cutting(model: codec.Model) -> None:
    for n_samples, mode in ((10, "frame"), (321, "block"), (361, "frame"), (640, "block"), (1345, "frame")):
        check_cuttings(model, n_samples, mode)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["block", "frame"])
def test_streams_of_any_length_do(model: codec.Model, mode: str) -> None:
    for n_samples in (*range(310, 410, 7), *range(630, 730, 9), 2345):
        check_cuttings(model, n_samples, mode)


def test_codes_and_audio_come_with_the_last_sample_and_frame_of_a_segment(model: codec.Model) -> None:
    x = stereo(800)
    encoder, decoder = model.stream_encoder(channels=2), model.stream_decoder()
    assert [encoder.feed(x[:, a:b]).shape[1] for a, b in ((0, 399), (399, 400), (400, 719), (719, 720))] == [
        0,
        10,
        0,
        10,
    ]
    codes = model.encode(x).data
    assert [decoder.feed(codes[:, a:b]).shape[1] for a, b in ((0, 9), (9, 10), (10, 20))] == [0, 320, 320]
    assert decoder.flush().shape == (2, 80)  # the rest of a whole segment


def test_a_stream_goes_on_from_a_saved_state(model: codec.Model) -> None:
    x, codes = stereo(1500), model.encode(stereo(1500)).data
    encoders = [model.stream_encoder(channels=2) for _ in range(2)]
    encoders[0].feed(x[:, :900])
    encoders[1].load_state(encoders[0].state())
    rest = [np.concatenate((encoder.feed(x[:, 900:]), encoder.flush()), 1) for encoder in encoders]
    assert np.array_equal(rest[0], rest[1])
    decoders = [model.stream_decoder() for _ in range(2)]
    decoders[0].feed(codes[:, :25])
    decoders[1].load_state(decoders[0].state())
    copied = decoders[0].copy()
    sounds = [np.concatenate((one.feed(codes[:, 25:]), one.flush()), 1) for one in (*decoders, copied)]
    assert np.array_equal(sounds[0], sounds[1])
    assert np.array_equal(sounds[0], sounds[2])


def test_many_streams_and_batches_give_what_each_gives_alone(model: codec.Model) -> None:
    items = [stereo(900), stereo(700), stereo(361)]
    rows = model.stream_encoders(rows=3)
    parts = [rows.feed(dict(enumerate(items))), rows.flush(range(3))]
    decoders = model.stream_decoders(rows=3)
    batch = np.zeros((3, 2, 900), np.float32)
    for i, item in enumerate(items):
        batch[i, :, : item.shape[1]] = item
    together = model.encode(batch, lengths=[900, 700, 361])
    assert model.decode(together).shape == (3, 2, 900)
    for i, item in enumerate(items):
        alone = model.encode(item)
        assert np.array_equal(np.concatenate([part[i] for part in parts], 1), alone.data)
        assert np.array_equal(together[i].data, alone.data)
    codes = {i: codes.data for i, codes in enumerate(together)}
    sounds = [decoders.feed(codes), decoders.flush(codes)]
    for i, item in enumerate(items):
        heard = np.concatenate([sound[i] for sound in sounds], 1)[:, : item.shape[1]]
        assert np.allclose(heard, model.decode(together[i]), atol=1e-5)


def test_mono_goes_into_both_channels_and_more_than_two_are_refused(model: codec.Model) -> None:
    x = stereo(500)
    for mono in (x[0], x[:1]):
        assert np.array_equal(model.encode(mono).data, model.encode(x[[0, 0]]).data)
    assert np.array_equal(model.encode(x, channels="mix").data, model.encode(x.mean(0)).data)
    assert model.encode(torch.from_numpy(x)).data.dtype == torch.int64
    assert model.decode(model.encode(x), sample_rate=8000).shape == (2, 250)
    with pytest.raises(AudioError, match="both codes one channel or two together; mix them"):
        model.encode(np.zeros((3, 500), np.float32))
    with pytest.raises(AudioError, match=r"chunk of shape \(3, 9\), expected"):
        model.stream_encoder().feed(np.zeros((3, 9), np.float32))
    with pytest.raises(CodesError, match="both has one row of codes for all"):
        model.codes(np.zeros((2, 5, 7), np.int64))
    with pytest.raises(CodesError, match="codes all frames alike"):
        model.encode(x, bitrate=6000, variable=True)
    with pytest.raises(CodesError, match=r"\[32640, 0\] in the first codebooks is no loudness"):
        model.decode(model.codes(np.full((5, 3), [[32640], [0], [1], [1], [1]])))


def test_files_hold_both_channels_and_any_part_of_them_decodes(model: codec.Model, tmp_path: Path) -> None:
    source, target = tmp_path / "x.wav", tmp_path / "x.codes"
    codec.audio.write(source, stereo(2000), 16000)
    done = encode_file(model, source, target, EncodeOptions())
    assert done.bitrate == model.info.bitrate
    assert codec.open(target).data.shape == (5, model.info.frames(2000))
    decode_file(lambda header: model, target, tmp_path / "y.wav", DecodeOptions())
    whole, _ = codec.read_audio(tmp_path / "y.wav")
    assert whole.shape == (2, 2000)
    for first, last in ((300, 500), (1000, 1990), (1901, 2000)):
        part = DecodeOptions(start=first / 16000, end=last / 16000, overwrite=True)
        decode_file(lambda header: model, target, tmp_path / "part.wav", part)
        assert np.array_equal(codec.read_audio(tmp_path / "part.wav")[0], whole[:, first:last])
    codec.audio.write(tmp_path / "three.wav", stereo(900)[[0, 1, 0]], 16000)
    with pytest.raises(AudioError, match=r"three\.wav: channels=3: both codes one channel or two"):
        encode_file(model, tmp_path / "three.wav", tmp_path / "three.codes", EncodeOptions())
    encode_file(model, tmp_path / "three.wav", tmp_path / "three.codes", EncodeOptions(channels="mix"))


@pytest.mark.slow
def test_what_a_model_promises_is_verified(folder: Path) -> None:
    report = verify_model(folder)
    assert report.passed, report.misses
    assert sum(check.result == "pass" for check in report.checks) >= 9


def test_what_a_file_promises_is_verified(folder: Path, model: codec.Model, tmp_path: Path) -> None:
    model.encode(stereo(500)).save(tmp_path / "x.codes")
    found = verify_codes_file(tmp_path / "x.codes", model=str(folder))
    assert found.passed, found.misses


def test_a_folder_that_contradicts_its_network_is_refused(folder: Path, tmp_path: Path) -> None:
    text = (folder / "model.json").read_text()
    (tmp_path / "weights.safetensors").write_bytes((folder / "weights.safetensors").read_bytes())
    (tmp_path / "model.json").write_text(text.replace('"audio_channels": 2', '"audio_channels": 1'))
    with pytest.raises(ModelError, match="audio_channels is 1, its network has 2"):
        codec.load(tmp_path)
    (tmp_path / "model.json").write_text(text.replace('"stride": 320', '"stride": 100'))
    with pytest.raises(CodecError, match="must overlap, by half at most"):
        codec.load(tmp_path)


def test_an_engine_takes_segments_of_unlike_rows_together(model: codec.Model) -> None:
    """Of rows that lack a frame and rows that do not, each is decoded as alone."""
    engine = model.engine
    assert isinstance(engine, SegmentEngine)
    rows = [model.encode(stereo(n)).data[:, :10] for n in (355, 700)]
    after = engine.decode_step(np.stack(rows), engine.init_decoder(2))
    for i, row in enumerate(rows):
        audio, state = engine.decode_step(row[None], engine.init_decoder(1))
        assert np.allclose(after[0][i], audio[0], atol=1e-6)
        assert np.allclose(after[1][0][i], state[0][0], atol=1e-6)
        assert np.array_equal(after[1][1][i], state[1][0])
