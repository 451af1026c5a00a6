"""Saved, restored, copied and asynchronous streams give what an unbroken stream gives, exactly."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from codec.api import Model, load
from codec.config import ModelConfig, Part
from codec.errors import CodesError, StateError
from codec.export.folder import write_folder
from codec.export.graphs import write_graphs
from codec.network import Network
from codec.stream import StreamEncoder
from codec.stream.state import pack, unpack

Array = npt.NDArray[Any]
LAW = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
N_FRAMES = 130  # longer than a block of 128 frames
CUT = st.integers(0, 1000)  # thousandths of the whole
KINDS = ["torch", "onnx", "attention"]
OPEN: dict[str, Callable[..., Any]] = {"encoder": Model.stream_encoder, "decoder": Model.stream_decoder}


def write_attention(folder: Path) -> Path:
    """A model whose state holds whole numbers too: convolutions, one block of attention, random weights."""
    part = Part("conv", {"n_filters": 4, "strides": [2, 4, 5], "n_recurrent": 0, "n_attention": 1, "n_heads": 2})
    config = ModelConfig(
        part, Part("residual", {"codebook_size": 16, "n_codebooks": 4}), part, hop_length=40, latent_dim=8
    )
    with torch.random.fork_rng():
        torch.manual_seed(8)
        network = Network(config)
        for book in network.bottleneck.codebooks:
            book.embed.data.normal_(std=0.3)
    write_folder(folder, "attention", config, network.state_dict(), licence="CC0-1.0")
    return folder


@pytest.fixture(scope="module")
def models(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """Tiny models with random weights, by kind."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(tiny_path, folder / "graphs")
    write_graphs(folder / "graphs")
    attention = load(write_attention(folder / "attention"))
    return {
        "torch": load(tiny_path, engine="torch"),
        "onnx": load(folder / "graphs", engine="onnx"),
        "attention": attention,
    }


@pytest.fixture(scope="module")
def given_codes(models: dict[str, Model], speech: Array) -> dict[str, Array]:
    """Codes of real speech, for the decoders."""
    return {
        kind: model.encode(speech[16000:][: N_FRAMES * model.info.hop_length]).data for kind, model in models.items()
    }


def pieces(array: Array, cuts: Sequence[int]) -> list[Array]:
    """Cut the last axis at some places; equal ones give empty pieces."""
    edges = [0, *sorted(cuts), array.shape[-1]]
    return [array[..., a:b] for a, b in pairwise(edges)]


def unbroken(coder: Any, whole: Array) -> Array:
    """All that a stream gives that is never saved."""
    result: Array = np.concatenate([coder.feed(whole), coder.flush()], -1)
    return result


# laws


