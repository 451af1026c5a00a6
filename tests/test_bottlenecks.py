"""codec.quantize: the mathematics of each bottleneck, against numpy and by hand. Laws of all: test_quantize.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.errors import ConfigError
from codec.quantize.factorised import Factorised
from codec.quantize.vq import CodebookConfig, VectorQuantizer
from support.bottlenecks import entries_of, make, make_latent


@given(
    dim=st.integers(1, 64), size=st.integers(1, 200), scale=st.sampled_from([1e-3, 1.0, 1e3]), seed=st.integers(0, 99)
)
@settings(max_examples=40, deadline=None)
def test_the_search_agrees_with_brute_force_in_float64(dim: int, size: int, scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    book = VectorQuantizer(CodebookConfig(codebook_size=size), dim)
    book.embed.copy_(torch.randn(size, dim, generator=generator) * scale)
    x = torch.randn(64, dim, generator=generator) * scale
    found = book.search(x).numpy()
    distances = ((x.double()[:, None] - book.embed.double()) ** 2).sum(2).numpy()
    best, got = distances.min(1), distances[np.arange(64), found]
    # float32 sums of squares of this size round by about this much
    tolerance = 1e-5 * (x.double().square().sum(1).numpy() + float(book.embed.double().square().sum(1).max()))
    gap = np.partition(distances, 1, axis=1)[:, 1] - best if size > 1 else np.full(64, np.inf)
    clear = gap > tolerance
    assert (found[clear] == distances.argmin(1)[clear]).all()
    assert (got - best <= tolerance).all()


def test_the_lowest_index_wins_a_tie() -> None:
    book = VectorQuantizer(CodebookConfig(codebook_size=6), 2)
    book.embed.copy_(torch.tensor([[9.0, 9], [1, 1], [1, 1], [0, 0], [1, 1], [0, 0]]))
    assert book.search(torch.tensor([[1.0, 1], [0, 0]])).tolist() == [1, 3]


def nearest(x: Any, entries: Any) -> Any:
    return ((x[:, None, :] - entries[None]) ** 2).sum(-1).argmin(1)


def test_grvq_agrees_with_numpy() -> None:
    """From mechanisms.md 1.5: halves of the channels, residual steps, codes [l1g0, l1g1, l2g0, l2g1, ...]."""
    bottleneck, latent = make("grouped", dim=32), make_latent(4, 25, dim=32)
    entries = entries_of(bottleneck)  # level-major
    frames = latent.transpose(1, 2).reshape(-1, 32).double().numpy()
    codes, total = [], np.zeros_like(frames)
    for level in range(3):
        chosen = []
        for group in range(2):
            table = entries[level * 2 + group]
            channels = slice(group * 16, group * 16 + 16)
            index = nearest((frames - total)[:, channels], table)
            codes.append(index)
            chosen.append(table[index])
        total = total + np.concatenate(chosen, 1)
    expected = np.stack(codes).reshape(6, 4, 25).transpose(1, 0, 2)
    result = bottleneck(latent)
    assert (result.codes.numpy() == expected).all()
    assert (bottleneck.encode(latent).numpy() == expected).all()
    latent_hat = total.reshape(4, 25, 32).transpose(0, 2, 1)
    np.testing.assert_allclose(result.latent.numpy(), latent_hat, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(bottleneck.decode(result.codes).numpy(), latent_hat, rtol=1e-5, atol=1e-5)


def test_mcrvq_agrees_with_numpy() -> None:
    """From mechanisms.md 2.2: three codebooks on masked thirds in parallel, then residual ones; in encode too."""
    bottleneck, latent = make("masked", dim=128, n_codebooks=6), make_latent(4, 25, dim=128)
    entries = entries_of(bottleneck)
    x = latent.transpose(1, 2).reshape(-1, 128).double().numpy()
    codes, chosen = [], []
    for i, (start, stop) in enumerate([(0, 42), (42, 85), (85, 128)]):
        masked = np.zeros_like(x)
        masked[:, start:stop] = x[:, start:stop]
        codes.append(nearest(masked, entries[i]))
        chosen.append(entries[i][codes[-1]])
    rest = x - (chosen[0] + chosen[1] + chosen[2])
    for i in range(3, 6):
        codes.append(nearest(rest, entries[i]))
        chosen.append(entries[i][codes[-1]])
        rest = rest - chosen[-1]
    expected = np.stack(codes).reshape(6, 4, 25).transpose(1, 0, 2)
    result = bottleneck(latent)
    assert (result.codes.numpy() == expected).all()
    assert (bottleneck.encode(latent).numpy() == expected).all()
    latent_hat = sum(chosen).reshape(4, 25, 128).transpose(0, 2, 1)
    np.testing.assert_allclose(result.latent.numpy(), latent_hat, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(bottleneck.decode(result.codes).numpy(), latent_hat, rtol=1e-5, atol=1e-5)


def test_the_gradient_of_a_factorised_level_goes_through_its_matrices() -> None:
    """Of a single level: weight @ out @ in, as if the lookup between them were not there."""
    bottleneck, latent, weight = make("factorised", n_codebooks=1), make_latent().requires_grad_(), make_latent(seed=1)
    assert isinstance(bottleneck, Factorised)
    (level,) = bottleneck.parts
    result = bottleneck(latent)
    wanted = (latent, level.project_in.weight, level.project_out.weight)
    gradient, of_in, of_out = torch.autograd.grad((result.latent * weight).sum(), wanted)
    matrix = level.project_out.weight @ level.project_in.weight  # (D, D)
    torch.testing.assert_close(gradient, torch.einsum("bdf,de->bef", weight, matrix))
    assert of_in.abs().max() > 0
    assert of_out.abs().max() > 0


def test_the_commitment_of_every_factorised_level_reaches_the_encoder() -> None:
    bottleneck, latent = make("factorised"), make_latent(frames=20).requires_grad_()
    before = torch.zeros_like(latent)
    for n_stages in range(1, bottleneck.n_stages + 1):
        (gradient,) = torch.autograd.grad(bottleneck(latent, n_stages=n_stages).loss, latent)
        assert ((gradient - before).abs().amax((0, 2)) > 0).all()
        before = gradient


def test_factorised_codes_are_the_nearest_by_angle() -> None:
    bottleneck, latent = make("factorised", n_codebooks=1), make_latent()
    assert isinstance(bottleneck, Factorised)
    (level,) = bottleneck.parts
    small = level.project_in(latent.transpose(1, 2)).detach()
    cosine = torch.nn.functional.cosine_similarity(small[:, :, None], level.book.embed[None, None], dim=-1)
    assert torch.equal(bottleneck.encode(latent)[:, 0], cosine.argmax(-1))


def test_a_code_of_several_frames_is_of_their_mean_and_stands_at_each() -> None:
    bottleneck, latent = make("factorised", n_codebooks=2, divisors=(3, 1)), make_latent(frames=7)
    codes = bottleneck.encode(latent)
    for begin in (0, 3, 6):
        part = codes[:, 0, begin : begin + 3]
        assert (part == part[..., :1]).all()
        mean = latent[..., begin : begin + 3].mean(-1, keepdim=True)
        assert torch.equal(bottleneck.encode(mean)[:, 0], part[..., :1])
    with pytest.raises(ConfigError, match="divisors: expected 2 numbers"):
        make("factorised", n_codebooks=2, divisors=(2,))
