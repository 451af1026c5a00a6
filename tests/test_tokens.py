"""Layouts are exact inverses, survive truncation, and name the id that cannot be."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from codec.errors import CodesError
from codec.tokens import LAYOUTS, Delay, Layout, MultiRate, TokenIds, join_levels, make_layout, split_levels

Array = npt.NDArray[np.int64]
QUICK = settings(
    max_examples=40, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate, Phase.shrink]
)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    sizes = tuple(draw(st.lists(st.integers(1, 40), min_size=1, max_size=5)))
    kind = draw(st.sampled_from(sorted(LAYOUTS)))
    one_section = kind not in ("codebook", "coarse", "semantic")
    ids = TokenIds(sizes, draw(st.integers(0, 50)), one_section and draw(st.booleans()))
    options: dict[str, Any] = {}
    if kind == "delay":
        options["delays"] = tuple(draw(st.integers(0, 4)) for _ in sizes)
    if kind == "multirate":
        options["divisors"] = (*(draw(st.sampled_from([1, 2, 3, 4])) for _ in sizes[1:]), 1)
    if kind == "depth":
        options["n_groups"] = draw(st.sampled_from([n for n in range(1, len(sizes) + 1) if len(sizes) % n == 0]))
    return make_layout(kind, ids, options)


@st.composite
def items(draw: st.DrawFn, batch: int = 0) -> tuple[Layout, Array]:
    layout, n_frames = draw(layouts()), draw(st.integers(0, 13))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sizes = np.array(layout.ids.codebook_sizes)[:, None]
    codes: Array = rng.integers(0, sizes, ((batch,) if batch else ()) + (len(sizes), n_frames))
    for q, divisor in enumerate(layout.divisors):
        codes[..., q, :] = np.repeat(codes[..., q, ::divisor], divisor, axis=-1)[..., :n_frames]
    return layout, codes


@QUICK
@given(items(), st.booleans())
def test_restore_is_the_inverse_of_arrange(item: tuple[Layout, Array], wrap: bool) -> None:
    layout, codes = item
    tokens = layout.arrange(codes, wrap=wrap)
    back = layout.restore(tokens)
    assert np.array_equal(back.codes, codes)
    assert (back.n_incomplete, back.n_dropped) == (0, 0)
    assert back.stopped == ("audio_end" if wrap else "")
    assert tokens.size == 0 or tokens.max() < layout.ids.size


@QUICK
@given(items(batch=3))
def test_a_batch_gives_what_its_items_give_alone_in_torch_as_in_numpy(item: tuple[Layout, Array]) -> None:
    layout, codes = item
    tokens = layout.arrange(torch.from_numpy(codes))
    assert isinstance(tokens, torch.Tensor)
    for row, back, code in zip(tokens, layout.restore(tokens), codes, strict=True):
        assert np.array_equal(row.numpy(), layout.arrange(code))
        assert isinstance(back.codes, torch.Tensor)
        assert np.array_equal(back.codes.numpy(), code)


@QUICK
@given(items(batch=2), st.integers(1, 5))
def test_a_whole_item_restores_in_one_go_as_one_that_is_taken_apart(item: tuple[Layout, Array], books: int) -> None:
    """What follows audio_end is not looked at, but such a sequence is none that `arrange` gives."""
    layout, codes = item
    books = min(books, codes.shape[1])
    tokens = layout.arrange(codes, wrap=True)
    behind = np.full((len(codes), *layout.step), layout.ids.eos)
    apart = layout.restore(np.concatenate((tokens, behind), layout.axis), codebooks=books)
    for one, other, code in zip(layout.restore(tokens, codebooks=books), apart, codes, strict=True):
        assert np.array_equal(one.codes, other.codes)
        assert np.array_equal(one.codes, code[:books])
        assert one.codes.flags.c_contiguous
        assert (one.n_incomplete, one.n_dropped, one.stopped) == (other.n_incomplete, other.n_dropped, other.stopped)


def test_a_layout_takes_its_options_behind_its_name() -> None:
    ids = TokenIds((10,) * 4)
    assert make_layout("semantic:n_semantic=2:n_coarse=1", ids) == make_layout(
        "semantic", ids, {"n_semantic": 2, "n_coarse": 1}
    )
    assert make_layout("delay:delays=0,1,1,3", ids) == Delay(ids, (0, 1, 1, 3))
    with pytest.raises(CodesError, match="write options as coarse:name=1"):
        make_layout("coarse:n_coarse", ids)


@QUICK
@given(items(), st.floats(0, 1))
def test_a_truncated_sequence_gives_its_whole_frames(item: tuple[Layout, Array], share: float) -> None:
    layout, codes = item
    tokens = layout.arrange(codes)
    cut = int(share * tokens.shape[layout.axis])
    part = tokens[..., :cut] if layout.axis == -1 else tokens[:cut]
    back = layout.restore(part)
    n = back.codes.shape[1]
    assert np.array_equal(back.codes, codes[:, :n])
    assert n + back.n_incomplete <= codes.shape[1]
    assert (back.n_incomplete == 0) == (back.n_dropped == 0)
    fewer = layout.restore(part, codebooks=1).codes
    assert np.array_equal(fewer, codes[:1, : fewer.shape[1]])
    assert fewer.shape[1] >= n


@QUICK
@given(items(), st.integers(0, 2**32))
def test_any_integers_either_restore_or_are_named_with_their_position(item: tuple[Layout, Array], seed: int) -> None:
    layout, codes = item
    tokens = layout.arrange(codes)
    rng = np.random.default_rng(seed)
    if tokens.size:
        tokens.flat[rng.integers(tokens.size)] = rng.integers(-3, layout.ids.size + 3)
    loose = layout.restore(tokens, strict=False)
    assert loose.codes.shape[1] <= codes.shape[1]
    if loose.stopped.startswith("tokens["):
        with pytest.raises(CodesError, match=f"^{re.escape(loose.stopped)}$"):
            layout.restore(tokens)
    else:
        assert np.array_equal(layout.restore(tokens).codes, loose.codes)


def test_frame_major_goes_frame_by_frame_and_codebook_major_book_by_book() -> None:
    ids, codes = TokenIds((10, 10)), np.array([[1, 2], [3, 4]])
    assert make_layout("frame", ids).arrange(codes).tolist() == [1, 13, 2, 14]
    assert make_layout("codebook", ids).arrange(codes).tolist() == [1, 2, 13, 14]


def test_coarse_first_and_semantic_first_put_whole_sections_before_others() -> None:
    ids = TokenIds((10,) * 4)
    codes = np.arange(8).reshape(4, 2)
    assert make_layout("coarse", ids, {"n_coarse": 2}).arrange(codes).tolist() == [0, 12, 1, 13, 24, 36, 25, 37]
    assert make_layout("semantic", ids).arrange(codes).tolist() == [0, 1, 12, 24, 36, 13, 25, 37]
    apart = make_layout("semantic", ids, {"n_coarse": 1})
    assert apart.arrange(codes).tolist() == [0, 1, 12, 13, 24, 36, 25, 37]


def test_delay_is_the_pattern_of_musicgen() -> None:
    """MusicGen, figure 1: codebook q is shifted by q steps; the special token is the codebook's size."""
    codes = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    assert Delay(TokenIds((2048,) * 3, shared=True)).arrange(codes).tolist() == [
        [1, 2, 3, 2048, 2048],
        [2048, 4, 5, 6, 2048],
        [2048, 2048, 7, 8, 9],
    ]