@LAW
@given(
    kind=st.sampled_from(KINDS),
    mode=st.sampled_from(["frame", "block"]),
    cuts=st.lists(CUT, max_size=4),
    direction=st.sampled_from(["encoder", "decoder"]),
    rate=st.sampled_from([None, 8000, 44100]),
)
def test_a_stream_restored_between_any_chunks_equals_an_unbroken_one(
    models: dict[str, Model],
    given_codes: dict[str, Array],
    speech: Array,
    kind: str,
    mode: str,
    cuts: list[int],
    direction: str,
    rate: int | None,
) -> None:
    """Also at another rate; a block's audio at 8 kHz is longer than what a resampler remembers."""
    n_frames = N_FRAMES if mode == "block" else 12
    audio = speech[16000 : 16000 + n_frames * models[kind].info.hop_length - 7]
    whole = audio if direction == "encoder" else given_codes[kind][:, :n_frames]
    cuts = [cut * whole.shape[-1] // 1000 for cut in cuts]

    def begin() -> Any:
        return OPEN[direction](models[kind], mode=mode, sample_rate=rate)

    parts, coder = [], begin()
    for piece in pieces(whole, cuts):
        parts.append(coder.feed(piece))
        data = coder.state()
        coder = begin()
        coder.load_state(data)
    assert np.array_equal(np.concatenate([*parts, coder.flush()], -1), unbroken(begin(), whole))


@LAW
@given(
    at=CUT, kind=st.sampled_from(KINDS), channels=st.sampled_from([None, 2]), rate=st.sampled_from([None, 8000, 48000])
)
def test_a_copy_and_its_original_go_on_by_themselves(
    models: dict[str, Model], speech: Array, at: int, kind: str, channels: int | None, rate: int | None
) -> None:
    audio = speech[16000:][: 6 * models[kind].info.hop_length]
    whole = audio if channels is None else audio.reshape(2, -1)
    at = at * whole.shape[-1] // 1000
    one = models[kind].stream_encoder(channels=channels, sample_rate=rate)
    start = one.feed(whole[..., :at])
    other = one.copy()
    other.feed(whole[..., ::-1].copy())  # something else
    rest = unbroken(one.copy(), whole[..., at:])
    assert np.array_equal(rest, unbroken(one, whole[..., at:]))
    wanted = unbroken(models[kind].stream_encoder(channels=channels, sample_rate=rate), whole)
    assert np.array_equal(np.concatenate([start, rest], -1), wanted)


@pytest.mark.parametrize(("rate", "n_samples"), [(None, 8900), (24000, 13350)])
def test_a_decoder_is_copied_too_with_what_it_trims(
    models: dict[str, Model], given_codes: dict[str, Array], rate: int | None, n_samples: int
) -> None:
    decoder = models["torch"].stream_decoder(mode="block", sample_rate=rate)
    decoder.trim(start=100, end=9000)
    first = decoder.feed(given_codes["torch"][:, :65])
    restored = models["torch"].stream_decoder(mode="block", sample_rate=rate)
    restored.load_state(decoder.state())
    rest = [unbroken(coder, given_codes["torch"][:, 65:]) for coder in (decoder.copy(), restored, decoder)]
    assert len(first) + len(rest[0]) == n_samples
    assert np.array_equal(rest[0], rest[2])
    assert np.array_equal(rest[1], rest[2])


def test_a_flushed_stream_stays_flushed(models: dict[str, Model], speech: Array) -> None:
    encoder, restored = models["torch"].stream_encoder(), models["torch"].stream_encoder()
    unbroken(encoder, speech[:1000])
    restored.load_state(encoder.state())
    assert restored.n_samples == 1000
    assert restored.flush().shape == (4, 0)
    with pytest.raises(ValueError, match="fed after flush"):
        restored.feed(speech[:1])


def test_the_embedded_model_is_restored_exactly(embedded: Model, speech: Array) -> None:
    audio = speech[16000:24000]
    encoder, decoder = embedded.stream_encoder(), embedded.stream_decoder()
    codes, heard = [encoder.feed(audio[:3001])], []
    data = encoder.state()
    encoder = embedded.stream_encoder()
    encoder.load_state(data)
    codes += [encoder.feed(audio[3001:]), encoder.flush()]
    assert np.array_equal(np.concatenate(codes, 1), embedded.encode(audio, mode="frame").data)
    for part in codes:
        heard.append(decoder.feed(part))
        data = decoder.state()
        decoder = embedded.stream_decoder()
        decoder.load_state(data)
    wanted = unbroken(embedded.stream_decoder(), np.concatenate(codes, 1))
    assert np.array_equal(np.concatenate([*heard, decoder.flush()]), wanted)


# refusals


@pytest.mark.parametrize(
    ("open_other", "text"),
    [
        (lambda models: models["torch"].stream_decoder(), "kind 'encoder', this stream has 'decoder'"),
        (lambda models: models["attention"].stream_encoder(), "model 'tiny', this stream has 'attention'"),
        (lambda models: models["onnx"].stream_encoder(), "engine 'torch', this stream has 'onnx'"),
        (lambda models: models["torch"].stream_encoder(mode="block"), "mode 'frame', this stream has 'block'"),
        (lambda models: models["torch"].stream_encoder(codebooks=2), "codebooks 4, this stream has 2"),
        (lambda models: models["torch"].stream_encoder(channels=1), "channels None, this stream has 1"),
        (lambda models: models["torch"].stream_encoder(sample_rate=8000), "sample_rate 16000, this stream has 8000"),
    ],
)
def test_a_state_of_another_stream_is_refused_by_name(
    models: dict[str, Model], speech: Array, open_other: Callable[[dict[str, Model]], Any], text: str
) -> None:
    encoder = models["torch"].stream_encoder()
    encoder.feed(speech[:1000])
    with pytest.raises(StateError, match=text):
        open_other(models).load_state(encoder.state())


@pytest.mark.parametrize(
    ("direction", "name", "value"),
    [
        ("encoder", "history", None),
        ("decoder", "history", np.zeros((1, 5), np.float32)),
        ("encoder", "history", np.zeros((1, 3000), np.float64)),
        ("encoder", "history", np.full((1, 3000), np.nan, np.float32)),
        ("decoder", "pending", np.zeros((3, 3, 3), np.float32)),
        ("encoder", "n_fed", 2999),
        ("encoder", "n_samples", 0),
        ("encoder", "ended", 0.5),
        ("decoder", "n_frames", "many"),
        ("decoder", "n_run", -1),
        ("decoder", "n_given", 10**30),
        ("decoder", "n_resampled", np.array([10**9])),
        ("decoder", "n_resampled", np.array([1.0])),
        ("decoder", "skip", True),
        ("decoder", "end", []),
    ],
)
def test_a_state_of_garbage_under_a_good_checksum_is_refused(
    models: dict[str, Model], speech: Array, given_codes: dict[str, Array], direction: str, name: str, value: Any
) -> None:
    """Who can write a checksum can write anything: each field of a stream that resamples is checked."""
    coder = OPEN[direction](models["torch"], sample_rate=8000)
    coder.feed(speech[16000:19000] if direction == "encoder" else given_codes["torch"][:, :11])
    good, identity = coder.state(), coder._identity()
    counts, tensors = unpack(good, identity)
    changed: dict[str, Any] = tensors if name in ("history", "pending", "n_resampled") else counts
    assert name in {*changed, "pending"}
    changed[name] = value
    bad = pack(identity, counts, {key: tensor for key, tensor in tensors.items() if tensor is not None})
    with pytest.raises(StateError, match=r"^stream state: damaged or no stream state; save it again$"):
        coder.load_state(bad)
    assert coder.state() == good


@pytest.fixture(scope="module")
def fed(models: dict[str, Model], speech: Array) -> tuple[StreamEncoder, bytes]:
    """A stream in the middle, and its state."""
    encoder = models["torch"].stream_encoder()
    encoder.feed(speech[16000:17000])
    return encoder, encoder.state()


@settings(LAW, max_examples=40)
@given(data=st.data())
def test_a_damaged_state_is_an_error_and_leaves_the_stream_as_it_was(
    fed: tuple[StreamEncoder, bytes], data: st.DataObject
) -> None:
    encoder, good = fed
    at = data.draw(st.one_of(st.integers(0, len(good) - 1), st.integers(0, 3000)))
    flip = good[:at] + bytes([good[at] ^ (1 << data.draw(st.integers(0, 7)))]) + good[at + 1 :]
    bad = data.draw(st.sampled_from([flip, good[:at], good + b"\0", b""]))
    with pytest.raises(StateError, match="stream state"):
        encoder.load_state(bad)
    assert encoder.state() == good


def test_a_state_that_is_nested_too_deep_is_damaged(models: dict[str, Model]) -> None:
    with pytest.raises(StateError, match="damaged"):
        models["torch"].stream_encoder().load_state(save({}, {"codec": "[" * 100_000}))


# event loops


async def later(chunks: Sequence[Any]) -> AsyncIterator[Any]:
    for chunk in chunks:
        await asyncio.sleep(0)
        yield chunk


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_streams_of_an_event_loop_give_the_same(models: dict[str, Model], speech: Array, kind: str) -> None:
    model, audio = models[kind], speech[16000:22000]
    chunks = pieces(audio, [0, 100, 150, 1000, 4000])

    async def run() -> tuple[list[Array], list[Array]]:
        codes = [part async for part in model.stream_encoder().stream(chunks)]  # a plain iterable
        speaker = model.stream_decoder().stream(model.stream_encoder().stream(later(chunks)))  # one into the other
        return codes, [part async for part in speaker]

    codes, heard = asyncio.run(run())
    assert all(part.size for part in (*codes, *heard))
    assert np.array_equal(np.concatenate(codes, 1), unbroken(model.stream_encoder(), audio))
    assert np.array_equal(np.concatenate(heard), unbroken(model.stream_decoder(), np.concatenate(codes, 1)))


def test_the_event_loop_is_free_while_a_step_runs(models: dict[str, Model], speech: Array) -> None:
    """Two streams and a clock share the loop; each stream's result is its own."""
    model = models["torch"]

    async def collect(audio: Array) -> Array:
        return np.concatenate([part async for part in model.stream_encoder().stream(pieces(audio, [500, 1000]))], 1)

    async def run() -> tuple[Array, Array, int]:
        ticks = 0
        work = asyncio.gather(collect(speech[:8000]), collect(speech[16000:24000]))
        while not work.done():
            await asyncio.sleep(0.001)
            ticks += 1
        one, other = await work
        return one, other, ticks

    one, other, ticks = asyncio.run(run())
    assert ticks > 1
    assert np.array_equal(one, unbroken(model.stream_encoder(), speech[:8000]))
    assert np.array_equal(other, unbroken(model.stream_encoder(), speech[16000:24000]))


def test_an_error_in_a_stream_reaches_who_waits_for_it(models: dict[str, Model]) -> None:
    async def run() -> None:
        async for _ in models["torch"].stream_decoder().stream([np.zeros((3, 1), np.int64)]):
            pass

    with pytest.raises(CodesError, match="3 codebooks"):
        asyncio.run(run())
