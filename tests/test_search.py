"""codec.quantize.search against the reference in codec.quantize.lookup: on a CPU they agree on every index."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from codec.config import Part
from codec.errors import CodesError
from codec.quantize import lookup
from codec.quantize.build import build_bottleneck
from codec.quantize.search import _search_elsewhere, make_table, nearest

by_angle = pytest.mark.parametrize("cosine", [False, True])


def agree(vectors: Tensor, codebook: Tensor, *, cosine: bool = False) -> None:
    """All ways to ask give the reference's indices."""
    expected = lookup.nearest(vectors.numpy(), codebook.numpy(), cosine=cosine)
    found = nearest(vectors, codebook, cosine=cosine)
    assert found.dtype == torch.int64
    np.testing.assert_array_equal(found.numpy(), expected)
    table = make_table(codebook, cosine=cosine)
    np.testing.assert_array_equal(nearest(vectors, table).numpy(), expected)
    for i in range(min(5, len(vectors))):  # one frame takes another way
        assert nearest(vectors[i : i + 1], table).tolist() == [expected[i]]
    for n in (2, 9):  # so do some
        assert nearest(vectors[:n], table).tolist() == expected[:n].tolist()


def make(n: int, size: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=generator), torch.randn(size, dim, generator=generator)


@by_angle
@given(
    n=st.integers(0, 70),
    size=st.integers(1, 200),
    dim=st.integers(1, 70),
    scales=st.tuples(st.integers(-38, 37), st.integers(-38, 37)),
    seed=st.integers(0, 999),
)
@example(n=300, size=1025, dim=8, scales=(0, 0), seed=0)
@example(n=700, size=31, dim=3, scales=(0, 0), seed=0)
@example(n=130, size=5000, dim=4, scales=(0, 0), seed=0)
@settings(max_examples=40, deadline=None)
def test_any_shape_and_scale_agrees(
    cosine: bool, n: int, size: int, dim: int, scales: tuple[int, int], seed: int
) -> None:
    vectors, codebook = make(n, size, dim, seed)
    agree(vectors * 10.0 ** scales[0], codebook * 10.0 ** scales[1], cosine=cosine)


