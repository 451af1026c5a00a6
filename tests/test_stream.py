"""codec.stream: the chunks do not matter, frames and lengths are exact, latency is what info says."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codec.api import Model
from codec.audio import resample, resampled_length
from codec.errors import AudioError, CodesError, StateError

Speech = npt.NDArray[np.float32]

# The models come from fixtures of the session: nothing in them changes between examples.
LAW = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
MODES = ["block", "frame"]
N_SAMPLES, N_FRAMES = 44000, 139  # longer than a block of 128 frames

CUTS = st.lists(st.integers(0, N_SAMPLES), max_size=8)
FRAME_CUTS = st.lists(st.integers(0, N_FRAMES), max_size=8)
LENGTH = st.one_of(st.integers(0, N_SAMPLES), st.sampled_from([0, 1, 319, 320, 321, 40960, 40961]))


def pieces(array: npt.NDArray[Any], cuts: Sequence[int]) -> list[npt.NDArray[Any]]:
    """Cut the last axis at some places; equal ones give empty pieces."""
    edges = [0, *sorted(min(cut, array.shape[-1]) for cut in cuts), array.shape[-1]]
    return [array[..., a:b] for a, b in pairwise(edges)]


def stream(coder: Any, chunks: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """All that a coder gives for some chunks."""
    result: npt.NDArray[Any] = np.concatenate([*(coder.feed(chunk) for chunk in chunks), coder.flush()], -1)
    return result


# laws


@LAW
@given(cuts=CUTS, length=LENGTH, mode=st.sampled_from(MODES))
def test_any_chunking_of_audio_gives_the_same_codes(
    tiny: Model, speech: Speech, cuts: list[int], length: int, mode: str
) -> None:
    length = length if mode == "block" else length % 24000
    audio = speech[:length]
    codes = stream(tiny.stream_encoder(mode=mode), pieces(audio, cuts))
    assert codes.shape == (4, tiny.info.frames(length))
    if length:
        assert np.array_equal(codes, tiny.encode(audio, mode=mode).data)


@LAW
@given(cuts=FRAME_CUTS, n_frames=st.integers(0, N_FRAMES), mode=st.sampled_from(MODES))
def test_any_chunking_of_codes_gives_the_same_audio(
    tiny: Model, speech: Speech, cuts: list[int], n_frames: int, mode: str
) -> None:
    n_frames = n_frames if mode == "block" else n_frames % 77
    data = tiny.encode(speech[:N_SAMPLES]).data[:, :n_frames]
    audio = stream(tiny.stream_decoder(mode=mode), pieces(data, cuts))
    assert len(audio) == max(0, n_frames * 320 - tiny.info.delay)
    assert np.array_equal(audio, tiny.decode(tiny.codes(data, mode=mode)))


@LAW
@given(cuts=CUTS, length=LENGTH.filter(bool), rate=st.sampled_from([8000, 44100, 48000]))
def test_chunks_do_not_matter_where_the_stream_resamples(
    tiny: Model, speech: Speech, cuts: list[int], length: int, rate: int
) -> None:
    audio = speech[:length]  # as if it were of that rate
    encoder = tiny.stream_encoder(mode="block", sample_rate=rate)
    codes = stream(encoder, pieces(audio, cuts))
    assert encoder.n_samples == resampled_length(length, rate, 16000)
    whole = tiny.encode(resample(audio, rate, 16000))
    assert np.array_equal(codes, whole.data)
    given_back = stream(tiny.stream_decoder(mode="block", sample_rate=rate), pieces(codes, cuts))
    untrimmed = tiny.decode(tiny.codes(codes))
    assert np.array_equal(given_back, resample(untrimmed, 16000, rate))


@LAW
@given(cuts=CUTS)
def test_channels_are_streamed_side_by_side(tiny: Model, speech: Speech, cuts: list[int]) -> None:
    audio = speech[:20000].reshape(2, 10000)
    codes = stream(tiny.stream_encoder(mode="block", channels=2), pieces(audio, cuts))
    assert np.array_equal(codes, tiny.encode(audio).data)
    decoder = tiny.stream_decoder(mode="block", channels=2)
    decoder.trim(end=10000)
    assert np.array_equal(stream(decoder, pieces(codes, cuts)), tiny.decode(tiny.encode(audio)))


@LAW
@given(start=st.integers(0, 20000), size=st.integers(1, 4000), cuts=CUTS)
def test_trimming_gives_that_part_of_the_whole(
    tiny: Model, speech: Speech, start: int, size: int, cuts: list[int]
) -> None:
    codes = tiny.encode(speech[:N_SAMPLES])
    decoder = tiny.stream_decoder(mode="block")
    decoder.trim(start=start, end=start + size)
    part = stream(decoder, pieces(codes.data, cuts))
    assert np.array_equal(part, tiny.decode(codes)[start : start + size])


def test_start_and_end_of_a_trim_are_said_one_after_the_other_in_any_order(tiny: Model, speech: Speech) -> None:
    codes = tiny.encode(speech[:4000], mode="frame")
    for calls in ([{"start": 700}, {"end": 3000}], [{"end": 3000}, {"start": 700}]):
        decoder = tiny.stream_decoder()
        for call in calls:
            decoder.trim(**call)
        assert np.array_equal(stream(decoder, [codes.data]), tiny.decode(codes)[700:3000])
    late = tiny.stream_decoder()
    late.trim(start=700)
    parts = [late.feed(codes.data[:, :8])]
    late.trim(end=3000)  # known only now
    parts += [late.feed(codes.data[:, 8:]), late.flush()]
    assert np.array_equal(np.concatenate(parts), tiny.decode(codes)[700:3000])
    for start, end in ((-1, None), (9, 8)):
        with pytest.raises(CodesError, match="trim: no samples from"):
            late.trim(start=start, end=end)


# one stream


@pytest.mark.parametrize("mode", MODES)
def test_what_is_not_ready_is_an_empty_array_and_never_none(tiny: Model, speech: Speech, mode: str) -> None:
    encoder, decoder = tiny.stream_encoder(mode=mode, codebooks=2), tiny.stream_decoder(mode=mode)
    for chunk in (speech[:0], speech[:1], speech[:318]):
        codes = encoder.feed(chunk)
        assert (codes.shape, codes.dtype) == ((2, 0), np.dtype(np.int64))
        audio = decoder.feed(codes)
        assert (audio.shape, audio.dtype) == ((0,), np.dtype(np.float32))
    ready = encoder.feed(speech[:1])
    assert ready.shape == (2, 1 if mode == "frame" else 0)


def test_flushing_an_empty_stream_gives_nothing(tiny: Model) -> None:
    assert tiny.stream_encoder().flush().shape == (4, 0)
    assert tiny.stream_decoder().flush().shape == (0,)
    assert tiny.stream_encoder(channels=2, sample_rate=48000).flush().shape == (2, 4, 0)
    assert tiny.stream_decoder(channels=2, sample_rate=48000).flush().shape == (2, 0)


def test_a_second_flush_gives_nothing_more(tiny: Model, speech: Speech) -> None:
    encoder, decoder = tiny.stream_encoder(), tiny.stream_decoder()
    codes = np.concatenate([encoder.feed(speech[:1000]), encoder.flush()], 1)
    assert encoder.flush().shape == (4, 0)
    decoder.feed(codes)
    decoder.flush()
    assert decoder.flush().shape == (0,)


def test_feeding_after_flush_is_an_error_until_reset(tiny: Model, speech: Speech) -> None:
    encoder, decoder = tiny.stream_encoder(), tiny.stream_decoder()
    first = stream(encoder, [speech[:1000]])
    with pytest.raises(AudioError, match=r"fed after flush; call reset\(\)"):
        encoder.feed(speech[:10])
    audio = stream(decoder, [first])
    with pytest.raises(CodesError, match=r"fed after flush; call reset\(\)"):
        decoder.feed(first)
    encoder.reset()
    decoder.reset()
    assert np.array_equal(stream(encoder, [speech[:1000]]), first)
    assert np.array_equal(stream(decoder, [first]), audio)


def test_behind_its_with_block_a_stream_has_ended(tiny: Model, speech: Speech) -> None:
    """What waited is forgotten there, so what came next would be coded as if it had stood in its place."""
    with tiny.stream_encoder(sample_rate=24000) as encoder, tiny.stream_decoder(sample_rate=8000) as decoder:
        decoder.feed(encoder.feed(speech[:1100]))
    state = encoder.state()
    with pytest.raises(AudioError, match=r"call reset\(\)"):
        encoder.feed(speech[1100:2000])
    with pytest.raises(CodesError, match=r"call reset\(\)"):
        decoder.feed(np.zeros((4, 3), np.int64))
    assert encoder.flush().size == decoder.flush().size == 0
    encoder.load_state(state)
    encoder.reset()
    assert encoder.feed(speech[:3000]).shape[1] > 0


def test_a_stream_is_copied_but_not_pickled(tiny: Model, speech: Speech) -> None:
    encoder = tiny.stream_encoder()
    first = encoder.feed(speech[:1000])
    twins = [copy.copy(encoder), copy.deepcopy(encoder)]
    for twin in twins:
        twin.feed(speech[5000:6000])
    rest = stream(encoder, [speech[1000:3000]])
    assert np.array_equal(np.concatenate([first, rest], 1), tiny.encode(speech[:3000], mode="frame").data)
    for thing in (encoder, tiny.stream_decoder(), tiny.stream_encoders(rows=1), tiny.stream_decoders()):
        with pytest.raises(StateError, match=r"send the bytes of state\(\)"):
            pickle.dumps(thing)


def test_a_reset_in_the_middle_forgets_all_that_was_fed(tiny: Model, speech: Speech) -> None:
    encoder = tiny.stream_encoder(sample_rate=48000)
    wanted = stream(encoder, [speech[:9000]])
    encoder.reset()
    encoder.feed(speech[500:5000])
    encoder.reset()
    assert np.array_equal(stream(encoder, [speech[:9000]]), wanted)


def test_two_streams_of_one_model_do_not_touch_each_other(tiny: Model, speech: Speech) -> None:
    alone = stream(tiny.stream_encoder(), [speech[:2000]])
    one, other = tiny.stream_encoder(), tiny.stream_encoder()
    parts = []
    for piece in pieces(speech[:2000], [700, 1400]):
        parts.append(one.feed(piece))
        other.feed(speech[5000:5600])
    assert np.array_equal(np.concatenate([*parts, one.flush()], 1), alone)


def test_a_stream_gives_back_the_kind_of_array_it_takes(tiny: Model, speech: Speech) -> None:
    encoder, decoder = tiny.stream_encoder(), tiny.stream_decoder()
    codes = encoder.feed(torch.from_numpy(speech[:2000]))
    assert isinstance(codes, torch.Tensor)
    assert isinstance(encoder.flush(), torch.Tensor)
    assert isinstance(decoder.feed(codes), torch.Tensor)
    assert np.array_equal(codes.numpy(), tiny.stream_encoder().feed(speech[:2000]))


@pytest.mark.parametrize(
    ("chunk", "text"),
    [
        (np.zeros((1, 10), np.float32), r"chunk of shape \(1, 10\), expected \(samples,\)"),
        (np.zeros(10, np.int16), "type int16"),
        (np.array([0, np.nan], np.float32), "sample 101 is NaN"),
    ],
)
def test_a_bad_chunk_is_refused_and_the_stream_goes_on(
    tiny: Model, speech: Speech, chunk: npt.NDArray[Any], text: str
) -> None:
    encoder = tiny.stream_encoder(sample_rate=48000)
    first = encoder.feed(speech[:100])
    with pytest.raises(AudioError, match=text):
        encoder.feed(chunk)
    rest = [encoder.feed(speech[100:3000]), encoder.flush()]
    wanted = stream(tiny.stream_encoder(sample_rate=48000), [speech[:3000]])
    assert np.array_equal(np.concatenate([first, *rest], 1), wanted)


@pytest.mark.parametrize(
    ("codes", "text"),
    [
        (np.zeros((2, 4, 1), np.int64), r"expected \(codebooks, frames\)"),
        (np.zeros((4, 1)), "expected integers"),
        (np.zeros((3, 1), np.int64), "3 codebooks: tiny decodes 2, 4|3 codebooks after 4"),
        (np.zeros((2, 1), np.int64), "2 codebooks after 4; begin a new stream"),
        (np.full((4, 1), 32), "code 32 at codebook 0, frame 0"),
    ],
)
def test_bad_codes_are_refused_and_the_stream_goes_on(tiny: Model, codes: npt.NDArray[Any], text: str) -> None:
    decoder = tiny.stream_decoder()
    good = np.arange(12).reshape(4, 3)
    first = decoder.feed(good)
    with pytest.raises(CodesError, match=text):
        decoder.feed(codes)
    rest = [decoder.feed(good), decoder.flush()]
    wanted = stream(tiny.stream_decoder(), [np.concatenate([good, good], 1)])
    assert np.array_equal(np.concatenate([first, *rest]), wanted)


@pytest.mark.parametrize("options", [{"sample_rate": 7999}, {"sample_rate": 0}, {"channels": 0}, {"channels": -1}])
def test_a_stream_that_cannot_be_is_refused_when_it_begins(tiny: Model, options: dict[str, Any]) -> None:
    for begin in (tiny.stream_encoder, tiny.stream_decoder):
        with pytest.raises(AudioError, match=next(iter(options))):
            begin(**options)


# latency


def test_the_first_codes_come_after_one_frame_of_audio(tiny: Model, speech: Speech) -> None:
    encoder = tiny.stream_encoder()
    assert encoder.feed(speech[:319]).shape == (4, 0)
    assert encoder.feed(speech[319:320]).shape == (4, 1)


def test_each_frame_of_codes_gives_a_frame_of_audio_once_the_delay_is_over(tiny: Model) -> None:
    decoder = tiny.stream_decoder()
    given_back = [len(decoder.feed(np.zeros((4, 1), np.int64))) for _ in range(5)]
    assert given_back == [0, 160, 320, 320, 320]  # the delay of 480 samples is trimmed


@pytest.mark.parametrize("at", [3200, 3519, 4001])
def test_no_sample_comes_later_than_the_latency_says(tiny: Model, speech: Speech, at: int) -> None:
    """Sample n is given back once n + latency samples went in, even fed one by one."""
    encoder, decoder = tiny.stream_encoder(), tiny.stream_decoder()
    n_given = len(decoder.feed(encoder.feed(speech[: at - 1])))
    latency = round(tiny.info.latency * tiny.info.sample_rate)
    for i, sample in enumerate(speech[at - 1 : at + 700], at):
        n_given += len(decoder.feed(encoder.feed(np.array([sample]))))
        assert n_given >= i + 1 - latency


def test_an_impulse_changes_nothing_before_itself(tiny: Model, speech: Speech) -> None:
    """A change of the codes at frame f reaches no audio before f * hop - delay: nothing is late beyond the latency."""
    audio = speech[:6400].copy()
    codes = tiny.encode(audio, mode="frame").data
    changed = codes.copy()
    changed[:, 10] = (codes[:, 10] + 7) % 32
    one, other = (tiny.decode(tiny.codes(item, mode="frame")) for item in (codes, changed))
    differs = np.flatnonzero(one != other)
    assert 10 * 320 - tiny.info.delay <= differs[0] < 10 * 320


# the embedded model


def test_the_two_modes_of_the_embedded_model_agree(embedded: Model, speech: Speech) -> None:
    audio = speech[16000:64000]
    block, frame = (embedded.encode(audio, mode=mode) for mode in MODES)
    assert np.mean(block.data == frame.data) >= 0.99
    one, other = (embedded.decode(embedded.codes(block.data, block.n_samples, mode=mode)) for mode in MODES)
    noise = np.square(one - other).mean()
    assert 10 * np.log10(np.square(one).mean() / max(noise, 1e-20)) >= 60


def test_the_embedded_model_is_not_late(embedded: Model, speech: Speech) -> None:
    """A click comes out where it went in: the delay that info tells is the true one."""
    audio = speech[16000:48000]
    decoded = embedded.decode(embedded.encode(audio))
    size = 1 << 17
    spectrum = np.fft.rfft(decoded, size) * np.conj(np.fft.rfft(audio, size))
    correlation = np.fft.irfft(spectrum, size)
    lag = int(np.argmax(np.abs(correlation)))
    lag = lag - size if lag > size // 2 else lag
    assert abs(lag) <= 80  # samples; 5 ms, within one pitch period
