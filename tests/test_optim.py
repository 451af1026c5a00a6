"""Learning rate, optimiser, averaged weights."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from codec.train.config import OptimConfig
from codec.train.optim import Average, make_adamw, rate_at, set_rate, step_if_finite

BETAS = (0.9, 0.98)


def adamw(module: nn.Module, rate: float = 0.1) -> torch.optim.AdamW:
    return make_adamw(module, rate=rate, betas=BETAS, weight_decay=0.5)


def test_the_rate_warms_up_stays_and_falls_to_its_end() -> None:
    config = OptimConfig(steps=1000, rate=2.0, warmup=100, decay_share=0.4, final_rate=0.1)
    rates = [rate_at(step, config) for step in range(1000)]
    assert rates[0] == pytest.approx(0.02)
    assert rates[99:600] == [2.0] * 501
    assert all(a > b for a, b in itertools.pairwise(rates[600:]))
    assert rate_at(1000, config) == pytest.approx(0.2)
    assert rate_at(5000, config) == pytest.approx(0.2)


def test_a_second_warm_up_begins_where_the_optimisers_began_and_the_schedule_goes_on() -> None:
    config = OptimConfig(steps=1000, rate=1.0, warmup=100, decay_share=0.4, final_rate=0.0)
    assert rate_at(700, config, begin=700) == pytest.approx(rate_at(700, config) / 100)
    assert rate_at(749, config, begin=700) == pytest.approx(rate_at(749, config) / 2)
    assert rate_at(800, config, begin=700) == rate_at(800, config)


def test_no_warm_up_is_a_choice() -> None:
    assert rate_at(0, OptimConfig(rate=1.0, warmup=0)) == 1.0


def test_vectors_are_not_decayed() -> None:
    module = nn.Linear(2, 2)
    optimizer = adamw(module)
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decays == {id(module.weight): 0.5, id(module.bias): 0.0}


def test_what_is_frozen_is_left_out() -> None:
    module = nn.Linear(2, 2)
    module.weight.requires_grad_(False)
    assert sum(len(g["params"]) for g in adamw(module).param_groups) == 1


def test_one_rate_for_all_groups() -> None:
    optimizer = adamw(nn.Linear(2, 2))
    set_rate(optimizer, 0.25)
    assert [g["lr"] for g in optimizer.param_groups] == [0.25, 0.25]


def test_a_step_with_a_gradient_that_is_not_finite_changes_nothing_at_all() -> None:
    module = nn.Linear(2, 2)
    optimizer = adamw(module)
    module(torch.ones(1, 2)).sum().backward()
    norm = torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    assert bool(step_if_finite(optimizer, norm))
    before = [x.clone() for x in module.parameters()]
    moments = [x.clone() for state in optimizer.state.values() for x in state.values()]
    (module(torch.ones(1, 2)).sum() * float("nan")).backward()
    norm = torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    assert not bool(step_if_finite(optimizer, norm))
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    after = [x for state in optimizer.state.values() for x in state.values()]
    assert all(torch.equal(a, b) for a, b in zip(moments, after, strict=True))


def test_a_guarded_step_is_a_plain_step_where_the_gradient_is_finite() -> None:
    torch.manual_seed(0)
    a, b = nn.Linear(3, 3), nn.Linear(3, 3)
    b.load_state_dict(a.state_dict())
    for module in (a, b):
        optimizer = adamw(module)
        module(torch.ones(1, 3)).square().sum().backward()
        norm = torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        if module is a:
            step_if_finite(optimizer, norm)
        else:
            optimizer.step()
    assert torch.equal(a.weight, b.weight)


def test_the_average_forgets_its_first_weights_and_keeps_to_its_decay() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 0.0)
    average = Average(module, 0.5)
    nn.init.constant_(module.weight, 1.0)
    average.update(module)  # decay (1 + 1) / (10 + 1)
    assert float(average.weights["weight"]) == pytest.approx(1 - 2 / 11)
    for _ in range(20):
        average.update(module)
    before = float(average.weights["weight"])
    nn.init.constant_(module.weight, 3.0)
    average.update(module)
    assert float(average.weights["weight"]) == pytest.approx(0.5 * before + 0.5 * 3)


def test_the_average_comes_back() -> None:
    module = nn.Linear(2, 2)
    average, other = Average(module, 0.9), Average(nn.Linear(2, 2), 0.9)
    average.update(module)
    other.load_state_dict(average.state_dict())
    assert other.steps == 1
    assert torch.equal(other.weights["weight"], average.weights["weight"])