@given(n=st.integers(1, 40), size=st.integers(1, 90), dim=st.integers(1, 5), seed=st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_the_lowest_index_wins_among_equal_distances(n: int, size: int, dim: int, seed: int) -> None:
    """Small whole numbers: many entries are equal, and many more as far away. ONNX's ArgMin does the same."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randint(-2, 3, (n, dim), generator=generator).float()
    codebook = torch.randint(-2, 3, (size, dim), generator=generator).float()
    agree(vectors, codebook)
    squares = ((vectors[:, None] - codebook) ** 2).sum(2)  # exact in float32
    assert nearest(vectors, codebook).tolist() == squares.argmin(1).tolist()


@by_angle
@pytest.mark.parametrize("size", [40, 1000, 1031])
def test_the_first_of_equal_entries_wins_wherever_they_stand(size: int, cosine: bool) -> None:
    """A product computes the last columns in another order, and there its rounding differs."""
    vectors, codebook = make(100, size, 61)
    half = -(-size // 2)
    codebook[half:] = codebook[: size - half]
    agree(vectors, codebook, cosine=cosine)
    assert int(nearest(vectors, codebook, cosine=cosine).max()) < half
    assert not nearest(vectors, torch.zeros(size, 61), cosine=cosine).any()


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("dim", [2, 64, 257])
def test_near_ties_that_float32_cannot_see_are_decided(dim: int, offset: float) -> None:
    """Pairs of entries one float32 step apart; far from the origin, where scores are large and differences are not."""
    vectors, codebook = make(150, 64, dim)
    vectors, codebook = vectors + offset, codebook + offset
    twins = torch.nextafter(codebook, torch.full_like(codebook, torch.inf))
    agree(vectors, torch.cat((codebook, twins, codebook)))
    middle = (codebook[:1] + codebook[1:2]) / 2  # as far from one as from the other, but for its own rounding
    agree(middle.repeat(30, 1), codebook)


def test_the_answer_does_not_depend_on_what_came_together() -> None:
    vectors, codebook = make(1100, 300, 24)
    codebook += 50  # many near-ties
    vectors += 50
    whole = nearest(vectors, codebook)
    for sizes in ([1100], [1] * 100 + [1000], [511, 513, 76], [2, 3, 5, 90, 1000]):
        assert torch.equal(torch.cat([nearest(x, codebook) for x in torch.split(vectors, sizes)]), whole)


def test_rounded_products_cost_time_and_not_exactness() -> None:
    """A caller may let products round to bfloat16, where the CPU has it."""
    vectors, codebook = make(200, 300, 32)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        agree(vectors, codebook)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("of", ["vectors", "codebook", "both", "one vector", "one entry"])
def test_squares_that_overflow_or_vanish_in_float32(of: str) -> None:
    for scale in (1e-44, 1e-30, 1e-20, 1e17, 1e19, 1e30, 1e37):
        vectors, codebook = make(50, 60, 6)
        if of in ("vectors", "both"):
            vectors *= scale
        if of in ("codebook", "both"):
            codebook *= scale
        if of == "one vector":
            vectors[3] *= scale
        if of == "one entry":
            codebook[2] *= scale
        agree(vectors, codebook)


@by_angle
@pytest.mark.parametrize(("size", "n"), [(1, 2), (7, 1), (7, 600), (1030, 1), (1030, 600)])
def test_nan_and_infinity_are_refused(size: int, n: int, cosine: bool) -> None:
    vectors, codebook = make(n, size, 5)
    for sick, value in itertools.product((vectors, codebook), (math.nan, math.inf, -math.inf)):
        kept = sick[-1, 2].clone()
        sick[-1, 2] = value
        with pytest.raises(CodesError, match="NaN or infinite"):
            nearest(vectors, codebook, cosine=cosine)
        with pytest.raises(CodesError, match="NaN or infinite"):
            lookup.nearest(vectors.numpy(), codebook.numpy(), cosine=cosine)
        sick[-1, 2] = kept


@pytest.mark.parametrize("shapes", [((2, 3), (4, 5)), ((2, 3), (0, 3)), ((3,), (4, 3)), ((2, 3), (1, 4, 3))])
def test_shapes_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(CodesError, match="expected \\(N, D\\) and \\(K, D\\)"):
        nearest(torch.zeros(shapes[0]), torch.zeros(shapes[1]))
    with pytest.raises(CodesError, match="expected \\(N, D\\) and \\(K, D\\)"):
        lookup.nearest(np.zeros(shapes[0]), np.zeros(shapes[1]))


@by_angle
def test_no_vectors_give_no_indices(cosine: bool) -> None:
    agree(*make(0, 4, 3), cosine=cosine)


def test_an_angle_does_not_depend_on_lengths() -> None:
    vectors, codebook = make(100, 50, 8)
    lengths = torch.rand(50, 1, generator=torch.Generator().manual_seed(1)) * 9 + 0.1
    expected = torch.nn.functional.normalize(codebook) @ vectors.t()
    assert torch.equal(nearest(vectors * 3, codebook * lengths, cosine=True), expected.argmax(0))
    codebook[4] = 0
    agree(vectors, codebook, cosine=True)
    assert nearest(torch.zeros(1, 8), codebook, cosine=True).tolist() == [0]


def test_the_reference_in_blocks_is_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, codebook = (x.numpy() for x in make(37, 20, 4))
    whole = lookup.nearest(vectors, codebook)
    squares = ((vectors[:, None].astype(float) - codebook) ** 2).sum(2)
    assert whole.tolist() == squares.argmin(1).tolist()
    monkeypatch.setattr(lookup, "BLOCK", 200)
    assert lookup.nearest(vectors, codebook).tolist() == whole.tolist()


@pytest.mark.parametrize("kind", ["vq", "residual", "grouped", "masked"])
def test_a_bottleneck_encodes_the_same_with_its_tables(kind: str) -> None:
    bottleneck: Any = build_bottleneck(Part(kind, {"codebook_size": 32}), 16)
    generator = torch.Generator().manual_seed(0)
    for book in bottleneck.codebooks:
        book.embed.normal_(generator=generator)
    tables = bottleneck.tables()
    for frames in (1, 9):
        latent = torch.randn(2, 16, frames, generator=generator)
        for count in bottleneck.prefixes:
            expected = bottleneck.encode(latent, count)
            assert torch.equal(bottleneck.encode(latent, count, tables), expected)


@by_angle
def test_the_way_of_other_devices_agrees_where_nothing_is_near_a_tie(cosine: bool) -> None:
    vectors, codebook = make(200, 70, 9)
    found = _search_elsewhere(vectors, make_table(codebook, cosine=cosine))
    assert found.tolist() == lookup.nearest(vectors.numpy(), codebook.numpy(), cosine=cosine).tolist()


def test_nothing_is_compiled_whatever_the_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """No graphs, so no first-use cost and no recompilation for a new length."""
    compiled: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda *args, **_: compiled.append(args))
    vectors, codebook = make(40, 30, 4)
    for n in range(40):
        nearest(vectors[:n], codebook)
    assert compiled == []


def test_a_gradient_does_not_pass() -> None:
    vectors, codebook = make(9, 5, 3)
    found = nearest(vectors.requires_grad_(), codebook.requires_grad_())
    assert not found.requires_grad
    agree(vectors.detach(), codebook.detach())
