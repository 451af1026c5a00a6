"""A batch that goes through in parts, one after another, is the same step as the whole batch, in less memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from codec.errors import ConfigError
from codec.train.config import Recipe, read_recipe
from codec.train.data import Batch
from codec.train.dryrun import describe, dry_run
from codec.train.run import make_batches, run
from codec.train.trainer import StepReport, Trainer

FIXTURES = Path(__file__).parent / "fixtures"
CPU = torch.device("cpu")
SPEECH = f"data={FIXTURES}/librispeech_4267_287369-0000.flac,{FIXTURES}/rhasspy_nathalie_03.flac"
# Means over the batch: of ratios of sums the mean over parts is not that of the whole, as it is not over processes.
EVEN = ("loss.complex=0", "loss.power=1", "data.batch=4", "optim.clip=1e9")
ADVERSARY = ("adversary.start_step=0", "adversary.matching=mean", "adversary.every=1", "adversary.crop=0.1")
CASES = {
    "alone": EVEN,
    "adversary": (*EVEN, *ADVERSARY),
    "balance": (*EVEN, *ADVERSARY, "loss.balance=true"),
    "heads": (
        *EVEN,
        "model.bottleneck={kind: attributes, options: {codebook_size: 8, codebook_dim: 4, n_passed: 0}}",
        "optim.levels={}",
        "heads.pitch=1",
        "heads.residual_pitch=1",
    ),
}


def recipe_of(*words: str) -> Recipe:
    return read_recipe(FIXTURES / "small.yaml", (SPEECH, *words))


def train(folder: Path, *words: str) -> tuple[Trainer, list[StepReport], dict[str, Tensor]]:
    """Five steps, what each measured, and the first gradient of all that learns."""
    recipe = recipe_of(*words)
    trainer = Trainer(recipe, CPU)
    batches = make_batches(recipe, folder, CPU, print)
    trainer.begin_heads(batches.labels)
    found = [trainer.run_step(batches(0))]
    modules = {"network": trainer.network} | ({"heads": trainer.heads.modules} if trainer.heads else {})
    gradients = {
        f"{kind}.{name}": x.grad.clone()
        for kind, module in modules.items()
        for name, x in module.named_parameters()
        if x.grad is not None
    }
    return trainer, found + [trainer.run_step(batches(step)) for step in range(1, 5)], gradients


@pytest.mark.parametrize("case", CASES)
def test_parts_train_what_the_whole_batch_trains(case: str, tmp_path: Path) -> None:
    whole, meant, expected = train(tmp_path, *CASES[case])
    parts, found, gradients = train(tmp_path, *CASES[case], "optim.accumulate=2")
    assert gradients.keys() == expected.keys()
    if case != "balance":  # its first part is weighed by that part alone
        away = torch.stack([(gradients[name] - x).norm() for name, x in expected.items()]).norm()
        ratios = 0.1 if case == "heads" else 1e-4  # F0 is a mean over voiced frames: other parts, other numbers
        assert float(away) <= ratios * float(torch.stack([x.norm() for x in expected.values()]).norm())
    for one, other in zip(found, meant, strict=True):
        assert one.values.keys() == other.values.keys()
        for name in ("mel",) if case == "heads" else other.values:
            x = other.values[name]
            assert float(one.values[name]) == pytest.approx(float(x), rel=0.05, abs=0.02), name
    assert parts.learner.n_started == whole.learner.n_started > 0
    hits, wanted = (trainer.learner.averages[0].cluster_size.sum() for trainer in (parts, whole))
    assert float(hits) == pytest.approx(float(wanted))


def test_balanced_parts_come_to_the_norms_of_the_whole_batch(tmp_path: Path) -> None:
    words = (*EVEN, "loss.balance=true", "optim.rate=1e-6")
    norms = []
    for count in (1, 4):
        trainer, _, _ = train(tmp_path, *words, f"optim.accumulate={count}")
        assert trainer.balancer is not None
        norms.append(float(trainer.balancer.sums["mel"] / trainer.balancer.counts["mel"]))
    assert norms[1] == pytest.approx(norms[0], rel=0.05)


def test_a_part_that_is_not_finite_leaves_the_whole_step_out(tmp_path: Path) -> None:
    trainer, _, _ = train(tmp_path, *CASES["adversary"], "optim.accumulate=4")
    before = {name: x.clone() for name, x in trainer.network.state_dict().items()}
    audio = 0.1 * torch.randn(4, 1, 3200)
    audio[2] = float("nan")
    assert not bool(trainer.run_step(Batch(audio, torch.full((4,), 4))).finite)
    assert all(torch.equal(x, before[name]) for name, x in trainer.network.state_dict().items())
    assert trainer.skipped == 1


def test_memory_is_that_of_a_part() -> None:
    one, whole, parts = (dry_run(recipe_of(*words)) for words in (
        ("data.batch=2",), ("data.batch=8",), ("data.batch=8", "optim.accumulate=4"),
    ))  # fmt: skip
    assert parts.memory == one.memory < whole.memory
    assert "a step of 8 x 0.2 s, in 4 parts, keeps" in describe(parts, recipe_of("data.batch=8", "optim.accumulate=4"))


def test_parts_that_are_not_equal_are_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"optim\.accumulate: a batch of 4 has no 3 equal parts; see data\.batch"):
        recipe_of("data.batch=4", "optim.accumulate=3")
    with pytest.raises(ConfigError, match=r"optim\.accumulate: must be from 1"):
        recipe_of("optim.accumulate=0")
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"4 rows .* by 2 processes in 4 parts each \(optim\.accumulate\)"):
        run(recipe_of("data.batch=4", "optim.accumulate=4", f"run={tmp_path / 'run'}"), print)
    assert not (tmp_path / "run").exists()
