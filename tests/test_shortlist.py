"""codec.quantize.shortlist: low precision finds candidates, and its bound holds; the result stays the reference's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from codec.errors import CodesError, ConfigError
from codec.quantize import lookup, search, shortlist
from codec.quantize.search import find_path, make_table, nearest
from codec.quantize.shortlist import KINDS, score, shorten

each_kind = pytest.mark.parametrize("kind", KINDS)
by_angle = pytest.mark.parametrize("cosine", [False, True])


def make(n: int, size: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=generator), torch.randn(size, dim, generator=generator)


def agree(vectors: Tensor, codebook: Tensor, kind: str, *, cosine: bool = False) -> None:
    table = make_table(codebook, cosine=cosine, path=kind)
    assert set(table.shortlists) == {kind}
    expected = lookup.nearest(vectors.numpy(), codebook.numpy(), cosine=cosine)
    assert nearest(vectors, table).tolist() == expected.tolist()


@each_kind
@by_angle
@given(
    n=st.integers(17, 60),
    size=st.integers(1, 150),
    dim=st.integers(1, 70),
    scales=st.tuples(st.integers(-38, 37), st.integers(-38, 37)),
    seed=st.integers(0, 999),
)
@settings(max_examples=25, deadline=None)
def test_any_shape_and_scale_agrees(
    kind: str, cosine: bool, n: int, size: int, dim: int, scales: tuple[int, int], seed: int
) -> None:
    vectors, codebook = make(n, size, dim, seed)
    agree(vectors * 10.0 ** scales[0], codebook * 10.0 ** scales[1], kind, cosine=cosine)


@each_kind
@by_angle
def test_near_ties_and_equal_entries_agree(kind: str, cosine: bool) -> None:
    vectors, codebook = make(300, 200, 33)
    twins = torch.nextafter(codebook, torch.full_like(codebook, torch.inf))
    agree(vectors, torch.cat((codebook, twins, codebook)), kind, cosine=cosine)
    agree(vectors, torch.ones(40, 33), kind, cosine=cosine)
    agree(vectors + 50, codebook + 50, kind, cosine=cosine)  # nearly all are candidates


@each_kind
def test_entries_and_vectors_of_very_different_lengths_agree(kind: str) -> None:
    """One step for a codebook: short entries lose all their digits to it."""
    vectors, codebook = make(100, 90, 16)
    lengths = 10.0 ** torch.linspace(-20, 15, 100)
    agree(vectors * lengths[:, None], codebook, kind)
    agree(vectors, codebook * lengths[:90, None], kind)
    spikes = vectors.clone()
    spikes[:, 3] = 1e4
    agree(spikes, codebook, kind)


@each_kind
@given(dim=st.integers(1, 80), scales=st.tuples(st.integers(-18, 17), st.integers(-18, 17)), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_no_score_is_further_off_than_the_bound(kind: str, dim: int, scales: tuple[int, int], seed: int) -> None:
    vectors, codebook = make(20, 40, dim, seed)
    vectors, codebook = vectors * 10.0 ** scales[0], codebook * 10.0 ** scales[1]
    exact = codebook.double().square().sum(1) / 2 - vectors.double() @ codebook.double().t()
    out = torch.empty(20, 40)
    bound = score(vectors, shorten(codebook, kind), codebook.double().square().sum(1).div(2).float(), out)
    assert bool(((out.double() - exact).abs() <= bound).all())


@each_kind
def test_the_bound_lets_few_candidates_through(kind: str) -> None:
    vectors, codebook = make(200, 1024, 64)
    out = torch.empty(200, 1024)
    bound = score(vectors, shorten(codebook, kind), codebook.square().sum(1) / 2, out)
    n_near = (out <= out.amin(1, keepdim=True) + 2 * bound).sum(1).float().mean()
    assert n_near < 20


@each_kind
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused(kind: str, value: float) -> None:
    vectors, codebook = make(40, 30, 5)
    table = make_table(codebook, path=kind)
    vectors[7, 2] = value
    with pytest.raises(CodesError, match="NaN or infinite"):
        nearest(vectors, table)
    codebook[7, 2] = value
    with pytest.raises(CodesError, match="NaN or infinite"):
        nearest(vectors[:5].nan_to_num(0, 0, 0), make_table(codebook, path=kind))


def test_products_of_the_largest_whole_numbers_do_not_overflow() -> None:
    """Pairs of 8-bit products overflow 16 bits on CPUs without VNNI: the levels are chosen so that they do not."""
    levels = shorten(torch.ones(1, 64), "int8").levels
    a = torch.full((32, 64), levels, dtype=torch.int8)
    for b in (a, -a):
        assert (torch._int_mm(a, b.t()) == 64 * levels * int(b[0, 0])).all()


def test_a_path_is_measured_once_and_only_among_what_the_cpu_has(monkeypatch: pytest.MonkeyPatch) -> None:
    _, codebook = make(1, 40, 8)
    assert find_path(make_table(codebook, path="int8"), 5000) == "int8"
    assert find_path(make_table(codebook), 20) == "float32"
    monkeypatch.setattr("codec.quantize.table.available", lambda: KINDS)
    search._fastest.cache_clear()
    table = make_table(codebook)
    assert set(table.shortlists) == set(KINDS)
    path = find_path(table, 5000)
    assert path in ("float32", *KINDS)
    assert all(find_path(table, n) == path for n in range(1000, 1050))
    assert search._fastest.cache_info().misses == 1
    search._fastest.cache_clear()
    monkeypatch.setattr("codec.quantize.table.available", tuple)
    assert find_path(make_table(codebook), 5000) == "float32"
    assert search._fastest.cache_info().misses == 0


def test_what_the_cpu_has_names_known_kinds() -> None:
    assert set(shortlist.available()) <= set(KINDS)
    with pytest.raises(ConfigError, match="unknown; use float32, int8, bfloat16 or None"):
        make_table(torch.ones(2, 2), path="int4")
