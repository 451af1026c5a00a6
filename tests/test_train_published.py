"""The recipes of published systems learn: each at a reduced size, a few steps, in one go and resumed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from codec.train.config import Recipe, read_recipe
from codec.train.run import run

FIXTURES = Path(__file__).parent / "fixtures"
SPEECH = f"data={FIXTURES}/librispeech_4267_287369-0000.flac,{FIXTURES}/rhasspy_nathalie_03.flac"
COMMON = (
    SPEECH, "run.device=cpu", "run.log_every=1", "run.measure_every=1000", "data.batch=2", "optim.steps=16",
    "optim.rate=3e-3", "optim.warmup=1", "optim.precision=float32", "learn.pool=64", "learn.start_step=4",
    "adversary.start_step=-1", "model.bottleneck.options.codebook_size=16",
)  # fmt: skip
CONVS = ("model.latent_dim=12", "data.crop=0.2")
VOCOS = "model.decoder.options={dim: 16, hidden_dim: 24, n_blocks: 2, n_fft: 1280"
MIMI = ".options={dim: 16, n_filters: 4, n_blocks: 1, n_heads: 2, hidden_dim: 16}"
# recipe -> what makes it small; kinds, strides, paddings and paths stay
SMALL: dict[str, tuple[str, ...]] = {
    "languagecodec_24k": (*CONVS, "model.encoder.options.n_filters=4", VOCOS + "}"),
    "languagecodec_24k_streaming": (*CONVS, "model.encoder.options.n_filters=4", VOCOS + ", causal: true}"),
    "mimi_24k": ("data.crop=0.64", "model.latent_dim=16", "model.encoder" + MIMI, "model.decoder" + MIMI),
    "speechtokenizer_16k": (
        *CONVS,
        "model.encoder.options.n_filters=4",
        "model.decoder.options.n_filters=4",
        "optim.rate=1e-3",
    ),
}


def small(name: str, folder: Path) -> Recipe:
    return read_recipe(name, (*COMMON, *SMALL[name], f"run={folder}"))


def values_of(lines: list[str], term: str) -> list[float]:
    found = (re.search(rf"step \d+/\d+ .*\b{term} ([\d.]+)", line) for line in lines)
    return [float(match[1]) for match in found if match]


@pytest.mark.slow  # the fast form of this law, without files, is in test_recipes
@pytest.mark.parametrize("name", SMALL)
def test_a_recipe_learns_and_resumes(name: str, tmp_path: Path) -> None:
    lines: list[str] = []
    run(small(name, tmp_path), lines.append, stop_after=10)
    run(small(name, tmp_path), lines.append)
    assert any(line.startswith("resumes in") for line in lines)
    heaviest = "waveform" if small(name, tmp_path).loss.waveform else "mel"
    values = values_of(lines, heaviest)
    assert len(values) == 16
    assert sum(values[-4:]) < 0.95 * sum(values[:4])
