"""codec.quantize.fused: residual levels in one graph give the codes of the loop; one graph serves every length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from codec.config import Part
from codec.errors import CodesError, ConfigError
from codec.quantize.build import build_bottleneck
from codec.quantize.fused import Chain, chain_plain
from codec.quantize.table import Table, make_table


def make(n: int, size: int, dim: int, n_levels: int) -> tuple[Tensor, tuple[Table, ...]]:
    generator = torch.Generator().manual_seed(0)
    books = [torch.randn(size, dim, generator=generator) * 0.6**i for i in range(n_levels)]
    return torch.randn(n, dim, generator=generator), tuple(make_table(book) for book in books)


def test_all_levels_agree_with_the_bottleneck() -> None:
    bottleneck: Any = build_bottleneck(Part("residual", {"codebook_size": 50, "n_codebooks": 4}), 12)
    generator = torch.Generator().manual_seed(0)
    for i, book in enumerate(bottleneck.codebooks):
        book.embed.normal_(generator=generator).mul_(0.6**i)
    latent = torch.randn(1, 12, 300, generator=generator)
    codes = Chain(bottleneck.tables(), backend="eager")(latent[0].t())
    assert torch.equal(codes, bottleneck.encode(latent)[0])


@pytest.mark.parametrize("rows", [1, 7, 64, 1000])
@pytest.mark.parametrize("n", [0, 1, 64, 130])
def test_a_last_tile_that_is_not_full_changes_nothing(n: int, rows: int) -> None:
    vectors, tables = make(n, 40, 5, 3)
    found = Chain(tables, rows=rows, backend="eager")(vectors)
    assert found.shape == (3, n)
    assert found.dtype == torch.int64
    if n:
        assert torch.equal(found, chain_plain(vectors, tables))


def test_rows_that_float32_cannot_decide_are_decided() -> None:
    vectors, _ = make(200, 1, 8, 1)
    first = torch.randn(30, 8, generator=torch.Generator().manual_seed(1)) + 100
    twins = torch.nextafter(first, torch.full_like(first, torch.inf))
    tables = (make_table(torch.cat((first, twins, first))), make_table(torch.zeros(20, 8)), make_table(first - 100))
    found = Chain(tables, backend="eager")(vectors + 100)
    assert torch.equal(found, chain_plain(vectors + 100, tables))
    assert not found[1].any()  # of equal entries the first


@pytest.mark.parametrize("scale", [1e-44, 1e-20, 1e17, 1e19, 1e30])
@pytest.mark.parametrize("of", ["vectors", "codebook", "one vector"])
def test_huge_and_tiny_norms(scale: float, of: str) -> None:
    vectors, tables = make(50, 30, 6, 2)
    if of == "codebook":
        tables = tuple(make_table(table.codebook * scale) for table in tables)
    else:
        vectors[slice(None) if of == "vectors" else slice(3, 4)] *= scale
    assert torch.equal(Chain(tables, backend="eager")(vectors), chain_plain(vectors, tables))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused(value: float) -> None:
    vectors, tables = make(9, 30, 6, 2)
    vectors[4, 1] = value
    with pytest.raises(CodesError, match="NaN or infinite"):
        Chain(tables, backend="eager")(vectors)


def test_wrong_widths_and_tables_by_angle_are_refused() -> None:
    vectors, tables = make(9, 30, 6, 2)
    with pytest.raises(CodesError, match="expected \\(N, 6\\)"):
        Chain(tables, backend="eager")(vectors[:, :5])
    with pytest.raises(ConfigError, match="by distance, not by angle"):
        Chain((make_table(torch.ones(2, 2), cosine=True),), backend="eager")


@pytest.mark.slow  # loading the compiler takes seconds
def test_one_graph_serves_every_length() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def count(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    vectors, tables = make(70, 40, 5, 3)
    chain = Chain(tables, rows=16, backend=count)
    for n in (1, 2, 3, 15, 16, 17, 33, 70):
        assert torch.equal(chain(vectors[:n]), chain_plain(vectors[:n], tables))
    assert len(graphs) == 1
    other = make(70, 40, 5, 3)[1]  # another model of the same sizes
    assert torch.equal(Chain(other, rows=16, backend=count)(vectors), chain_plain(vectors, other))
    assert len(graphs) == 1


@pytest.mark.slow  # compiles C++
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own compiler still uses it
def test_compiled_by_the_default_backend_it_is_exact() -> None:
    vectors, tables = make(300, 70, 9, 2)
    vectors[3:9] = tables[0].codebook[:6] / 2 + tables[0].codebook[6:12] / 2  # near ties
    assert torch.equal(Chain(tables, rows=128)(vectors), chain_plain(vectors, tables))
