"""What a recipe costs, known in seconds: its network is built without numbers, shapes go through it, sums are counted.

>>> from codec.train.config import read_recipe
>>> cost = dry_run(read_recipe("tiny"))
>>> cost.frame_rate, cost.bitrate, cost.parameters["quantizer"]
(50.0, 1200.0, 4096)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from codec.cost import count_gmacs, pass_through
from codec.network import Network
from codec.train.config import Recipe
from codec.train.discriminators import Discriminators
from codec.train.losses import mel_bank
from codec.train.spectrum import stft

# Bytes per learned number in a float32 run: itself, its gradient, two moments of AdamW; and the generator's average.
LEARNED, AVERAGED = 16, 4


@dataclass(frozen=True)
class Cost:
    """What a recipe costs.

    Attributes:
        parameters: of encoder, quantizer, decoder, and total of these: numbers in the weights file.
        discriminators: numbers that learn beside them and are not shipped; 0 without an adversary.
        frame_rate: frames per second.
        bitrate: bits per second with all codebooks.
        gmacs: products of an encoding and a decoding of one second, 1e9; Fourier transforms are not counted.
        memory: of a training step at the recipe's batch and crop, in float32, bytes; what layers keep for the gradient
            of one of its `optim.accumulate` parts, weights, gradients and moments, not the workspace of a device.
    """

    parameters: dict[str, int]
    discriminators: int
    frame_rate: float
    bitrate: float
    gmacs: float
    memory: int


def dry_run(recipe: Recipe) -> Cost:
    """Build and cost a recipe; nothing is computed or written.

    Raises:
        ConfigError: a network that cannot be.
    """
    frames = max(1, round(recipe.data.crop * recipe.model.frame_rate))
    length = frames * recipe.model.hop_length
    with FakeTensorMode():
        network = Network(recipe.model)
        info = network.info(recipe.name, recipe.licence)
        learned = sum(p.numel() for p in network.parameters())
        gmacs = count_gmacs(network)
        with _counting(network) as sizes:
            pass_through(network, torch.empty(1, 1, length))
        kept = sum(sizes.values())
    opposed = 0
    if recipe.adversary.start_step >= 0:
        for window in recipe.adversary.windows:  # made once for the whole process: these must have numbers
            stft(torch.zeros(1, window), window)
            if "mel" in recipe.adversary.kinds:
                mel_bank(window, recipe.model.sample_rate, torch.device("cpu"))
        with FakeTensorMode(allow_non_fake_inputs=True):
            adversary = Discriminators(recipe.adversary, recipe.model.sample_rate)
            opposed = sum(p.numel() for p in adversary.parameters())
            with _counting(adversary) as sizes:
                adversary(torch.empty(2, length))  # a recording and what was made of it
            kept += sum(sizes.values())
    rows = recipe.data.batch // recipe.optim.accumulate
    names = {"encoder": "encoder", "bottleneck": "quantizer", "decoder": "decoder"}
    parameters = {ours: info.parameters[name] for name, ours in names.items()}
    return Cost(
        parameters=parameters | {"total": sum(parameters.values())},
        discriminators=opposed,
        frame_rate=info.frame_rate,
        bitrate=info.bitrate,
        gmacs=gmacs,
        memory=kept * rows + learned * (LEARNED + AVERAGED) + opposed * LEARNED,
    )


def describe(cost: Cost, recipe: Recipe) -> str:
    """A few lines for people."""
    millions = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in cost.parameters.items())
    parts = f", in {recipe.optim.accumulate} parts," if recipe.optim.accumulate > 1 else ""
    return (
        f"{recipe.name}: {millions}; discriminators {cost.discriminators / 1e6:.2f} M\n"
        f"{cost.frame_rate:g} frames/s, {cost.bitrate / 1000:g} kbit/s, {cost.gmacs:.2f} GMAC for a second\n"
        f"a step of {recipe.data.batch} x {recipe.data.crop:g} s{parts} keeps {cost.memory / 2**30:.1f} GiB in float32"
    )


def as_dict(cost: Cost) -> dict[str, Any]:
    """Numbers only, for --json."""
    return asdict(cost)


@contextmanager
def _counting(module: nn.Module) -> Iterator[dict[int, int]]:
    """Sizes in bytes of the memories that are kept for the gradient, each once, without the module's weights."""
    learned = {parameter.untyped_storage()._cdata for parameter in module.parameters()}
    sizes: dict[int, int] = {}
    held: list[Tensor] = []  # while it lives no other memory gets its number

    def keep(x: Tensor) -> Tensor:
        number = x.untyped_storage()._cdata
        if number not in learned:
            sizes[number] = x.untyped_storage().nbytes()
            held.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        yield sizes
