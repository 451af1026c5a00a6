"""Heads of FACodec: each learns from its labels, the reversed ones make their part forget, the missing are named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from codec.errors import ConfigError, TrainError
from codec.train.config import HeadsConfig, OptimConfig, Recipe, read_recipe
from codec.train.heads import HEADS, Heads, class_loss, pitch_loss, reverse
from codec.train.labels import Labels
from codec.train.run import run

CPU = torch.device("cpu")
FIXTURES = Path(__file__).parent / "fixtures"
SPEAKERS = {"librispeech_4267_287369-0000": "4267", "librispeech_6181_216552-0000": "6181"}
SMALL = (
    "run.device=cpu", "run.log_every=1", "run.measure_every=1000", "data.batch=4", "data.crop=0.3", "optim.steps=16",
    "optim.rate=3e-3", "optim.warmup=1", "optim.precision=float32", "learn.pool=64", "learn.start_step=0", "mels={}",
    "adversary.start_step=-1", "model.latent_dim=16", "optim.levels={}", "heads.channels=16",
    "model.encoder.options={n_filters: 2, strides: [2, 4, 5, 5], n_layers: 1, n_heads: 2, hidden_dim: 8}",
    "model.decoder.options={width: 16, strides: [2, 4, 5, 5]}",
    "model.bottleneck.options={codebook_size: 8, codebook_dim: 4, n_passed: 8}",
)  # fmt: skip


def labels_of(*, phones: bool = True) -> Labels:
    """One file of eight labels, high and low in turn, then unvoiced; two phones; of two speakers the second."""
    nan = float("nan")
    return Labels(
        160,
        torch.tensor([0]),
        torch.tensor([8]),
        160,
        pitch=torch.tensor([1, -1, 1, -1, nan, nan, nan, nan]),
        phones=torch.tensor([0, 1, 0, 1, 0, 1, -1, -1], dtype=torch.int16) if phones else None,
        speaker=torch.tensor([1]),
        classes={"phones": ("a", "b"), "speaker": ("x", "y")},
        missing={} if phones else {"phones": "there are none"},
    )


def heads_of(labels: Labels, **weights: float) -> Heads:
    optim = OptimConfig(rate=1e-2)
    return Heads(HeadsConfig(channels=8, **weights), labels, dim=4, optim=optim, seed=0, device=CPU)  # type: ignore[arg-type]


def parts_of() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(2, 4, 8, generator=generator).requires_grad_() for _ in range(3)]
    return made[0], made[1], made[2]


def test_heads_learn_what_their_labels_say() -> None:
    labels = labels_of()
    heads, parts = heads_of(labels, **dict.fromkeys(HEADS, 1.0)), parts_of()
    found = labels.cut(torch.tensor([0, 0]), torch.tensor([0, 0]), length=8 * 160)
    values = []
    for _ in range(20):
        terms = heads.terms(parts, found)
        heads.optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        heads.step(2e-2, torch.ones(()))
        values.append({name: float(x.detach()) for name, x in terms.items()})
    assert values[0].keys() == HEADS.keys()
    assert all(values[-1][name] < 0.3 * values[0][name] for name in HEADS), values[-1]


@pytest.mark.parametrize("name", HEADS)
def test_a_reversed_head_pushes_the_latent_away_from_what_it_tells(name: str) -> None:
    labels, parts = labels_of(), parts_of()
    heads = heads_of(labels, **{name: 1.0})
    found = labels.cut(torch.tensor([0, 0]), torch.tensor([0, 0]), length=8 * 160)
    before = heads.terms(parts, found)[name]
    before.backward()  # type: ignore[no-untyped-call]
    assert any(x.grad is not None for x in parts)
    moved = tuple(x if x.grad is None else x.detach() - 0.01 * x.grad for x in parts)
    after = heads.terms((moved[0], moved[1], moved[2]), found)[name]
    assert bool(after > before) == HEADS[name].reversed
    touched = {i for i, x in enumerate(parts) if x.grad is not None}
    expected = {"prosody": {0}, "content": {1}, "residual": {2}, "sum": {0, 1, 2}}
    assert touched == expected[HEADS[name].part]


def test_losses_are_those_worked_out_by_hand() -> None:
    nan = float("nan")
    told = torch.tensor([[[0.5, 9.0], [0.0, 0.0]]])
    assert float(pitch_loss(told, torch.tensor([[1.0, nan]]))) == pytest.approx(0.125 + 0.693147)
    assert float(pitch_loss(told, torch.full((1, 2), nan))) == pytest.approx(0.693147)
    assert float(class_loss(torch.zeros(2, 4), torch.tensor([1, -1]))) == pytest.approx(1.386294)
    assert float(class_loss(torch.zeros(2, 4), torch.tensor([-1, -1]))) == 0
    x = torch.tensor([2.0], requires_grad=True)
    (3 * reverse(x)).backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.tolist() == [-3.0]


def test_a_head_without_labels_is_named_and_other_labels_do_not_resume() -> None:
    heads = heads_of(labels_of(phones=False), pitch=1, phones=5, speaker=1)
    assert list(heads.weights) == ["pitch", "speaker"]
    assert "head phones: no labels, it does not learn: there are none" in heads.lines()
    with pytest.raises(TrainError, match="not those that the run began with"):
        heads_of(labels_of(), pitch=1, phones=5, speaker=1).load_state_dict(heads.state_dict())


def test_a_step_that_is_not_finite_changes_nothing() -> None:
    labels = labels_of()
    heads = heads_of(labels, pitch=1)
    before = {key: x.clone() for key, x in heads.modules.state_dict().items()}
    found = labels.cut(torch.tensor([0, 0]), torch.tensor([0, 0]), length=8 * 160)
    heads.terms(parts_of(), found)["pitch"].backward()  # type: ignore[no-untyped-call]
    heads.step(1e-2, torch.tensor(float("nan")))
    assert all(torch.equal(x, before[key]) for key, x in heads.modules.state_dict().items())


def test_heads_need_their_bottleneck() -> None:
    with pytest.raises(ConfigError, match="need the bottleneck attributes, found grouped"):
        read_recipe("tiny", ("heads.pitch=1",))
    with pytest.raises(ConfigError, match="weights must be at least 0"):
        HeadsConfig(pitch=-1)


def recipe_of(folder: Path) -> Recipe:
    manifest = folder / "data.csv"
    rows = [f"{FIXTURES}/{name}.flac,{speaker}" for name, speaker in SPEAKERS.items()]
    manifest.write_text("\n".join(["path,speaker", *rows, f"{FIXTURES}/rhasspy_nathalie_03.flac,nathalie"]))
    return read_recipe("facodec_16k", (*SMALL, f"data={manifest}", f"run={folder / 'run'}"))


@pytest.mark.slow
def test_the_recipe_learns_from_a_manifest_and_resumes(tmp_path: Path) -> None:
    recipe, lines = recipe_of(tmp_path), list[str]()
    run(recipe, lines.append, stop_after=10)
    run(recipe, lines.append)
    assert any(line.startswith("resumes in") for line in lines)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "heads: pitch, residual_pitch, speaker, 3 speakers" in log
    assert log.count("head phones: no labels, it does not learn: no manifest has a column 'phones'") == 2
    assert sum(line.startswith("pitch: tracked") for line in lines) == 1
    for term, share in (("mel", 0.95), ("pitch", 0.98), ("speaker", 0.98)):
        values = [float(m[1]) for line in lines if (m := re.search(rf"step \d+/.* {term} ([\d.]+)", line))]
        assert len(values) == 16
        assert sum(values[-4:]) < share * sum(values[:4]), (term, values)
