"""How discriminators are trained, and the balancer of gradients."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from codec.train import adversarial, checkpoint
from codec.train.adversary import Adversary
from codec.train.balancer import Balancer
from codec.train.config import AdversaryConfig

SMALL = AdversaryConfig(kinds=("stft", "period"), windows=(256, 128), periods=(2, 3), channels=4, warmup=10)


def tones(seed: int = 0, length: int = 2048) -> Tensor:
    time = torch.arange(length) / 16000
    pitch = 100 + 400 * torch.rand(4, 1, generator=torch.Generator().manual_seed(seed))
    return 0.5 * torch.sin(2 * math.pi * pitch * time)


def noise(seed: int = 0, length: int = 2048) -> Tensor:
    return 0.35 * torch.randn(4, length, generator=torch.Generator().manual_seed(seed))


def adversary(config: AdversaryConfig = SMALL, begin: int = 0, seed: int = 0) -> Adversary:
    return Adversary(config, 16000, seed=seed, device=torch.device("cpu"), begin=begin)


@pytest.mark.parametrize("scale", [0.0, 1e-42, 1.0, 100.0])
def test_gradients_are_finite_at_silence_and_overload(scale: float) -> None:
    made = (noise() * scale).requires_grad_()
    values = adversary().terms(tones() * scale, made)
    torch.stack(list(values.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert made.grad is not None
    assert bool(torch.isfinite(made.grad).all())


def test_it_learns_to_tell_tones_from_noise() -> None:
    judge = adversary()
    values = [float(judge.learn(tones(i), noise(i), rate=1e-2)) for i in range(12)]
    assert values[0] == pytest.approx(2.0, abs=0.2)
    assert values[-1] < 0.7
    real, _ = judge.discriminators(tones(100))
    fake, _ = judge.discriminators(noise(100))
    assert all(float(a.detach().mean()) > float(b.detach().mean()) for a, b in zip(real, fake, strict=True))


def test_least_squares_begin_where_scores_of_nothing_do() -> None:
    judge = adversary(AdversaryConfig(kinds=("stft",), windows=(128,), channels=1, loss="least_squares", total="sum"))
    assert float(judge.learn(tones(), noise(), rate=1e-3)) == pytest.approx(1.0, abs=0.2)  # (1 - 0) ** 2 + 0 ** 2


def test_it_hears_the_same_random_place_of_recording_and_reconstruction() -> None:
    judge = adversary(dataclasses.replace(SMALL, crop=0.05))
    audio = torch.arange(4 * 2048.0).reshape(4, 2048)
    places = set()
    for step in range(20):
        real, made = judge.hear(audio, -audio, step)
        assert real.shape == (4, 800)
        assert torch.equal(real, -made)
        places.add(float(real[0, 0]))
    assert len(places) > 10
    assert max(places) < 2048 - 800 + 1


def test_no_gradient_goes_into_the_generator_when_the_discriminators_learn() -> None:
    made = noise().requires_grad_()
    adversary().learn(tones(), made * 1.0, rate=1e-3)
    assert made.grad is None


def test_no_gradient_goes_into_the_discriminators_or_the_recording_when_the_generator_learns() -> None:
    judge = adversary()
    before = [x.clone() for x in judge.discriminators.parameters()]
    target, made = tones().requires_grad_(), noise().requires_grad_()
    values = judge.terms(target, made)
    torch.stack(list(values.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert made.grad is not None
    assert float(made.grad.abs().max()) > 0
    assert target.grad is None
    assert all(x.grad is None for x in judge.discriminators.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, judge.discriminators.parameters(), strict=True))


def test_the_generators_terms_are_those_of_the_discriminators_themselves() -> None:
    judge = adversary()
    values = judge.terms(tones(), noise())
    scores, fake = judge.discriminators(noise())
    _, real = judge.discriminators(tones())
    families = judge.discriminators.families
    own = adversarial.generator_loss(scores, SMALL, families), adversarial.feature_matching(real, fake, SMALL, families)
    assert float(values["adversarial"]) == pytest.approx(float(own[0].detach()), rel=1e-5)
    assert float(values["feature_matching"]) == pytest.approx(float(own[1].detach()), rel=1e-5)


@pytest.mark.slow
def test_a_generator_that_follows_it_fools_it() -> None:
    judge = adversary()
    for i in range(8):
        judge.learn(tones(i), noise(i), rate=1e-2)
    made = noise().requires_grad_()
    optimizer = torch.optim.Adam([made], lr=0.05)
    scores = []
    for _ in range(12):
        value = judge.terms(tones(), made)["adversarial"]
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scores.append(float(value.detach()))
    assert scores[-1] < 0.9 * scores[0]


def test_a_batch_that_is_not_finite_teaches_nothing() -> None:
    judge = adversary()
    judge.learn(tones(), noise(), rate=1e-3)
    before = [x.clone() for x in judge.discriminators.parameters()]
    judge.learn(tones(), noise() * float("nan"), rate=1e-3)
    assert all(torch.equal(a, b) for a, b in zip(before, judge.discriminators.parameters(), strict=True))


@pytest.mark.parametrize("kinds", [("stft", "period"), ("scale",)])
def test_it_comes_back_and_goes_on_the_same(kinds: tuple[str, ...]) -> None:
    config = dataclasses.replace(SMALL, kinds=kinds, channels=2)
    judge = adversary(config, begin=3)
    judge.learn(tones(), noise(), rate=1e-3)
    other = adversary(config, begin=9, seed=5)
    other.load_state_dict(checkpoint.unflatten(*checkpoint.flatten(judge.state_dict())))
    assert other.begin == 3
    assert float(judge.learn(tones(1), noise(1), rate=1e-3)) == float(other.learn(tones(1), noise(1), rate=1e-3))
    pairs = zip(judge.discriminators.parameters(), other.discriminators.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_its_beginning_depends_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    a = adversary()
    torch.manual_seed(2)
    b, c = adversary(), adversary(seed=1)
    first = [next(iter(x.discriminators.parameters())) for x in (a, b, c)]
    assert torch.equal(first[0], first[1])
    last = [list(x.discriminators.parameters())[1] for x in (a, c)]
    assert not torch.equal(last[0], last[1])


def test_its_weight_grows_from_its_first_step() -> None:
    judge = adversary(begin=100)
    assert [judge.ramp(step) for step in (100, 104, 109, 500)] == pytest.approx([0.1, 0.5, 1.0, 1.0])


# --- the balancer


def test_each_loss_gets_its_share_of_the_norm_whatever_its_size() -> None:
    x = torch.zeros(1, 2, requires_grad=True)
    values = {"a": 1000 * x[0, 0], "b": 0.001 * x[0, 1]}
    gradient = Balancer().gradient(values, {"a": 3.0, "b": 1.0, "unused": 5.0}, x)
    assert gradient.tolist() == [[pytest.approx(0.75), pytest.approx(0.25)]]


def test_norms_are_averaged_over_the_batch_and_without_bias_over_time() -> None:
    balancer = Balancer(decay=0.5, total=2.0)
    x = torch.zeros(2, 2, requires_grad=True)
    first = balancer.gradient({"a": 3 * x[0, 0] + 4 * x[0, 1] + x[1, 0]}, {"a": 1.0}, x)
    # Norms 5 and 1: mean 3.
    assert first.tolist() == [[pytest.approx(2.0), pytest.approx(8 / 3)], [pytest.approx(2 / 3), 0.0]]
    second = balancer.gradient({"a": 9 * x[0, 0]}, {"a": 1.0}, x)
    # Norm 4.5 now, 3 before: (0.5 * 3 + 4.5) / (0.5 + 1) = 4.
    assert second[0, 0].item() == pytest.approx(2 * 9 / 4)


def test_a_gradient_that_is_not_finite_leaves_the_averages_alone() -> None:
    balancer = Balancer()
    x = torch.zeros(1, 1, requires_grad=True)
    balancer.gradient({"a": 2 * x.sum()}, {"a": 1.0}, x)
    bad = balancer.gradient({"a": float("nan") * x.sum()}, {"a": 1.0}, x)
    assert not bool(torch.isfinite(bad).all())  # the trainer skips the step
    assert balancer.gradient({"a": 2 * x.sum()}, {"a": 1.0}, x).item() == pytest.approx(1.0)


def test_the_balancer_comes_back() -> None:
    x = torch.zeros(1, 1, requires_grad=True)
    balancer, other = Balancer(), Balancer()
    balancer.gradient({"a": 2 * x.sum()}, {"a": 1.0}, x)
    other.load_state_dict(balancer.state_dict(), torch.device("cpu"))
    values = [b.gradient({"a": 5 * x.sum()}, {"a": 1.0}, x).item() for b in (balancer, other)]
    assert values[0] == values[1]
