"""Models that look ahead stream in windows, those that mirror their beginning wait for it: as the whole at once."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codec.api import Model, load
from codec.config import ModelConfig, Part
from codec.engine.torch_engine import TorchEngine
from codec.errors import ConfigError, ModelError, StateError
from codec.export.folder import write_folder
from codec.export.graphs import write_graphs
from codec.export.runtime import compare
from codec.network import Network
from codec.stream.window import Reach, Window, windows
from codec.transcode import DecodeOptions, EncodeOptions, decode_file, encode_file

Array = npt.NDArray[Any]
LAW = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
HOP = 40
SIZES = {"n_filters": 4, "strides": [2, 4, 5], "n_recurrent": 0, "causal": False}
CAUSAL = SIZES | {"causal": True}
MIRROR = CAUSAL | {"padding": "mirror", "n_recurrent": 1}
# name -> encoder and decoder: both look ahead, one of them, or one that sees the whole signal
PARTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "both": (SIZES, SIZES),
    "encoder": (SIZES | {"norm": "layer"}, CAUSAL),
    "decoder": (CAUSAL, SIZES),
    "mirror": (MIRROR, MIRROR),
    "ragged": (MIRROR | {"ragged": True}, MIRROR),
    "ragged ahead": (SIZES | {"padding": "mirror", "ragged": True}, SIZES),
    "mirror at the end": (CAUSAL, MIRROR | {"kernel_size": 9}),
    "time norm": (SIZES | {"norm": "time"}, SIZES),
    "recurrent": (CAUSAL, SIZES | {"n_recurrent": 1}),
}
AHEAD = ["both", "encoder", "decoder", "ragged ahead", "onnx"]
STARTS = {"mirror": 7, "mirror at the end": 9, "ragged": 7, "ragged, onnx": 7}  # frames of the first step
STREAMING = [*AHEAD, *STARTS]
MODES = ["frame", "block"]


def write(folder: Path, name: str) -> Path:
    """A model folder with random weights and biases: what inner edges make is not zero."""
    encoder, decoder = (Part("conv", options) for options in PARTS[name])
    bottleneck = Part("residual", {"codebook_size": 16, "n_codebooks": 2})
    config = ModelConfig(encoder, bottleneck, decoder, hop_length=HOP, latent_dim=8)
    with torch.random.fork_rng():
        torch.manual_seed(8)
        network = Network(config)
        for key, parameter in network.named_parameters():
            if key.endswith("bias"):
                parameter.data.normal_(std=0.2)
        with torch.no_grad():
            network.encoder.get_parameter("layers.0.conv.weight").mul_(30)  # or the biases say it all
            noise = torch.randn(1, 1, 51 * HOP + 7).unfold(-1, 48, 1).mean(-1)  # as low as a voice
            latent = network.encoder(0.5 * noise[..., : 50 * HOP])[0]
        for level, book in enumerate(network.bottleneck.codebooks):  # near the latents, or all codes would be one
            spread = torch.randn_like(book.embed) * latent.std(-1)
            book.embed.data.copy_(spread / 3 if level else latent.mean(-1) + spread)
    write_folder(folder, name.replace(" ", "-"), config, network.state_dict(), licence="CC0-1.0")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("windows")


@pytest.fixture(scope="module")
def models(folder: Path) -> dict[str, Model]:
    found = {name: load(write(folder / name, name), engine="torch") for name in PARTS}
    for name, parts in (("onnx", "both"), ("ragged, onnx", "ragged")):
        write_graphs(write(folder / name, parts))
        found[name] = load(folder / name, engine="onnx")
    return found


def pieces(array: Array, cuts: Sequence[int]) -> list[Array]:
    """Cut the last axis at some thousandths; equal ones give empty pieces."""
    size = array.shape[-1]
    edges = [0, *sorted(cut * size // 1000 for cut in cuts), size]
    return [array[..., a:b] for a, b in pairwise(edges)]


def stream(coder: Any, chunks: Sequence[Array]) -> Array:
    result: Array = np.concatenate([*(coder.feed(chunk) for chunk in chunks), coder.flush()], -1)
    return result


def whole_codes(model: Model, audio: Array) -> Array:
    """One pass of the engine over the whole signal, filled with zeros to whole frames where the encoder does not."""
    x = np.pad(audio, (0, 0 if model.info.ragged else -len(audio) % HOP))[None, None]
    engine = model.engine
    codes: Array = engine.encode_step(x, engine.init_encoder(1), 2)[0][0]
    return codes


def whole_audio(model: Model, codes: Array) -> Array:
    audio: Array = model.engine.decode_step(codes[None], model.engine.init_decoder(1))[0][0, 0]
    return audio


# laws, on real speech


@LAW
@given(
    name=st.sampled_from(STREAMING),
    mode=st.sampled_from(MODES),
    cuts=st.lists(st.integers(0, 1000), max_size=6),
    length=st.one_of(st.integers(1, 3000), st.sampled_from([1, HOP, 6 * HOP, 7 * HOP + 1, 128 * HOP, 129 * HOP])),
    save=st.booleans(),
)
def test_any_chunking_gives_the_codes_and_audio_of_the_whole_signal(
    models: dict[str, Model], speech: Array, name: str, mode: str, cuts: list[int], length: int, save: bool
) -> None:
    """Also saved and restored between chunks. Equal to `encode`; to one pass over all but for the order of sums."""
    model, audio = models[name], speech[16000:][: length if mode == "block" else length % 700 + 1]
    length = len(audio)

    def played(begin: Any, whole: Array) -> Array:
        coder, parts = begin(mode=mode), []
        for piece in pieces(whole, cuts):
            parts.append(coder.feed(piece))
            if save:
                data, coder = coder.state(), begin(mode=mode)
                coder.load_state(data)
        return np.concatenate([*parts, coder.flush()], -1)

    codes = played(model.stream_encoder, audio)
    assert codes.shape == (2, -(-length // HOP))
    assert np.array_equal(codes, model.encode(audio, mode=mode).data)
    assert np.count_nonzero(codes != whole_codes(model, audio)) <= 1 + codes.size // 1000  # a near-tie
    heard = played(model.stream_decoder, codes)
    assert np.array_equal(heard, model.decode(model.codes(codes, mode=mode)))
    np.testing.assert_allclose(heard, whole_audio(model, codes), atol=2e-5)


@pytest.mark.parametrize("name", ["both", "onnx"])
def test_the_codes_of_six_seconds_of_speech_are_those_of_the_plain_forward_pass(
    models: dict[str, Model], speech: Array, name: str
) -> None:
    whole = whole_codes(models[name], speech)
    assert np.mean(models[name].encode(speech).data == whole) >= 0.999
    assert all(len(np.unique(codes)) > 6 for codes in whole)


def test_the_windowed_network_is_torchs_own_forward(models: dict[str, Model], speech: Array) -> None:
    """With the inner zeros of a whole file, which an offset and zeros at the input would not give."""
    model, audio = models["both"], speech[16000:20000]
    assert isinstance(model.engine, TorchEngine)
    network = model.engine.network
    with torch.inference_mode():
        latent = network.encoder(torch.from_numpy(audio)[None, None])
        codes = network.bottleneck.encode(latent)
        wanted = network.decoder(network.bottleneck.decode(codes))[0, 0].numpy()
    assert np.array_equal(model.encode(audio).data, codes[0].numpy())
    np.testing.assert_allclose(model.decode(model.codes(codes[0].numpy())), wanted, atol=2e-5)


@LAW
@given(
    name=st.sampled_from(STREAMING),
    mode=st.sampled_from(MODES),
    lengths=st.lists(st.integers(0, 600), min_size=3, max_size=3),
)
def test_rows_are_streams_and_exchange_their_states_with_them(
    models: dict[str, Model], speech: Array, name: str, mode: str, lengths: list[int]
) -> None:
    model = models[name]
    rows = [speech[16000 + 3000 * i :][:length] for i, length in enumerate(lengths[:3])]
    encoders, decoders = model.stream_encoders(rows=3, mode=mode), model.stream_decoders(rows=3, mode=mode)
    first = encoders.feed({row: audio[: len(audio) // 2] for row, audio in enumerate(rows)})
    for row, audio in enumerate(rows):
        single = model.stream_encoder(mode=mode)
        single.load_state(encoders.state(row))
        codes = np.concatenate([first[row], stream(single, [audio[len(audio) // 2 :]])], -1)
        wanted = stream(model.stream_encoder(mode=mode), [audio])
        assert np.count_nonzero(codes != wanted) <= 1
        heard = np.concatenate([decoders.feed({row: wanted})[row], decoders.flush([row])[row]])
        np.testing.assert_allclose(heard, stream(model.stream_decoder(mode=mode), [wanted]), atol=2e-5)


# latency


@pytest.mark.parametrize("name", STARTS)
def test_the_latency_of_a_mirror_image_is_measured_by_an_impulse(
    models: dict[str, Model], speech: Array, name: str
) -> None:
    """The last input that changes the first sample is the one that the stream waits for; later frames wait for none."""
    model, n_first = models[name], STARTS[name] * HOP
    assert round(model.info.latency * model.info.sample_rate) == n_first
    engine = models[name.partition(",")[0]].engine
    assert isinstance(engine, TorchEngine)
    x = torch.from_numpy(speech[16000:20000].copy())[None, None].requires_grad_()
    engine.network.decoder(engine.network.encoder(x))[..., 0].square().sum().backward()
    assert x.grad is not None
    assert int(x.grad[0, 0].nonzero().max()) == n_first - 1
    encoder, decoder = model.stream_encoder(), model.stream_decoder()
    given = [len(decoder.feed(encoder.feed(speech[i : i + 1]))) for i in range(n_first + 2 * HOP)]
    wanted = np.zeros(n_first + 2 * HOP, int)
    wanted[[n_first - 1, n_first + HOP - 1, n_first + 2 * HOP - 1]] = [n_first, HOP, HOP]
    assert given == wanted.tolist()


@pytest.mark.parametrize("name", AHEAD)
def test_the_latency_is_measured_by_an_impulse(models: dict[str, Model], speech: Array, name: str) -> None:
    """The last input that changes a frame of audio lies as far behind it as `info` says, and audio is given then."""
    model = models[name]
    info, hop = model.info, HOP
    latency = round(info.latency * info.sample_rate)
    assert latency == hop + info.delay + (info.lookahead or 0)
    assert (info.lookahead or 0) > 0
    engine = models["both" if name == "onnx" else name].engine
    assert isinstance(engine, TorchEngine)
    # The codes hide small changes: the impulse goes through the latent, from audio to audio.
    x = torch.from_numpy(speech[16000:20000].copy())[None, None].requires_grad_()
    network, at = engine.network, 50 * hop
    network.decoder(network.encoder(x))[..., at : at + hop].square().sum().backward()
    assert x.grad is not None
    newest = int(x.grad[0, 0].nonzero().max())
    assert newest == at + latency - 1
    # And one sample after the other, nothing comes later than that.
    encoder, decoder = model.stream_encoder(), model.stream_decoder()
    n_given = len(decoder.feed(encoder.feed(speech[:2000])))
    for i in range(2000, 2000 + 2 * hop):
        n_given += len(decoder.feed(encoder.feed(speech[i : i + 1])))
        assert i + 1 - latency <= n_given <= i + 1 - latency + hop


# files


@pytest.mark.parametrize("name", ["both", "onnx", "time norm"])
def test_files_are_coded_and_a_section_is_that_part_of_the_whole(
    models: dict[str, Model], speech: Array, tmp_path: Path, name: str
) -> None:
    from codec.audio import read

    model = models[name]
    source = Path(__file__).parent / "fixtures" / "demo.flac"
    codes, target = tmp_path / "talk.codes", tmp_path / "talk.wav"
    encode_file(model, source, codes, EncodeOptions())
    decode_file(lambda header: model, codes, target, DecodeOptions())
    whole = read(target)[0][0]
    assert len(whole) == len(speech)
    assert np.abs(whole - model.decode(model.encode(speech))).max() <= 1 / 32768
    for start, end in ((1.0, 1.5), (0.0, 0.3), (3.001, len(speech) / 16000)):
        part = tmp_path / "part.wav"
        decode_file(lambda header: model, codes, part, DecodeOptions(start=start, end=end, overwrite=True))
        assert np.array_equal(read(part)[0][0], whole[round(start * 16000) : round(end * 16000)])


# refusals


@pytest.mark.parametrize(("name", "side"), [("time norm", "encoder"), ("recurrent", "decoder")])
def test_a_model_that_needs_the_whole_signal_does_not_stream_and_still_encodes(
    models: dict[str, Model], speech: Array, name: str, side: str
) -> None:
    model, audio = models[name], speech[16000:19000]
    for begin in (getattr(model, f"stream_{side}"), getattr(model, f"stream_{side}s")):
        with pytest.raises(ModelError, match=rf"its {side} does not stream: .* whole signal .*; use encode\(\)"):
            begin()
    codes = model.encode(audio)
    assert np.array_equal(codes.data, whole_codes(model, audio))
    np.testing.assert_allclose(model.decode(codes), whole_audio(model, codes.data)[:3000], atol=2e-5)
    assert model.info.latency == float("inf")


def test_a_wrong_reach_in_a_model_folder_is_refused(models: dict[str, Model], folder: Path) -> None:
    """A window too narrow, or a first step too short, would give other codes and no error."""
    import json

    for name, fact in (("both", "encoder_context"), ("mirror", "encoder_start")):
        path = write(folder / f"narrow {name}", name)
        file = path / "model.json"
        data = json.loads(file.read_text())
        data["info"][fact] -= 1
        file.write_text(json.dumps(data))
        with pytest.raises(ModelError, match=rf"{fact} is \d+, its network has \d+"):
            load(path, engine="torch")


def test_normalisation_over_time_is_refused_in_a_causal_network() -> None:
    part = Part("conv", {"norm": "time"})
    with pytest.raises(ConfigError, match="norm: time needs causal: false"):
        Network(ModelConfig(part, Part("vq", {}), Part("conv", {})))


def test_a_state_of_other_windows_is_refused(models: dict[str, Model], speech: Array) -> None:
    encoder = models["both"].stream_encoder()
    encoder.feed(speech[:999])
    with pytest.raises(StateError, match="engine 'torch', this stream has 'onnx'"):
        models["onnx"].stream_encoder().load_state(encoder.state())


# windows alone


@given(
    reach=st.builds(Reach, context=st.integers(0, 5), ahead=st.integers(0, 9), start=st.integers(1, 6)),
    step=st.integers(1, 4),
    n_frames=st.integers(0, 20),
    cuts=st.lists(st.integers(0, 60), max_size=5),
)
def test_windows_cover_each_frame_once_and_do_not_depend_on_when_the_signal_came(
    reach: Reach, step: int, n_frames: int, cuts: list[int]
) -> None:
    hop = 3
    found: list[Window] = []
    for known in [*sorted(cut for cut in cuts if cut <= n_frames * hop), n_frames * hop]:
        first = found[-1].stop if found else 0
        found += windows(reach, first=first, known=known, step=step, hop_length=hop, ended=False)
    first = found[-1].stop if found else 0
    found += windows(reach, first=first, known=n_frames * hop, step=step, hop_length=hop, ended=True)
    assert found == windows(reach, first=0, known=n_frames * hop, step=step, hop_length=hop, ended=True)
    first = reach.step(0, step)
    assert first >= reach.start
    assert first % step == 0
    assert [window.first for window in found] == [*range(min(n_frames, 1)), *range(first, n_frames, step)]
    for window in found:
        assert window.begin == max(0, window.first - reach.context)
        assert window.end == min(n_frames * hop, window.stop * hop + reach.ahead)


def test_the_graphs_of_a_model_that_looks_ahead_agree_with_torch(models: dict[str, Model], folder: Path) -> None:
    from codec.audio import read
    from codec.modelfolder import read_model

    audio = read(Path(__file__).parent / "fixtures" / "demo.flac")[0][0]
    agreement = compare(read_model(folder / "onnx"), audio[:32000])
    assert agreement.codes >= 0.999
    assert agreement.audio_db >= 60


def test_a_chunk_of_a_whole_signal_costs_what_it_holds_and_not_what_waits(models: dict[str, Model]) -> None:
    """Chunks that wait for the end were copied with each new one: an hour of 20 ms took a thousand times its memory."""
    encoder = models["time norm"].stream_encoder(whole=True)
    decoder = models["recurrent"].stream_decoder(whole=True)
    for coder, chunk in ((encoder, np.zeros(HOP, np.float32)), (decoder, np.zeros((2, 1), np.int64))):
        coder.feed(np.repeat(chunk, 4000, -1))
        for _ in range(3):
            coder.feed(chunk)
        tracemalloc.start()
        coder.feed(chunk)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < 20_000  # bytes; what waits has 640,000 and 64,000


def test_chunks_of_a_whole_signal_may_lie_in_one_buffer_and_a_copy_goes_its_own_way(
    models: dict[str, Model], speech: Array
) -> None:
    encoder, buffer = models["time norm"].stream_encoder(whole=True), np.zeros(500, np.float32)
    for i in range(3):
        buffer[:] = speech[16000 + 500 * i : 16500 + 500 * i]
        encoder.feed(buffer)
    twin = encoder.copy()
    encoder.feed(buffer)
    saved = twin.state()
    assert np.array_equal(twin.flush(), models["time norm"].encode(speech[16000:17500], mode="frame").data)
    again = models["time norm"].stream_encoder(whole=True)
    again.load_state(saved)
    again.feed(buffer)
    assert np.array_equal(again.flush(), encoder.flush())
