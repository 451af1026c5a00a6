"""codec.cost: what a network computes, counted by its shapes."""

from __future__ import annotations

import dataclasses

import pytest

from codec.config import ModelConfig, Part
from codec.cost import model_gmacs
from codec.segments import Segments
from codec.train.config import read_recipe
from codec.train.dryrun import dry_run


def test_larger_codebooks_cost_their_search_alone() -> None:
    """Of the tiny recipe: each of 4 codebooks compares 64 entries of 16 numbers, 50 times a second."""
    config = read_recipe("tiny").model
    options = config.bottleneck.options | {"codebook_size": 192}
    larger = dataclasses.replace(config, bottleneck=dataclasses.replace(config.bottleneck, options=options))
    assert model_gmacs(larger) - model_gmacs(config) == pytest.approx(4 * (192 - 64) * 16 * 50 / 1e9)


def test_a_dry_run_tells_the_same() -> None:
    recipe = read_recipe("tiny")
    assert dry_run(recipe).gmacs == model_gmacs(recipe.model)


def test_what_segments_have_in_common_is_counted_twice() -> None:
    """As much a second as 500 frames of both channels, where 400 follow each other."""
    options = {"n_filters": 2, "strides": (4, 10), "causal": False, "n_recurrent": 0}
    parts = Part("conv", options | {"ragged": True}), Part("residual", {"n_codebooks": 1, "codebook_size": 4})
    config = ModelConfig(
        *parts, Part("conv", options), 16000, 40, channels=2, latent_dim=4, segments=Segments(400, 320)
    )
    mono = dataclasses.replace(config, channels=1, segments=None)
    first_and_last = 2 * 2 * 7 * 16000 / 1e9  # products of a channel more with each filter, at both ends
    assert model_gmacs(config) == pytest.approx((model_gmacs(mono) + first_and_last) * 400 / 320)
