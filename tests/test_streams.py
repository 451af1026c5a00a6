"""Many streams in one object: each row is a stream of its own, whatever the others do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codec.api import Model
from codec.errors import AudioError, CodesError, StateError

Array = npt.NDArray[Any]
LAW = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def alone(coder: Any, whole: Array) -> Array:
    """What one stream gives."""
    result: Array = np.concatenate([coder.feed(whole), coder.flush()], -1)
    return result


def play(coders: Any, schedule: list[dict[int, Array]]) -> dict[int, Array]:
    """Feed what a schedule says, flush all: everything that each row gave."""
    parts: dict[int, list[Array]] = {row: [] for row in coders.rows}
    for chunks in schedule:
        for row, given_back in coders.feed(chunks).items():
            parts[row].append(given_back)
    for row, given_back in coders.flush(coders.rows).items():
        parts[row].append(given_back)
    return {row: np.concatenate(found, -1) for row, found in parts.items()}


def cut(rows: list[Array], sizes: list[int]) -> list[dict[int, Array]]:
    """A schedule in which row after row gets a piece of the next size, some rows together."""
    schedule: list[dict[int, Array]] = []
    at, turn = [0] * len(rows), 0
    while any(at[row] < whole.shape[-1] for row, whole in enumerate(rows)):
        chunks = {}
        for row, whole in enumerate(rows):
            size = sizes[(turn + row) % len(sizes)]
            if at[row] < whole.shape[-1] and size:
                chunks[row] = whole[..., at[row] : at[row] + size]
                at[row] += size
        schedule.append(chunks)
        turn += 1
    return schedule


def agreement(one: Array, other: Array) -> float:
    assert one.shape == other.shape
    return float(np.mean(one == other)) if one.size else 1.0


# rows are streams


@LAW
@given(
    lengths=st.lists(st.integers(0, 4000), min_size=1, max_size=4),
    sizes=st.lists(st.sampled_from([0, 1, 319, 320, 700, 3000]), max_size=4).map(lambda some: [*some, 2000]),
    mode=st.sampled_from(["frame", "block"]),
)
def test_every_row_gives_what_a_stream_of_its_own_gives(
    tiny: Model, speech: Array, lengths: list[int], sizes: list[int], mode: str
) -> None:
    rows = [speech[16000 + 7000 * i :][:length] for i, length in enumerate(lengths)]
    codes = play(tiny.stream_encoders(rows=len(rows), mode=mode), cut(rows, sizes))
    for row, audio in enumerate(rows):
        wanted = alone(tiny.stream_encoder(mode=mode), audio)
        assert agreement(codes[row], wanted) >= 0.98  # one code of a short row may be a near-tie of random weights
    frames = [codes[row] for row in range(len(rows))]
    heard = play(tiny.stream_decoders(rows=len(rows), mode=mode), cut(frames, [1, 0, 3]))
    for row in range(len(rows)):
        np.testing.assert_allclose(heard[row], alone(tiny.stream_decoder(mode=mode), codes[row]), atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def talks(speech: Array) -> list[Array]:
    """Eight pieces of real speech, half a second each."""
    return [speech[8000 * i + 16000 :][:8000] for i in range(8)]


def test_rows_of_the_embedded_model_agree_with_single_streams(
    embedded: Model, talks: list[Array], record_property: Callable[[str, object], None]
) -> None:
    codes = play(embedded.stream_encoders(rows=8), cut(talks, [333, 1000, 160]))
    wanted = {row: alone(embedded.stream_encoder(), audio) for row, audio in enumerate(talks)}
    same = [agreement(codes[row], wanted[row]) for row in wanted]
    record_property("codes that agree", float(np.mean(same)))
    assert np.mean(same) >= 0.999
    heard = play(embedded.stream_decoders(rows=8), cut(list(wanted.values()), [1, 3]))
    one = np.concatenate([alone(embedded.stream_decoder(), item) for item in wanted.values()])
    noise = one - np.concatenate([heard[row] for row in wanted])
    decibels = 10 * np.log10(np.square(one).sum() / max(np.square(noise).sum(), 1e-20))
    record_property("audio agrees, dB", float(decibels))
    assert decibels >= 60


@pytest.mark.parametrize("bad", ["noise", "zeros", "loud", "click"])
@pytest.mark.parametrize("name", ["embedded", "tiny"])
def test_what_a_row_says_leaves_its_neighbours_untouched(
    request: pytest.FixtureRequest, talks: list[Array], name: str, bad: str
) -> None:
    """With the onnx engine and the torch engine."""
    model: Model = request.getfixturevalue(name)
    noise = np.random.default_rng(0).standard_normal(6400).astype(np.float32)
    worst = {"noise": noise, "zeros": 0 * noise, "loud": 1000 * noise, "click": 1.0 * (np.arange(6400) == 3000)}
    rows = [audio[:6400] for audio in talks[:3]]
    with_good = play(model.stream_encoders(rows=3), cut(rows, [700]))
    with_bad = play(model.stream_encoders(rows=3), cut([rows[0], worst[bad].astype(np.float32), rows[2]], [700]))
    assert not np.array_equal(with_bad[1], with_good[1])
    assert np.array_equal(with_bad[0], with_good[0])
    assert np.array_equal(with_bad[2], with_good[2])


def test_a_bad_chunk_is_refused_with_its_row_and_no_row_takes_anything(tiny: Model, talks: list[Array]) -> None:
    encoders, clean = tiny.stream_encoders(rows=3), tiny.stream_encoders(rows=3)
    nan = talks[1][:500].copy()
    nan[17] = np.nan
    with pytest.raises(AudioError, match="row 1: sample 17 is NaN"):
        encoders.feed({0: talks[0][:500], 1: nan, 2: talks[2][:500]})
    both = [coders.feed({0: talks[0][:500], 2: talks[2][:500]}) for coders in (encoders, clean)]
    assert [np.array_equal(both[0][row], both[1][row]) for row in (0, 2)] == [True, True]
    decoders = tiny.stream_decoders(rows=2)
    with pytest.raises(CodesError, match="row 1: code 32 at codebook 0") as caught:
        decoders.feed({0: np.zeros((4, 5), np.int64), 1: np.full((4, 5), 32)})
    assert str(caught.value).startswith("stream decoders")
    assert len(decoders.feed({0: np.zeros((4, 1), np.int64)})[0]) == 0  # the first frame: all of it is delay


# joining, leaving, ending


def test_rows_join_and_leave_while_others_go_on(tiny: Model, talks: list[Array]) -> None:
    encoders = tiny.stream_encoders()
    assert not encoders.rows
    first, second = encoders.add(), encoders.add()
    parts = [encoders.feed({first: talks[0][:3000], second: talks[1][:3000]})[first]]
    encoders.remove(second)
    third, fourth = encoders.add(), encoders.add()
    assert encoders.rows == (first, third, fourth)
    assert len({first, second, third, fourth}) == 4
    both = encoders.feed({fourth: talks[3][:50], third: talks[2][:6000], first: talks[0][3000:6000]})
    parts += [both[first], encoders.flush([first])[first]]
    late = np.concatenate([both[third], encoders.flush([third])[third]], 1)
    assert agreement(np.concatenate(parts, 1), alone(tiny.stream_encoder(), talks[0][:6000])) >= 0.98
    assert agreement(late, alone(tiny.stream_encoder(), talks[2][:6000])) >= 0.98  # nothing of the row that left


def test_a_row_is_flushed_and_reset_by_itself(tiny: Model, talks: list[Array]) -> None:
    encoders = tiny.stream_encoders(rows=2, codebooks=2)
    encoders.feed({0: talks[0][:1000], 1: talks[1][:1000]})
    last = encoders.flush([0, 0])
    assert (list(last), last[0].shape) == ([0], (2, 2))
    assert encoders.flush([0])[0].shape == (2, 0)
    with pytest.raises(AudioError, match=r"row 0: fed after flush; call reset\(\)"):
        encoders.feed({0: talks[0][:1000]})
    encoders.reset(0)
    again = encoders.feed({0: talks[2][:3200], 1: talks[1][1000:3200]})
    wanted = tiny.stream_encoder(codebooks=2).feed(talks[2][:3200])
    assert agreement(again[0], wanted) >= 0.95
    decoders = tiny.stream_decoders(rows=2)
    decoders.feed({0: wanted, 1: wanted})
    decoders.flush([1])
    decoders.reset(1)
    fresh = decoders.feed({1: wanted, 0: wanted})[1]
    np.testing.assert_allclose(fresh, tiny.stream_decoder().feed(wanted), atol=1e-4)


def test_a_row_that_is_not_there_is_refused(tiny: Model) -> None:
    encoders, decoders = tiny.stream_encoders(rows=2), tiny.stream_decoders()
    encoders.remove(0)
    for attempt in (encoders.remove, encoders.reset, lambda row: encoders.flush([row])):
        with pytest.raises(AudioError, match="row 0: not there; rows are 1; add"):
            attempt(0)
    with pytest.raises(AudioError, match="row 0: not there"):
        encoders.feed({0: np.zeros(1, np.float32)})
    with pytest.raises(CodesError, match="row 3: not there; rows are none"):
        decoders.feed({3: np.zeros((4, 1), np.int64)})
    assert encoders.feed({}) == {}
    assert decoders.flush([]) == {}


def test_rows_of_unlike_numbers_of_codebooks_decode_side_by_side(tiny: Model, talks: list[Array]) -> None:
    codes = tiny.encode(talks[0], mode="frame").data[:, :9]
    heard = tiny.stream_decoders(rows=3).feed({0: codes, 1: codes[:2], 2: codes})
    for row, used in ((0, 4), (1, 2), (2, 4)):
        np.testing.assert_allclose(heard[row], tiny.stream_decoder().feed(codes[:used]), atol=1e-4)


def test_rows_resample_each_by_itself_and_give_back_the_kind_they_take(tiny: Model, talks: list[Array]) -> None:
    encoders = tiny.stream_encoders(rows=2, sample_rate=48000)
    codes = encoders.feed({0: torch.from_numpy(talks[0]), 1: talks[1]})
    assert isinstance(codes[0], torch.Tensor)
    assert isinstance(codes[1], np.ndarray)
    assert agreement(codes[1], tiny.stream_encoder(sample_rate=48000).feed(talks[1])) >= 0.98
    heard = play(tiny.stream_decoders(rows=2, sample_rate=8000), [{0: codes[0].numpy(), 1: codes[1]}])
    assert len(heard[1]) == len(alone(tiny.stream_decoder(sample_rate=8000), codes[1]))


# states of rows


@LAW
@given(
    at=st.integers(0, 1000),
    mode=st.sampled_from(["frame", "block"]),
    name=st.sampled_from(["tiny", "embedded"]),
    n_rows=st.integers(1, 3),
)
def test_a_row_goes_on_as_a_single_stream_and_a_single_stream_as_a_row(
    request: pytest.FixtureRequest, talks: list[Array], at: int, mode: str, name: str, n_rows: int
) -> None:
    """From any place, with neighbours that go on. A row that is alone is a stream of its own, exactly."""
    model: Model = request.getfixturevalue(name)
    audio = talks[0][:3500]
    codes = alone(model.stream_encoder(mode=mode), audio)
    heard = alone(model.stream_decoder(mode=mode), codes)
    for many, one, whole, wanted in (
        (model.stream_encoders, model.stream_encoder, audio, codes),
        (model.stream_decoders, model.stream_decoder, codes, heard),
    ):
        cut_at = at * whole.shape[-1] // 1000
        head, tail = whole[..., :cut_at], whole[..., cut_at:]
        rows, single = many(rows=n_rows, mode=mode), one(mode=mode)
        first = rows.feed(dict.fromkeys(rows.rows, head))[0]
        single.load_state(rows.state(0))
        to_single = np.concatenate([first, alone(single, tail)], -1)
        single = one(mode=mode)
        first = single.feed(head)
        rows.load_state(0, single.state())
        second = rows.feed(dict.fromkeys(rows.rows, tail))
        to_row = np.concatenate([first, second[0], rows.flush([0])[0]], -1)
        for found in (to_single, to_row):
            if n_rows == 1:
                assert np.array_equal(found, wanted)
            elif wanted.dtype == np.int64:
                assert agreement(found, wanted) >= 0.95  # a near-tie or two of few codes
            else:
                np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=1e-4)


def test_restoring_a_row_leaves_its_neighbours_untouched(tiny: Model, talks: list[Array]) -> None:
    encoders, clean = tiny.stream_encoders(rows=3), tiny.stream_encoders(rows=3)
    chunks = {row: talks[row][:1000] for row in range(3)}
    for coders in (encoders, clean):
        coders.feed(chunks)
    saved = encoders.state(1)
    encoders.feed({1: talks[5][:5000]})
    encoders.load_state(1, saved)
    rest = {row: talks[row][1000:3000] for row in range(3)}
    both = encoders.feed(rest), clean.feed(rest)
    assert [np.array_equal(both[0][row], both[1][row]) for row in range(3)] == [True] * 3


def test_a_state_that_does_not_fit_a_row_is_refused_and_changes_nothing(tiny: Model, talks: list[Array]) -> None:
    encoders = tiny.stream_encoders(rows=2)
    encoders.feed({0: talks[0][:1000]})
    before = encoders.state(0)
    decoder = tiny.stream_decoder().state()
    for data, text in ((before[:-1], "damaged"), (decoder, "kind 'decoder', this stream has 'encoder'")):
        with pytest.raises(StateError, match=text):
            encoders.load_state(0, data)
    assert encoders.state(0) == before
    for attempt in (encoders.state, lambda row: encoders.load_state(row, before)):
        with pytest.raises(AudioError, match="row 9: not there"):
            attempt(9)


def test_a_row_that_resamples_moves_to_another_row_and_to_a_single_stream(tiny: Model, talks: list[Array]) -> None:
    rows, one = tiny.stream_encoders(rows=1, sample_rate=48000), tiny.stream_encoder(sample_rate=48000)
    head, tail = talks[0][:4321], talks[0][4321:]
    wanted = alone(tiny.stream_encoder(sample_rate=48000), talks[0])
    first = rows.feed({0: head})[0]
    one.load_state(rows.state(0))
    assert np.array_equal(np.concatenate([first, alone(one, tail)], -1), wanted)
    rows.load_state(0, rows.state(0))
    assert np.array_equal(np.concatenate([first, rows.feed({0: tail})[0], rows.flush([0])[0]], -1), wanted)


# cost


@pytest.mark.slow
def test_32_rows_cost_at_most_12_single_steps(embedded: Model, talks: list[Array]) -> None:
    chunk, code = talks[0][:320], np.zeros((8, 1), np.int64)
    one, many = embedded.stream_encoder(), embedded.stream_encoders(rows=32)
    speak, speakers = embedded.stream_decoder(), embedded.stream_decoders(rows=32)
    pairs = [
        (lambda: one.feed(chunk), lambda: many.feed(dict.fromkeys(range(32), chunk))),
        (lambda: speak.feed(code), lambda: speakers.feed(dict.fromkeys(range(32), code))),
    ]
    for single, batch in pairs:
        times: dict[Any, list[float]] = {single: [], batch: []}
        for _ in range(60):
            for call, found in times.items():
                start = time.perf_counter()
                call()
                found.append(time.perf_counter() - start)
        assert min(times[batch]) <= 12 * min(times[single])  # the quiet moments of a busy core
