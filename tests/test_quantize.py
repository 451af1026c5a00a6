"""codec.quantize: the laws of every bottleneck. Each one's mathematics: test_bottlenecks; learning: test_learn."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.config import Part
from codec.errors import CodesError, ConfigError
from codec.quantize.build import BOTTLENECKS, build_bottleneck
from codec.quantize.grouped import Grouped
from codec.quantize.masked import Masked
from codec.quantize.split import Split
from support.bottlenecks import DIM, KINDS, make, make_latent

# Its latents differ and its frames depend on one another: test_cross_scale has its laws.
OTHER_LAWS = {"cross_scale"}
# A new bottleneck: its options in KINDS, and every law below runs on it.
LEARNS = ("ema", "gradient")  # of no matter for most laws: each kind has one of them, in turn
laws = pytest.mark.parametrize(("kind", "learn"), list(zip(KINDS, itertools.cycle(LEARNS))))
# Those whose gradient goes once around the whole; that of the others goes through their matrices.
THROUGH = ("attributes", "factorised", "projected")
around = pytest.mark.parametrize(
    ("kind", "learn"), [one for one in itertools.product(KINDS, LEARNS) if one[0] not in THROUGH]
)


def test_every_kind_is_under_the_laws() -> None:
    assert set(KINDS) == set(BOTTLENECKS) - OTHER_LAWS


@laws
@given(batch=st.integers(1, 3), frames=st.integers(1, 9), seed=st.integers(0, 99))
@settings(max_examples=5, deadline=None)
def test_shapes_and_types(kind: str, learn: str, batch: int, frames: int, seed: int) -> None:
    bottleneck, latent = make(kind, learn), make_latent(batch, frames, seed)
    result = bottleneck(latent)
    assert result.latent.shape == latent.shape
    assert result.codes.shape == (batch, bottleneck.n_codebooks, frames)
    assert result.codes.dtype == torch.int64
    assert result.loss.shape == ()
    for x, book in zip(result.inputs, bottleneck.codebooks, strict=True):
        assert x.shape == (batch * frames, book.dim)
        assert not x.requires_grad


@laws
@given(batch=st.integers(1, 3), frames=st.integers(1, 9), seed=st.integers(0, 99))
@settings(max_examples=5, deadline=None)
def test_encoding_and_decoding_do_what_training_does(kind: str, learn: str, batch: int, frames: int, seed: int) -> None:
    bottleneck, latent = make(kind, learn), make_latent(batch, frames, seed)
    result, codes = bottleneck(latent), bottleneck.encode(latent)
    assert torch.equal(codes, result.codes)
    torch.testing.assert_close(bottleneck.decode(codes), result.latent, rtol=1e-5, atol=1e-5)


@laws
def test_every_prefix_decodes_and_no_codebook_depends_on_later_ones(kind: str, learn: str) -> None:
    bottleneck, latent = make(kind, learn), make_latent()
    codes = bottleneck.encode(latent)
    for count in bottleneck.prefixes:
        assert torch.equal(bottleneck.encode(latent, count), codes[:, :count])
        latent_hat = bottleneck(latent, torch.full((3,), count)).latent
        torch.testing.assert_close(bottleneck.decode(codes[:, :count]), latent_hat, rtol=1e-5, atol=1e-5)


@laws
def test_other_prefixes_are_refused_and_the_allowed_ones_named(kind: str, learn: str) -> None:
    bottleneck, latent = make(kind, learn), make_latent()
    allowed = ", ".join(map(str, bottleneck.prefixes))
    for count in set(range(-1, bottleneck.n_codebooks + 2)) - set(bottleneck.prefixes):
        with pytest.raises(CodesError, match=f"codebooks={count}: this model codes with {allowed} codebooks"):
            bottleneck.encode(latent, count)
    for count in set(range(bottleneck.n_codebooks + 2)) - set(bottleneck.prefixes):
        with pytest.raises(CodesError, match=f"this model codes with {allowed} codebooks"):
            bottleneck.decode(torch.zeros(1, count, 4, dtype=torch.int64))


@laws
@pytest.mark.parametrize("code", [-2, 32, 2**40])
def test_codes_out_of_range_are_refused_and_their_place_named(kind: str, learn: str, code: int) -> None:
    bottleneck = make(kind, learn)
    codes = bottleneck.encode(make_latent())
    last = bottleneck.n_codebooks - 1
    codes[2, last, 4] = code
    with pytest.raises(CodesError, match=rf"code {code} at row 2, codebook {last}, frame 4: .* entries 0 to 31"):
        bottleneck.decode(codes)


@laws
def test_a_frame_of_fewer_codebooks_decodes_as_its_prefix_does(kind: str, learn: str) -> None:
    bottleneck = make(kind, learn)
    codes = bottleneck.encode(make_latent())
    expected = bottleneck.decode(codes).clone()
    for frame, count in enumerate(bottleneck.prefixes[:-1] if not bottleneck.divisors else ()):
        expected[..., frame] = bottleneck.decode(codes[:, :count])[..., frame]
        codes[:, count:, frame] = -1
    assert torch.equal(bottleneck.decode(codes), expected)
    codes[1, 0, 2] = -1
    with pytest.raises(CodesError, match="code -1 at row 1, codebook 0, frame 2"):
        bottleneck.decode(codes)


@laws
def test_codes_of_another_shape_or_type_are_refused(kind: str, learn: str) -> None:
    bottleneck = make(kind, learn)
    codes = bottleneck.encode(make_latent())
    for wrong in (codes[0], codes[0, 0], codes[None], codes.float(), codes > 3):
        with pytest.raises(CodesError, match="expected \\(batch, codebooks, frames\\) integers"):
            bottleneck.decode(wrong)
    for dtype in (torch.uint8, torch.int32, torch.uint16):
        assert torch.equal(bottleneck.decode(codes.to(dtype)), bottleneck.decode(codes))


@laws
def test_no_frames_give_no_codes(kind: str, learn: str) -> None:
    bottleneck = make(kind, learn)
    codes = bottleneck.encode(make_latent(frames=0))
    assert codes.shape == (3, bottleneck.n_codebooks, 0)
    assert bottleneck.decode(codes).shape == (3, DIM, 0)


@laws
def test_frames_and_rows_are_independent(kind: str, learn: str) -> None:
    bottleneck, latent = make(kind, learn), make_latent()
    codes = bottleneck.encode(latent)
    assert torch.equal(bottleneck.encode(latent[1:2, :, 3:5]), codes[1:2, :, 3:5])


@laws
def test_levels_are_of_each_row(kind: str, learn: str) -> None:
    bottleneck = make(kind, learn)
    counts = bottleneck.prefixes
    latent = make_latent(len(counts))
    mixed = bottleneck(latent, torch.tensor(counts))
    for row, count in enumerate(counts):
        alone = bottleneck(latent[row : row + 1], torch.tensor([count]))
        torch.testing.assert_close(mixed.latent[row : row + 1], alone.latent, rtol=1e-5, atol=1e-5)
    # The later codebooks learn from every row all the same.
    assert torch.equal(mixed.codes, bottleneck(latent).codes)
    assert torch.equal(mixed.loss, bottleneck(latent).loss)


@laws
def test_stages_not_started_contribute_nothing(kind: str, learn: str) -> None:
    bottleneck, latent = make(kind, learn), make_latent()
    whole = bottleneck(latent)
    for n_stages in range(1, bottleneck.n_stages):
        result = bottleneck(latent, n_stages=n_stages)
        started = sum(stage < n_stages for stage in bottleneck.stages)
        assert torch.equal(result.codes[:, :started], whole.codes[:, :started])
        assert not result.codes[:, started:].any()
        expected = bottleneck(latent, torch.full((3,), started)).latent
        torch.testing.assert_close(result.latent, expected, rtol=1e-5, atol=1e-5)
        for stage, mine, full in zip(bottleneck.stages, result.inputs, whole.inputs, strict=True):
            if stage <= n_stages:  # the next one too: it is about to collect
                assert torch.equal(mine, full)
            else:
                assert mine is None


@laws
def test_no_stage_started_passes_the_latent_unchanged(kind: str, learn: str) -> None:
    bottleneck, latent = make(kind, learn), make_latent().requires_grad_()
    result = bottleneck(latent, n_stages=0)
    assert torch.equal(result.latent, latent)
    assert float(result.loss) == 0
    assert not result.codes.any()
    weight = make_latent(seed=1)
    (gradient,) = torch.autograd.grad((result.latent * weight).sum() + result.loss, latent)
    assert torch.equal(gradient, weight)
    expected = [stage == 0 for stage in bottleneck.stages]
    assert [x is not None for x in result.inputs] == expected


@around
def test_the_straight_through_gradient_is_the_identity_once(kind: str, learn: str) -> None:
    bottleneck, latent, weight = make(kind, learn), make_latent().requires_grad_(), make_latent(seed=1)
    for count in bottleneck.prefixes:
        latent_hat = bottleneck(latent, torch.full((3,), count)).latent
        (gradient,) = torch.autograd.grad((latent_hat * weight).sum(), latent)
        assert torch.equal(gradient, weight)


@around
def test_the_commitment_of_every_level_reaches_the_encoder(kind: str, learn: str) -> None:
    """The published residual loops give exactly 0 from the second level on."""
    bottleneck, latent = make(kind, learn), make_latent(frames=20).requires_grad_()
    before = torch.zeros_like(latent)
    for n_stages in range(1, bottleneck.n_stages + 1):
        result = bottleneck(latent, n_stages=n_stages)
        (gradient,) = torch.autograd.grad(result.loss, latent)
        own = gradient - before  # of this stage alone: the codebooks before it are the same
        if isinstance(bottleneck, Split) and n_stages > 1:
            own = own[:, DIM // 2 :]  # acoustic alone
        assert (own.abs().amax((0, 2)) > 1e-4).all()  # on all channels: every group, every masked part
        before = gradient


@around
def test_the_commitment_has_the_gradient_of_the_written_loss(kind: str, learn: str) -> None:
    """Mean over codebooks of |x - sg(entry)|^2, each a mean over its own numbers; entries get none of it."""
    bottleneck, latent = make(kind, learn, commitment=0.5), make_latent().requires_grad_()
    result = bottleneck(latent)
    (gradient,) = torch.autograd.grad(result.loss, latent)
    expected = torch.zeros(3 * 7, DIM)
    codes = result.codes.transpose(0, 1).flatten(1)
    for i, book in enumerate(bottleneck.codebooks):
        x = result.inputs[i]
        term = 0.5 * 2 * (x - book.embed.detach()[codes[i]]) / x.numel() / bottleneck.n_codebooks
        if isinstance(bottleneck, Grouped):
            expected[:, i % 2 * DIM // 2 : (i % 2 + 1) * DIM // 2] += term
        elif isinstance(bottleneck, Split):
            expected[:, DIM // 2 * (i > 0) : DIM // 2 * (1 + (i > 0))] += term
        elif isinstance(bottleneck, Masked) and i < bottleneck.n_masked:
            expected += term * bottleneck.get_buffer("masks")[i]
        else:
            expected += term
    torch.testing.assert_close(gradient.transpose(1, 2).reshape(-1, DIM), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_the_decoders_gradient_passes_the_codebooks_by(kind: str) -> None:
    bottleneck, latent = make(kind, "gradient"), make_latent().requires_grad_()
    bottleneck(latent).latent.square().sum().backward()
    assert all(book.embed.grad is None for book in bottleneck.codebooks)


@pytest.mark.parametrize("kind", KINDS)
def test_the_codebook_loss_reaches_started_codebooks_only(kind: str) -> None:
    bottleneck, latent = make(kind, "gradient"), make_latent().requires_grad_()
    for n_stages in range(bottleneck.n_stages + 1):
        bottleneck.zero_grad()
        result = bottleneck(latent, n_stages=n_stages)
        (result.latent.sum() + result.loss).backward()
        for book, stage in zip(bottleneck.codebooks, bottleneck.stages, strict=True):
            assert (book.embed.grad is not None and bool(book.embed.grad.any())) == (stage < n_stages)


@laws
def test_autocast_changes_no_code(kind: str, learn: str) -> None:
    bottleneck, latent = make(kind, learn, codebook_size=256), make_latent(8, 100)
    with torch.autocast("cpu", torch.bfloat16):
        result, codes = bottleneck(latent), bottleneck.encode(latent)
    assert result.latent.dtype == result.loss.dtype == torch.float32
    assert torch.equal(result.codes, bottleneck(latent).codes)
    assert torch.equal(codes, bottleneck.encode(latent))
    # The control: a product inside the autocast is rounded; the search keeps out of it by itself, one frame or many.
    with torch.autocast("cpu", torch.bfloat16):
        x, book = result.inputs[0], bottleneck.codebooks[0]
        assert x is not None
        assert (x @ book.embed.t()).dtype == torch.bfloat16
        assert torch.equal(book.search(x), result.codes[:, 0].flatten())
        assert torch.equal(book.search(x[:1]), result.codes[:1, 0, 0])


def test_codebooks_keep_their_names_in_a_weights_file() -> None:
    """A model that was shipped must load."""
    assert list(make("vq").state_dict()) == ["embed"]
    assert list(make("residual").state_dict()) == [f"levels.{i}.embed" for i in range(4)]
    assert list(make("grouped").state_dict()) == [f"groups.{g}.levels.{i}.embed" for g in range(2) for i in range(3)]
    assert list(make("masked").state_dict()) == [f"books.{i}.embed" for i in range(5)]


def test_what_each_kind_decodes_alone() -> None:
    assert make("vq").prefixes == (1,)
    assert make("residual").prefixes == (1, 2, 3, 4)
    assert make("grouped").prefixes == (2, 4, 6)
    assert make("masked").prefixes == (3, 4, 5)
    assert make("split").prefixes == (1, 2, 3, 4)
    assert make("split", n_semantic=2).prefixes == (2, 3, 4)
    assert make("masked").stages == (0, 0, 0, 1, 2)
    assert make("split").stages == (0, 0, 1, 2)
    assert make("split", n_semantic=2, n_codebooks=5).stages == (0, 1, 1, 2, 3)
    assert make("grouped").stages == (0, 0, 1, 1, 2, 2)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("nearest", {}, "unknown 'nearest'; known are attributes, cross_scale, factorised, grouped, masked,"),
        ("vq", {"codebook_size": 0}, "codebook_size"),
        ("vq", {"learn": "both"}, "expected ema or gradient"),
        ("vq", {"n_codebooks": 2}, "unknown key 'n_codebooks'"),
        ("residual", {"n_codebooks": 0}, "n_codebooks"),
        ("grouped", {"n_groups": 3}, "n_groups: 3 does not divide latent_dim 16"),
        ("grouped", {"n_levels": 0}, "n_groups, n_levels"),
        ("split", {"n_semantic": 8}, "n_semantic: must be 1 or more and below n_codebooks 8"),
        ("masked", {"n_masked": 9}, "n_masked: must be 1 to n_codebooks 8"),
        ("masked", {"n_masked": 17, "n_codebooks": 17}, "17 parts of latent_dim 16"),
    ],
)
def test_impossible_options_are_refused(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_bottleneck(Part(kind, options), DIM)