def test_multirate_is_the_seven_token_frame_of_snac() -> None:
    levels = [np.array([1]), np.array([2, 3]), np.array([4, 5, 6, 7])]
    layout = MultiRate(TokenIds((4096,) * 3, shared=True), (4, 2, 1))
    codes = join_levels(levels, (4, 2, 1))
    assert layout.arrange(codes).tolist() == [1, 2, 4, 5, 3, 6, 7]
    assert all(np.array_equal(a, b) for a, b in zip(split_levels(codes, (4, 2, 1)), levels, strict=True))


def test_a_slow_codebook_that_changes_within_its_frames_is_named() -> None:
    layout = MultiRate(TokenIds((9, 9)), (2, 1))
    with pytest.raises(CodesError, match=r"codes\[0, 3\]: codebook 0 has one code for 2 frames"):
        layout.arrange(np.array([[1, 1, 2, 3], [0, 0, 0, 0]]))


@pytest.mark.parametrize("code", [-1, 10])
def test_a_code_out_of_range_is_named_with_its_position(code: int) -> None:
    codes = np.zeros((2, 3, 5), np.int64)
    codes[1, 2, 3] = code
    with pytest.raises(CodesError, match=rf"codes\[1, 2, 3\] = {code}: codebook 2 has entries 0 to 9"):
        make_layout("frame", TokenIds((20, 20, 10))).arrange(codes)


def test_a_token_of_another_codebook_is_named_with_its_position() -> None:
    layout = make_layout("frame", TokenIds((10, 10), first=100))
    message = r"tokens\[4\] = 113, codebook 1 code 3: codebook 0 takes 100 to 109 here"
    with pytest.raises(CodesError, match=message):
        layout.restore([layout.ids.bos, layout.ids.audio_start, 101, 111, 113, 112])
    with pytest.raises(CodesError, match=r"tokens\[1\] = 7, no token of the audio: ids of codes are 100 to 119"):
        layout.restore([101, 7])


