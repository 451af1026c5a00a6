"""A teacher: a trained model whose encoder and decoder a new one begins with, and whose latents it may follow.

DistilCodec learns so: a teacher of many codebooks, then a student of one with the teacher's encoder and decoder.

>>> from codec.train.config import read_recipe
>>> open_teacher(read_recipe("tiny"), torch.device("cpu")) is None
True
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody uses
from torch import Tensor

from codec.engine.torch_engine import load_network
from codec.errors import ConfigError, TrainError
from codec.hub import find_model
from codec.modelfolder import read_model
from codec.network import Network
from codec.train.config import Recipe


class Teacher:
    """A model that does not learn.

    Attributes:
        name: as the recipe names it.
        network: with its weights.
    """

    def __init__(self, name: str, network: Network) -> None:
        self.name = name
        self.network = network.requires_grad_(False).eval()

    @torch.no_grad()
    def latent(self, audio: Tensor) -> Tensor:
        """Its quantized latent (B, D, F) of audio (B, 1, F * hop)."""
        quantized: Tensor = self.network.bottleneck(self.network.encoder(audio)).latent
        return quantized

    def distance(self, audio: Tensor, latent: Tensor) -> Tensor:
        """Mean squared distance of a student's quantized latent (B, D, F) to the teacher's; scalar.

        Source: DistilCodec's code, the first of its two distances (released with the weight 0).
        """
        return F.mse_loss(latent.float(), self.latent(audio).float())

    def give(self, student: Network, parts: tuple[str, ...]) -> None:
        """Its weights to these parts of a student.

        Raises:
            TrainError: a part of other sizes.
        """
        for part in parts:
            mine, own = getattr(self.network, part).state_dict(), getattr(student, part).state_dict()
            wrong = sorted(set(mine) ^ set(own)) or [key for key, x in own.items() if x.shape != mine[key].shape]
            if wrong:
                raise TrainError(
                    f"distill.teacher {self.name}: its {part} has another {wrong[0]} than the recipe's; "
                    f"give the teacher's {part} to the recipe, or leave it out of distill.parts"
                )
            getattr(student, part).load_state_dict(mine)


def open_teacher(recipe: Recipe, device: torch.device) -> Teacher | None:
    """The teacher of a recipe; None where it names none.

    Raises:
        ConfigError: a weight of the distance without a teacher, or a teacher of another rate, hop or latent.
        ModelError: a model that is missing or damaged.
    """
    name = recipe.distill.teacher
    if not name:
        if recipe.loss.distill:
            raise ConfigError(f"loss.distill: {recipe.loss.distill:g}, but there is no teacher; give distill.teacher")
        return None
    network = load_network(read_model(find_model(name)))
    for size in ("sample_rate", "hop_length", "latent_dim"):
        said, needed = getattr(network.config, size), getattr(recipe.model, size)
        if said != needed:
            raise ConfigError(
                f"distill.teacher {name}: its {size} is {said}, the recipe's {needed}; they must be equal"
            )
    return Teacher(name, network.to(device))
