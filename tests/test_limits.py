"""A recipe's wrong numbers are refused before a run begins, each in one line that names it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from codec.errors import ConfigError
from codec.train.config import Recipe, read_recipe
from codec.train.run import run
from codec.train.trainer import Trainer

FIXTURES = Path(__file__).parent / "fixtures"
SPEECH = f"data={FIXTURES}/rhasspy_nathalie_03.flac"


def small(*overrides: str) -> Recipe:
    return read_recipe(FIXTURES / "small.yaml", overrides)


@pytest.mark.parametrize(
    "override",
    [
        "data.crop=.nan",
        "data.crop=1e9",
        "data.gain_db=[6,-12]",
        "data.gain_db=[.nan,0]",
        "data.held_out=2",
        "data.noise_share=0.5",  # of no noise
        "optim.warmup=-3",
        "learn.start_step=-1",
        "adversary.start_step=-2",
        "optim.decay_share=2",
        "optim.betas=[1,0.9]",
        "optim.clip=.nan",
        "optim.clip=0",
        "optim.ema=1",
        "optim.freeze=foo",
        "optim.levels={2: 0}",
        "optim.levels={2: -1, 4: 2}",
        "optim.levels={x: 1}",
        "loss.mel=.nan",
        "loss.mel=-1",
        "mels.floor=0",
        "mels.windows=[0]",
        "adversary.windows=[2]",
        "adversary.periods=[0]",
        "run.seed=-1",
        "run.seed=99999999999999999999",
        "run.log_every=0",
        "run.measure_every=0",
        "run.keep=0",
    ],
)
def test_a_number_that_no_run_can_have_is_named(override: str) -> None:
    key = override.partition("=")[0]
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")) as caught:
        small(override)
    assert "\n" not in str(caught.value)


def test_a_recipe_in_which_nothing_is_heard_is_refused() -> None:
    silent = ("loss.mel=0", "loss.complex=0")
    with pytest.raises(ConfigError, match="no weight"):
        small(*silent)
    with pytest.raises(ConfigError, match="no weight"):
        small(*silent, "adversary.start_step=5")  # five steps without
    assert small(*silent, "adversary.start_step=0").adversary.start_step == 0


def test_a_recipe_in_which_nothing_learns_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optim\.freeze"):
        Trainer(small("optim.freeze=encoder,decoder"), torch.device("cpu"))


def test_numbers_of_codebooks_that_do_not_decode_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"optim\.levels: this network codes with 2, 4 codebooks, not with 3"):
        run(small("optim.levels={3: 1}", SPEECH, f"run={tmp_path}"), lambda line: None)
