"""codec.quantize.learn: how codebooks start, follow, revive and go on after a resume. Several ranks: test_ranks.py."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from codec.config import Part
from codec.errors import ConfigError
from codec.quantize.base import Bottleneck, Quantized
from codec.quantize.build import build_bottleneck
from codec.quantize.kmeans import kmeans
from codec.quantize.learn import LearnConfig, Learner, zero_moments
from codec.quantize.vq import VectorQuantizer

KINDS: dict[str, dict[str, Any]] = {
    "vq": {},
    "residual": {"n_codebooks": 3},
    "grouped": {"n_groups": 2, "n_levels": 3},
    "masked": {"n_masked": 3, "n_codebooks": 5},
}
kinds = pytest.mark.parametrize("kind", KINDS)
both_ways = pytest.mark.parametrize("learn", ["ema", "gradient"])
in_turn = pytest.mark.parametrize(("kind", "learn"), list(zip(KINDS, ["ema", "gradient"] * 2, strict=True)))
QUICK = LearnConfig(start_step=0, pool=200, revive_every=1_000_000)
BATCH, FRAMES, DIM = 4, 25, 12


def make(kind: str, learn: str = "ema", size: int = 8) -> Bottleneck:
    return build_bottleneck(Part(kind, {"codebook_size": size, "learn": learn, **KINDS[kind]}), DIM)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def latent_at(step: int) -> Tensor:
    return torch.randn(BATCH, DIM, FRAMES, generator=seeded(1000 + step))


def step_on(learner: Learner, step: int, latent: Tensor | None = None) -> Quantized:
    latent = latent_at(step) if latent is None else latent
    quantized: Quantized = learner.bottleneck(latent, n_stages=learner.n_started)
    learner.update(quantized, step, seeded(step))
    return quantized


def started(kind: str, learn: str = "ema", config: LearnConfig = QUICK, size: int = 8) -> tuple[Learner, int]:
    """A learner with all stages started, and the next step's number."""
    learner = Learner(make(kind, learn, size), config)
    step = 0
    while learner.n_started < learner.bottleneck.n_stages:
        step_on(learner, step)
        step += 1
    return learner, step


# --- start


@in_turn
def test_stages_start_one_after_another_from_the_true_residual(kind: str, learn: str) -> None:
    """Each from vectors of many batches, coded by the stages before it."""
    config = LearnConfig(start_step=3, pool=250, iterations=5)
    learner = Learner(make(kind, learn), config)
    bottleneck = learner.bottleneck
    for step in range(3):
        step_on(learner, step)
        assert not any(learner.pools)
    step = 3
    for stage in range(bottleneck.n_stages):
        own = [i for i, s in enumerate(bottleneck.stages) if s == stage]
        seen: dict[int, list[Tensor]] = {i: [] for i in own}
        assert learner.n_started == stage
        for _ in range(3):  # 3 batches of 100 vectors reach 250
            quantized = step_on(learner, step)
            for i in own:
                x = quantized.inputs[i]
                assert x is not None
                seen[i].append(x)
            step += 1
        assert learner.n_started == stage + 1
        assert not any(learner.pools)
        generator = seeded(step - 1)
        for i in own:
            entries, counts = kmeans(torch.cat(seen[i]), 8, iterations=5, generator=generator)
            assert torch.equal(bottleneck.codebooks[i].embed.detach(), entries)
            torch.testing.assert_close(learner.averages[i].cluster_size, counts / 3)  # as hits of one step
        for i, s in enumerate(bottleneck.stages):
            assert bool(bottleneck.codebooks[i].embed.any()) == (s <= stage)


@kinds
def test_the_input_of_a_stage_is_what_the_ones_before_it_leave_over(kind: str) -> None:
    learner, _ = started(kind)
    latent = latent_at(99)
    for n_stages in range(1, learner.bottleneck.n_stages):
        part: Quantized = learner.bottleneck(latent, n_stages=n_stages)
        left = (latent - part.latent).transpose(1, 2).reshape(-1, DIM)
        pairs = zip(part.inputs, learner.bottleneck.stages, strict=True)
        own = [x for x, stage in pairs if stage == n_stages and x is not None]
        torch.testing.assert_close(torch.cat(own, 1), left, rtol=1e-5, atol=1e-5)


# --- moving averages


