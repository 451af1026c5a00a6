"""Masks hide what was asked for, where it was asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.errors import CodesError
from codec.lm.masks import (
    SCHEDULES,
    codebook_mask,
    depth_mask,
    hidden_share,
    random_mask,
    reveal_counts,
    sample_shares,
    span_mask,
    uniform_noise,
)


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_a_schedule_falls_from_all_to_nothing_and_its_steps_reveal_every_token(schedule: str) -> None:
    shares = [hidden_share(point, schedule) for point in np.linspace(0, 1, 20)]
    assert shares[0] == 1
    assert shares[-1] == pytest.approx(0)
    assert shares == sorted(shares, reverse=True)
    counts = reveal_counts(1000, 12, schedule)
    assert (sum(counts), len(counts), min(counts) >= 0) == (1000, 12, True)


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1), st.integers(0, 2**32))
def test_a_random_mask_hides_exactly_its_share_of_each_row(share: float, seed: int) -> None:
    mask = random_mask((3, 4, 50), share, np.random.default_rng(seed))
    assert (mask.sum(-1) == round(share * 50)).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.integers(0, 40), st.floats(0, 1), st.integers(0, 2**32))
def test_a_depth_mask_leaves_a_prefix_of_codebooks_in_each_frame(q: int, f: int, share: float, seed: int) -> None:
    mask = depth_mask(q, f, share, np.random.default_rng(seed))
    assert mask.sum() == round(share * q * f)
    assert (np.diff(mask.astype(int), axis=0) >= 0).all()


def test_a_codebook_mask_shows_coarser_and_hides_finer_ones() -> None:
    mask = codebook_mask(6, 40, 0.5, np.random.default_rng(3))
    kinds = mask.sum(1).tolist()
    assert kinds == sorted(kinds)
    assert kinds.count(20) == 1
    assert set(kinds) <= {0, 20, 40}


def test_a_span_mask_hides_about_its_share_in_spans() -> None:
    mask = span_mask((20, 2000), 0.4, np.random.default_rng(0), span=10)
    assert mask.mean() == pytest.approx(0.4, abs=0.03)
    # Away from the ends of a row, whatever is hidden lies in a run of at least one span.
    edges = np.flatnonzero(np.diff(np.concatenate(([0], mask[0].astype(int), [0]))))
    runs = (edges[1::2] - edges[::2])[1:-1]
    assert runs.min() >= 10


def test_uniform_noise_changes_no_more_than_its_share_and_stays_in_range() -> None:
    codes, sizes = np.zeros((2, 3, 100), np.int64), (5, 9, 4)
    noised = uniform_noise(codes, sizes, 0.5, np.random.default_rng(0))
    assert 0.2 < (noised != codes).mean() <= 0.5
    assert (noised.max((0, 2)) < sizes).all()
    assert (uniform_noise(codes, sizes, 0.0, np.random.default_rng(0)) == codes).all()


def test_equal_generators_give_equal_masks() -> None:
    pairs = [(sample_shares(4, rng), random_mask((9,), 0.3, rng)) for rng in map(np.random.default_rng, (7, 7))]
    assert np.array_equal(pairs[0][0], pairs[1][0])
    assert np.array_equal(pairs[0][1], pairs[1][1])


def test_unknown_schedules_and_points_outside_are_refused() -> None:
    with pytest.raises(CodesError, match="known are cosine"):
        hidden_share(0.5, "steps")
    with pytest.raises(CodesError, match="expected 0 to 1"):
        hidden_share(1.5)
    with pytest.raises(CodesError, match="expected at least 1"):
        reveal_counts(5, 0)
