"""What a network computes: products of a second of audio, counted by its shapes; nothing is computed.

>>> from codec.config import ModelConfig, Part
>>> small = {"dim": 64, "hidden_dim": 128}
>>> bottleneck = Part("grouped", {"n_groups": 2, "n_levels": 2, "codebook_size": 64})
>>> config = ModelConfig(Part("spectral", small), bottleneck, Part("spectral", small), latent_dim=32)
>>> print(f"{model_gmacs(config):.3f}")
0.026
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from codec.config import ModelConfig
from codec.network import Network


def model_gmacs(config: ModelConfig) -> float:
    """Return the products of an encoding and a decoding of one second, 1e9; Fourier transforms are not counted.

    Raises:
        ConfigError: a network that cannot be.
    """
    with FakeTensorMode():
        return count_gmacs(Network(config))


def count_gmacs(network: Network) -> float:
    """As `model_gmacs`, of a network made under FakeTensorMode: encoder and decoder of about a second.

    The search of a bottleneck compares each vector with each entry.
    """
    rate, hop_length = network.config.frame_rate, network.config.hop_length
    frames = max(1, round(rate))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        pass_through(network, torch.empty(1, network.config.channels, frames * hop_length))
    books = network.bottleneck.codebooks
    divisors = network.bottleneck.divisors or (1,) * len(books)
    search = sum(book.codebook_size * book.dim / divisor for book, divisor in zip(books, divisors, strict=True))
    matrices = 0
    if not network.bottleneck.own_bypass:  # else they were passed, and counted
        matrices = sum(x.numel() for x in network.bottleneck.parameters()) - sum(
            book.embed.numel() for book in books if book.embed.requires_grad
        )
    products = float(counter.get_total_flops()) / 2 / frames
    return (products + search + matrices) * rate / 1e9


def pass_through(network: Network, audio: Tensor) -> None:
    """Encode and decode (1, C, F * hop) without codes, through the stages that a bottleneck owns."""
    latent = network.encoder(audio)
    network.decoder(network.bottleneck(latent, n_stages=0).latent if network.bottleneck.own_bypass else latent)
