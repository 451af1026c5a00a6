"""What discriminators and generator lose, worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from codec.train.adversarial import discriminator_loss, feature_matching, generator_loss
from codec.train.config import AdversaryConfig

HINGE = AdversaryConfig()
SQUARES = AdversaryConfig(loss="least_squares")


def test_hinge_by_hand() -> None:
    real, fake = [torch.tensor([0.5, 2.0])], [torch.tensor([-3.0, 0.0])]
    assert float(discriminator_loss(real, fake, HINGE, (1,))) == pytest.approx(0.25 + 0.5)
    assert float(generator_loss(fake, HINGE, (1,))) == pytest.approx((4 + 1) / 2)
    assert float(discriminator_loss([torch.zeros(3)] * 2, [torch.zeros(3)] * 2, HINGE, (2,))) == 2.0


def test_least_squares_by_hand() -> None:
    real, fake = [torch.tensor([0.0, 2.0])], [torch.tensor([3.0, 1.0])]
    assert float(discriminator_loss(real, fake, SQUARES, (1,))) == pytest.approx((1 + 1) / 2 + (9 + 1) / 2)
    assert float(generator_loss(fake, SQUARES, (1,))) == pytest.approx((4 + 0) / 2)
    halves = [torch.full((3,), 0.5)]
    assert float(discriminator_loss(halves, halves, SQUARES, (1,))) == 0.5


@pytest.mark.parametrize(("total", "value"), [("mean", 2.0), ("sum", 6.0), ("family", 4.0)])
def test_discriminators_are_added_up_as_the_recipe_says(total: str, value: float) -> None:
    scores = [torch.tensor([x]) for x in (0.0, -2.0, -1.0)]  # penalties 1 and 3 of one family, 2 of another
    assert float(generator_loss(scores, AdversaryConfig(total=total), (2, 1))) == pytest.approx(value)


def features() -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    real = [[torch.tensor([1.0, 3.0], requires_grad=True), torch.tensor([2.0], requires_grad=True)]]
    fake = [[torch.tensor([2.0, 1.0], requires_grad=True), torch.tensor([2.0], requires_grad=True)]]
    return real, fake


@pytest.mark.parametrize(("matching", "value"), [("relative", 0.375), ("mean", 0.75), ("sum", 1.5)])
def test_feature_matching_by_hand_and_detached_on_the_real_side(matching: str, value: float) -> None:
    real, fake = features()
    found = feature_matching(real, fake, AdversaryConfig(matching=matching), (1,))
    assert float(found.detach()) == pytest.approx(value)
    found.backward()  # type: ignore[no-untyped-call]
    assert real[0][0].grad is None
    assert fake[0][0].grad is not None
