"""codec.cost: what a network computes, counted by its shapes."""

from __future__ import annotations

import dataclasses

import pytest

from codec.cost import model_gmacs
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