@kinds
def test_averages_agree_with_a_numpy_loop(kind: str) -> None:
    """VQ-VAE, appendix A.1, with the Laplace smoothing."""
    learner, step = started(kind)
    decay, eps = 0.99, 1e-5
    size = [a.cluster_size.double().numpy() for a in learner.averages]
    total = [a.embed_avg.double().numpy() for a in learner.averages]
    for _ in range(6):
        quantized = step_on(learner, step)
        step += 1
        for i, x in enumerate(quantized.inputs):
            assert x is not None
            n, s = np.zeros(8), np.zeros((8, x.shape[1]))
            for vector, code in zip(x.double().numpy(), quantized.codes[:, i].flatten().tolist(), strict=True):
                n[code] += 1
                s[code] += vector
            size[i] = decay * size[i] + (1 - decay) * n
            total[i] = decay * total[i] + (1 - decay) * s
            smoothed = (size[i] + eps) / (size[i].sum() + 8 * eps) * size[i].sum()
            np.testing.assert_allclose(learner.averages[i].cluster_size.numpy(), size[i], rtol=1e-5)
            np.testing.assert_allclose(learner.averages[i].embed_avg.numpy(), total[i], rtol=1e-4, atol=1e-5)
            entries = learner.bottleneck.codebooks[i].embed.numpy()
            np.testing.assert_allclose(entries, total[i] / smoothed[:, None], rtol=1e-4, atol=1e-5)


def test_averages_stay_float32_inside_autocast() -> None:
    plain, step = started("grouped")
    inside, _ = started("grouped")
    step_on(plain, step)
    with torch.autocast("cpu", torch.bfloat16):
        step_on(inside, step)
    for a, b in zip(plain.averages, inside.averages, strict=True):
        assert b.embed_avg.dtype == b.cluster_size.dtype == torch.float32
        assert torch.equal(a.embed_avg, b.embed_avg)


def test_a_gradient_trained_codebook_moves_by_its_optimiser_alone() -> None:
    learner, step = started("residual", "gradient")
    before = [book.embed.detach().clone() for book in learner.bottleneck.codebooks]
    step_on(learner, step)
    assert all(torch.equal(a, b.embed) for a, b in zip(before, learner.bottleneck.codebooks, strict=True))


# --- revival


def kill(learner: Learner, rows: list[int]) -> None:
    """Entries that nothing has hit for long, far from everything."""
    for book, averages in zip(learner.bottleneck.codebooks, learner.averages, strict=True):
        with torch.no_grad():
            book.embed[rows] = 1000.0
        averages.cluster_size[rows] = 1e-6
        averages.embed_avg[rows] = 1e-3


@in_turn
def test_dead_entries_revive_and_stay_alive(kind: str, learn: str) -> None:
    """Entry, average and count are reset together: resetting the entry alone is undone by the next average."""
    config = LearnConfig(start_step=0, pool=200, revive_every=7)
    learner, step = started(kind, learn, config)
    while step % 7 != 6:
        step_on(learner, step)
        step += 1
    kill(learner, [2, 5])
    step_on(learner, step)
    assert [row["dead"] for row in learner.usage()] == [2.0] * learner.bottleneck.n_codebooks
    quantized = step_on(learner, step + 1)  # a multiple of 7
    revived = [book.embed[[2, 5]].detach().clone() for book in learner.bottleneck.codebooks]
    for i, (fresh, averages) in enumerate(zip(revived, learner.averages, strict=True)):
        x = quantized.inputs[i]
        assert x is not None
        assert all((row == x).all(1).any() for row in fresh)  # vectors of this step
        assert not torch.equal(fresh[0], fresh[1])
        count = averages.cluster_size[[2, 5]]
        assert (count > 0.5 * averages.cluster_size.mean()).all()
        torch.testing.assert_close(averages.embed_avg[[2, 5]], fresh * count[:, None])
    for after in range(step + 2, step + 20):
        quantized = step_on(learner, after)
        for i, fresh in enumerate(revived):
            now = learner.bottleneck.codebooks[i].embed[[2, 5]]
            assert ((now - fresh).norm(dim=1) < 0.2 * (after - step) * fresh.norm(dim=1)).all()
    assert [row["dead"] for row in learner.usage()] == [0.0] * learner.bottleneck.n_codebooks
    assert all({2, 5} <= set(quantized.codes[:, i].flatten().tolist()) for i in range(len(revived)))


def test_living_entries_are_left_alone_by_a_revival() -> None:
    config = LearnConfig(start_step=0, pool=200, revive_every=1)
    learner, step = started("vq", "gradient", config)
    kill(learner, [2])
    before = learner.bottleneck.codebooks[0].embed.detach().clone()
    step_on(learner, step)
    changed = (learner.bottleneck.codebooks[0].embed != before).any(1)
    assert changed.nonzero().flatten().tolist() == [2]