def test_text_after_the_audio_is_not_looked_at_and_spans_finds_the_audio() -> None:
    layout = make_layout("frame", TokenIds((10, 10), first=100))
    codes = np.array([[1, 2], [3, 4]])
    mixed = np.concatenate(([5, 6], layout.arrange(codes, wrap=True), [7], layout.arrange(codes, wrap=True)[:-1]))
    spans = layout.ids.spans(mixed)
    assert [layout.restore(mixed[span]).codes.tolist() for span in spans] == [codes.tolist()] * 2
    assert layout.restore(mixed[2:]).stopped == "audio_end"


def test_codebook_major_cut_early_still_gives_its_whole_codebooks() -> None:
    layout = make_layout("codebook", TokenIds((10,) * 4))
    codes = np.arange(20).reshape(4, 5) % 10
    back = layout.restore(layout.arrange(codes)[:12], codebooks=2)
    assert np.array_equal(back.codes, codes[:2])
    assert layout.restore(layout.arrange(codes)[:12]).codes.shape == (4, 0)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("spiral", {}, "layout 'spiral': known are parallel"),
        ("delay", {"delays": (1,)}, "expected 2 numbers"),
        ("delay", {"lag": 1}, "layout delay: no option lag; it has delays"),
        ("semantic", {"n": 1}, "layout semantic: no option n; it has n_semantic, n_coarse"),
        ("frame", {"n": 1}, "layout frame: no option n; it has none"),
        ("coarse", {"n_coarse": "x"}, "layout coarse: options {'n_coarse': 'x'}"),
        ("coarse", {"n_coarse": 3}, "must add up to 2 codebooks"),
        ("depth", {"n_groups": 5}, "cannot be shared out equally"),
        ("multirate", {"divisors": (2, 2)}, "the least of them 1"),
    ],
)
def test_what_cannot_be_a_layout_is_refused(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CodesError, match=message):
        make_layout(kind, TokenIds((4, 4)), options)


def test_wrong_shapes_are_refused() -> None:
    layout = make_layout("parallel", TokenIds((4, 4)))
    with pytest.raises(CodesError, match=r"expected \(\[batch,\] 2, N\)"):
        layout.restore(np.zeros((3, 5), np.int64))
    with pytest.raises(CodesError, match=r"expected \(..., 2, frames\)"):
        layout.arrange(np.zeros((3, 5), np.int64))


@QUICK
@given(items(batch=2), st.sampled_from(["int16", "int32"]), st.booleans())
def test_narrow_codes_give_narrow_tokens_of_the_same_value(item: tuple[Layout, Array], name: str, wrap: bool) -> None:
    layout, codes = item
    wanted = layout.arrange(codes, wrap=wrap)
    for kind in (np.asarray, torch.from_numpy):
        tokens = layout.arrange(kind(codes.astype(name)), wrap=wrap)
        assert str(tokens.dtype).removeprefix("torch.") == name
        assert np.array_equal(np.asarray(tokens), wanted)
        for back, code in zip(layout.restore(tokens), codes, strict=True):
            assert str(back.codes.dtype).removeprefix("torch.") == name
            assert np.array_equal(np.asarray(back.codes), code)
        cut = layout.restore(tokens[0][: tokens.shape[1] // 2] if tokens.ndim == 2 else tokens[0], strict=False)
        assert str(cut.codes.dtype).removeprefix("torch.") == name


def test_codes_are_widened_where_their_type_does_not_hold_the_vocabulary() -> None:
    codes = np.full((8, 3), 1023, np.int16)
    for first, wanted in ((32768 - 8 * 1024 - 6, np.int16), (32768 - 8 * 1024 - 5, np.int64), (2**31, np.int64)):
        layout = make_layout("frame", TokenIds((1024,) * 8, first))
        tokens = layout.arrange(codes, wrap=True)
        assert tokens.dtype == wanted
        assert tokens.max() == layout.ids.size - 1
        assert np.array_equal(layout.restore(tokens).codes, codes)
    assert make_layout("frame", TokenIds((1024,) * 8)).arrange(codes.astype(np.uint16)).dtype == np.int64


@QUICK
@given(layouts(), st.integers(0, 2**32))
def test_any_narrow_tokens_are_taken_as_the_same_wide_ones(layout: Layout, seed: int) -> None:
    """Differences that pass the ends of 16 bits included."""
    rng = np.random.default_rng(seed)
    shape = [12 if n - len(layout.step) == layout.axis else size for n, size in enumerate(layout.step)]
    edges = [-32768, -1, 0, 32767, *layout.ids.specials.values(), *layout.ids.offsets]
    tokens = rng.choice(np.array(edges, np.int16), shape)
    narrow, wide = (layout.restore(tokens.astype(name), strict=False) for name in ("int16", "int64"))
    assert np.array_equal(narrow.codes, wide.codes)
    assert (narrow.n_incomplete, narrow.n_dropped, narrow.stopped) == (wide.n_incomplete, wide.n_dropped, wide.stopped)


def test_layouts_do_not_import_torch() -> None:
    code = "import sys, codec.tokens; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