def test_more_dead_entries_than_vectors_share_them() -> None:
    learner, step = started("vq", config=LearnConfig(start_step=0, pool=200, revive_every=1), size=64)
    kill(learner, list(range(63)))
    step_on(learner, step, latent_at(0)[:1, :, :5])
    entries = {tuple(row) for row in learner.bottleneck.codebooks[0].embed.tolist()}
    assert len(entries) == 5 + 1


def test_update_says_which_rows_of_gradient_trained_codebooks_were_revived() -> None:
    for learn in ("ema", "gradient"):
        learner, step = started("grouped", learn, LearnConfig(start_step=0, pool=200, revive_every=10))
        step += -step % 10
        kill(learner, [1, 6])
        quantized = learner.bottleneck(latent_at(step), n_stages=learner.n_started)
        assert learner.update(quantized, step + 1, seeded(0)) == []
        revived = learner.update(quantized, step, seeded(0))
        if learn == "ema":
            assert revived == []
            continue
        assert [id(x.embed) for x in revived] == [id(book.embed) for book in learner.bottleneck.codebooks]
        for x in revived:
            assert x.rows.nonzero().flatten().tolist() == [1, 6]


@pytest.mark.parametrize("fused", [False, True])
def test_the_optimiser_forgets_revived_rows_only(fused: bool) -> None:
    learner, step = started("vq", "gradient", LearnConfig(start_step=0, pool=200, revive_every=1))
    embed = learner.bottleneck.codebooks[0].embed
    other = torch.nn.Parameter(torch.ones_like(embed))
    optimizer = torch.optim.AdamW([embed, other], lr=0.1, weight_decay=0.0, fused=fused)
    target = torch.randn(embed.shape, generator=seeded(3))
    for _ in range(3):
        optimizer.zero_grad()
        ((embed - target).square().sum() + other.square().sum()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    kill(learner, [4])
    quantized = learner.bottleneck(latent_at(0))
    zero_moments(optimizer, learner.update(quantized, step, seeded(0)))
    living = torch.arange(8) != 4
    for name in ("exp_avg", "exp_avg_sq"):
        moment = optimizer.state[embed][name]
        assert not moment[4].any()
        assert moment[living].all()
        assert optimizer.state[other][name].all()
    assert float(optimizer.state[embed]["step"]) == 3
    fresh = embed[4].detach().clone()
    optimizer.zero_grad()
    embed[:4].sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert torch.equal(embed[4], fresh)  # nothing drags it away


# --- use


def test_use_agrees_with_hand_values() -> None:
    learner = Learner(make("residual", size=4), LearnConfig(revive_below=0.05))
    hits = [[8.0, 4, 4, 0], [1, 1, 1, 1], [99, 1, 0, 0]]
    for averages, row in zip(learner.averages, hits, strict=True):
        averages.cluster_size = torch.tensor(row)
    # entropies: 1.5 bit; 2 bits; -(.99 ln .99 + .01 ln .01) = 0.0560 nat. Dead: below 0.05 / 4 = 0.0125 of the hits.
    expected = [(0.75, 2**1.5, 1.0), (1.0, 4.0, 0.0), (0.25, math.exp(0.0560), 3.0)]
    for row, (usage, perplexity, dead) in zip(learner.usage(), expected, strict=True):
        assert row["usage"] == usage
        assert row["perplexity"] == pytest.approx(perplexity, rel=1e-4)
        assert row["dead"] == dead


def test_a_codebook_that_is_not_started_is_not_in_use() -> None:
    assert Learner(make("vq"), QUICK).usage() == [{"usage": 0.0, "perplexity": 1.0, "dead": 8.0}]


# --- resume and warm start


def tensors_of(learner: Learner) -> Iterator[Tensor]:
    for book, averages in zip(learner.bottleneck.codebooks, learner.averages, strict=True):
        yield book.embed.detach()
        yield from averages.tensors().values()


@in_turn
def test_a_resume_goes_on_identically(kind: str, learn: str) -> None:
    """From while the first pool fills, a later one, and after a revival."""
    config = LearnConfig(start_step=0, pool=250, revive_every=4)
    learner, saved = Learner(make(kind, learn), config), {}
    for step in range(18):
        if step in (1, 4, 13):
            weights = {key: x.clone() for key, x in learner.bottleneck.state_dict().items()}
            saved[step] = (learner.state_dict(), weights)
        step_on(learner, step)
    assert learner.n_started == learner.bottleneck.n_stages
    for stop, (state, weights) in saved.items():
        resumed = Learner(make(kind, learn), config)
        resumed.bottleneck.load_state_dict(weights)
        resumed.load_state_dict(state)  # taken before, and not changed by what came after
        for step in range(stop, 18):
            step_on(resumed, step)
        assert resumed.n_started == learner.n_started
        assert all(torch.equal(a, b) for a, b in zip(tensors_of(learner), tensors_of(resumed), strict=True))


def test_the_layout_of_a_checkpoint_stays() -> None:
    """Runs that were begun must resume."""
    learner = Learner(make("grouped"), LearnConfig(start_step=0, pool=250))
    step_on(learner, 0)
    state = learner.state_dict()
    assert list(state) == ["n_started", "averages", "pools"]
    assert [list(x) for x in state["averages"]] == [["cluster_size", "embed_avg"]] * 6
    assert [x["embed_avg"].shape for x in state["averages"]] == [(8, 6)] * 6
    assert [[x.shape for x in pool] for pool in state["pools"]] == [[(100, 6)]] * 2 + [[]] * 4


@in_turn
def test_a_warm_start_uses_entries_that_exist(kind: str, learn: str) -> None:
    taught, step = started(kind, learn)
    learner = Learner(make(kind, learn), QUICK)
    step_on(learner, 0)  # something is in a pool
    learner.bottleneck.load_state_dict(taught.bottleneck.state_dict())
    learner.restart(hits=BATCH * FRAMES / 8)
    assert learner.n_started == learner.bottleneck.n_stages
    assert not any(learner.pools)
    assert [row["dead"] for row in learner.usage()] == [0.0] * learner.bottleneck.n_codebooks
    before = [book.embed.detach().clone() for book in learner.bottleneck.codebooks]
    step_on(learner, step)
    for old, book in zip(before, learner.bottleneck.codebooks, strict=True):
        assert float((book.embed.detach() - old).norm() / old.norm()) < 0.05  # one step's share, not a new start


# --- learning as a whole


def clusters(n: int, centres: Tensor, seed: int = 0) -> Tensor:
    """(n, D) points close around `centres` (K, D)."""
    generator = seeded(seed)
    which = torch.randint(len(centres), (n,), generator=generator)
    return centres[which] + 0.01 * torch.randn(n, centres.shape[1], generator=generator)


@pytest.mark.parametrize(
    "kind", ["vq", *(pytest.param(x, marks=pytest.mark.slow) for x in ("residual", "grouped", "masked"))]
)
@both_ways
def test_codebooks_learn_clusters(kind: str, learn: str) -> None:
    """The loss falls; a codebook trained by gradient needs no average to do so."""
    centres = 3 * torch.randn(8, DIM, generator=seeded(7))
    config = LearnConfig(start_step=0, pool=50, iterations=1, decay=0.9, revive_every=5)
    learner = Learner(make(kind, learn, size=16), config)
    parameters = list(learner.bottleneck.parameters())
    assert len(parameters) == (learner.bottleneck.n_codebooks if learn == "gradient" else 0)
    optimizer = torch.optim.AdamW(parameters, lr=0.03, weight_decay=0.0) if parameters else None
    losses = []
    for step in range(100):
        x = clusters(64, centres, seed=step)
        quantized = learner.bottleneck(x.t()[None], n_stages=learner.n_started)
        if optimizer is not None and quantized.loss.requires_grad:
            optimizer.zero_grad()
            quantized.loss.backward()
            optimizer.step()
        revived = learner.update(quantized, step, seeded(step))
        if optimizer is not None:
            zero_moments(optimizer, revived)
        if learner.n_started == learner.bottleneck.n_stages:
            losses.append(float((quantized.latent.detach() - x.t()[None]).square().mean()))
    assert losses[-1] < 1e-3  # the points scatter by 1e-4 around centres 9 apart
    assert losses[-1] < 0.5 * losses[0] or losses[0] < 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": 1.0}, "learn.decay"),
        ({"revive_below": 1.0}, "learn.revive_below"),
        ({"revive_below": -0.1}, "learn.revive_below"),
        ({"pool": 0}, "learn.pool"),
        ({"iterations": 0}, "learn.iterations"),
        ({"revive_every": 0}, "learn.revive_every"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LearnConfig(**options)


def test_averages_are_made_on_the_device_of_their_codebook() -> None:
    bottleneck = make("vq").to("meta")
    assert isinstance(bottleneck, VectorQuantizer)
    averages = Learner(bottleneck, QUICK).averages[0]
    assert averages.cluster_size.device == averages.embed_avg.device == bottleneck.embed.device
