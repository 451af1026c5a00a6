"""codec.api: shapes, lengths, kinds of arrays, choice of codebooks, which model made them."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

import codec
from codec.api import Model, check_same_model, load
from codec.audio import resample, resampled_length
from codec.config import replace
from codec.engine.onnx_engine import Graph
from codec.errors import AudioError, CodesError, CodesFileError, ModelError
from codec.hub import EMBEDDED
from codec.modelfolder import GRAPHS, WEIGHTS, checksum, read_model
from codec.rate import choose_codebooks

Speech = npt.NDArray[np.float32]

GRAPH = EMBEDDED / "default_16k" / GRAPHS[0]
LENGTHS = [1, 2, 319, 320, 321, 479, 480, 481, 641, 1009, 20483]


# shapes, kinds and lengths


@pytest.mark.parametrize("mode", ["block", "frame"])
@pytest.mark.parametrize("n_samples", LENGTHS)
def test_decoding_keeps_the_number_of_samples(tiny: Model, speech: Speech, n_samples: int, mode: str) -> None:
    codes = tiny.encode(speech[:n_samples], mode=mode)
    assert codes.data.shape == (4, -(-(n_samples + tiny.info.delay) // 320))
    assert codes.data.dtype == np.int64
    assert codes.n_samples == n_samples
    audio = tiny.decode(codes)
    assert audio.shape == (n_samples,)
    assert audio.dtype == np.float32
    assert np.isfinite(audio).all()


@pytest.mark.parametrize("shape", [(5000,), (1, 5000), (2, 5000)])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_decoding_gives_the_shape_and_kind_that_was_encoded(
    tiny: Model, speech: Speech, shape: tuple[int, ...], kind: str
) -> None:
    audio: Any = speech[: int(np.prod(shape))].reshape(shape)
    given = torch.from_numpy(audio) if kind == "torch" else audio
    codes = tiny.encode(given)
    assert codes.data.shape == (*shape[:-1], 4, 18)
    decoded = tiny.decode(codes)
    assert type(codes.data) is type(decoded) is type(given)
    assert tuple(decoded.shape) == shape
    assert np.array_equal(np.asarray(codes.data), tiny.encode(audio).data)


def test_each_kept_channel_is_coded_as_if_alone(tiny: Model, speech: Speech) -> None:
    audio = speech[:12000].reshape(2, 6000)
    codes = tiny.encode(audio)
    for row, channel in zip(codes.data, audio, strict=True):
        assert np.array_equal(row, tiny.encode(channel).data)


def test_mixing_gives_the_codes_of_the_mean_of_the_channels(tiny: Model, speech: Speech) -> None:
    audio = speech[:12000].reshape(2, 6000)
    mixed = tiny.encode(audio, channels="mix")
    assert np.array_equal(mixed.data, tiny.encode(audio.mean(0)).data)


@pytest.mark.parametrize("mode", ["block", "frame"])
def test_every_row_of_a_batch_gives_exactly_what_it_gives_alone(tiny: Model, speech: Speech, mode: str) -> None:
    batch = speech[: 3 * 2 * 4000].reshape(3, 2, 4000)
    lengths = [4000, 1, 2503]
    together = tiny.encode(batch, lengths=lengths, mode=mode)
    decoded = tiny.decode(together)
    assert decoded.shape == batch.shape
    for i, (row, length) in enumerate(zip(batch, lengths, strict=True)):
        alone = tiny.encode(row[:, :length], mode=mode)
        assert together[i].n_samples == length
        assert np.array_equal(together[i].data, alone.data)
        assert np.array_equal(decoded[i, :, :length], tiny.decode(alone))
        assert not decoded[i, :, length:].any()


def test_a_batch_of_torch_tensors_comes_back_as_one_tensor(tiny: Model, speech: Speech) -> None:
    batch = torch.from_numpy(speech[:8000].reshape(2, 1, 4000))
    decoded = tiny.decode(tiny.encode(batch))
    assert isinstance(decoded, torch.Tensor)
    assert decoded.shape == batch.shape


def test_other_float_types_and_lists_are_taken(tiny: Model, speech: Speech) -> None:
    wanted = tiny.encode(speech[:3000]).data
    assert np.array_equal(tiny.encode(speech[:3000].astype(np.float64)).data, wanted)
    assert np.array_equal(tiny.encode(speech[:3000].tolist()).data, wanted)
    tensor = torch.from_numpy(speech[:3000]).to(torch.bfloat16)
    assert np.array_equal(tiny.encode(tensor).data, tiny.encode(tensor.float()).data)


def test_a_tensor_with_a_gradient_is_taken(tiny: Model, speech: Speech) -> None:
    tensor = torch.from_numpy(speech[:3000].copy()).requires_grad_()
    assert tiny.encode(tensor).n_samples == 3000


@pytest.mark.parametrize("rate", [8000, 22050, 48000])
def test_audio_of_another_rate_is_resampled_both_ways(tiny: Model, speech: Speech, rate: int) -> None:
    audio = resample(speech[:9001], 16000, rate)
    codes = tiny.encode(audio, rate)
    assert codes.n_samples == resampled_length(len(audio), rate, 16000)
    assert np.array_equal(codes.data, tiny.encode(resample(audio, rate, 16000)).data)
    decoded = tiny.decode(codes, rate)
    assert len(decoded) == resampled_length(codes.n_samples, 16000, rate)
    assert np.array_equal(decoded, resample(tiny.decode(codes), 16000, rate))


def test_threads_share_a_model_and_processes_load_their_own(embedded: Model, speech: Speech) -> None:
    alone = embedded.encode(speech[:4000]).data
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda _: embedded.encode(speech[:4000]).data, range(8)))
    assert all(np.array_equal(codes, alone) for codes in together)
    with pytest.raises(ModelError, match=r"call codec\.load in each process"):
        pickle.dumps(embedded)


def test_threads_that_come_first_open_a_graph_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def open_slowly(*args: Any, **options: Any) -> Any:
        opened.append(args)
        time.sleep(0.05)
        return session(*args, **options)

    session = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", open_slowly)
    graph = Graph(GRAPH, read_model(GRAPH.parent).info.weights_hash)
    with ThreadPoolExecutor(4) as pool:
        states = list(pool.map(graph.init_state, range(1, 5)))
    assert [state[0].shape[0] for state in states] == [1, 2, 3, 4]
    assert len(opened) == 1


def test_a_graph_of_other_weights_is_refused_each_time() -> None:
    graph = Graph(GRAPH, "00" * 32)
    for _ in range(2):
        with pytest.raises(ModelError, match="made for weights"):
            graph.init_state(1)


# codebooks


@pytest.mark.parametrize(("bitrate", "codebooks"), [(500, 2), (999, 2), (1000, 4), (64000, 4)])
def test_a_bitrate_chooses_the_most_codebooks_that_fit(
    tiny: Model, speech: Speech, bitrate: float, codebooks: int
) -> None:
    codes = tiny.encode(speech[:3000], bitrate=bitrate)
    assert codes.codebooks == codebooks
    assert codes.bitrate <= bitrate
    assert np.array_equal(codes.data, tiny.encode(speech[:3000]).data[:codebooks])


def test_fewer_codebooks_decode_to_other_audio_of_the_same_length(tiny: Model, speech: Speech) -> None:
    few, all_of_them = (tiny.decode(tiny.encode(speech[:8000], codebooks=count)) for count in (2, 4))
    assert few.shape == all_of_them.shape
    assert not np.array_equal(few, all_of_them)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"codebooks": 3}, "codebooks=3: tiny has 2, 4"),
        ({"codebooks": 0}, "codebooks=0"),
        ({"bitrate": 400.0}, "bitrate=400: tiny has 500, 1000 bit/s"),
        ({"bitrate": float("nan")}, "bitrate=nan"),
        ({"bitrate": "2k"}, "bitrate='2k': give bits per second as a number"),
        ({"bitrate": 500.0, "codebooks": 2}, "give one of them"),
        ({"mode": "chunk"}, "use block or frame"),
    ],
)
def test_a_choice_that_the_model_does_not_have_is_refused(tiny: Model, options: dict[str, Any], text: str) -> None:
    with pytest.raises(CodesError, match=text):
        tiny.encode(np.zeros(100, np.float32), **options)


# audio that is refused


BAD_AUDIO: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "integers": (lambda: np.zeros(100, np.int16), {}, "type int16.*divide 16-bit samples by 32768"),
    "integer tensor": (lambda: torch.zeros(100, dtype=torch.int16), {}, "divide 16-bit samples"),
    "complex": (lambda: np.zeros(100, np.complex64), {}, "type complex64"),
    "a file's name": (lambda: "speech.wav", {}, "audio: type str, expected an array .* codec.read_audio"),
    "samples first": (lambda: np.zeros((100, 2), np.float32), {}, "100 channels, at most 64; .*transpose"),
    "ragged": (lambda: [[0.0], [0.0, 1.0]], {}, "not an array of numbers"),
    "no samples": (lambda: np.zeros(0, np.float32), {}, "no samples"),
    "no channels": (lambda: np.zeros((0, 100), np.float32), {}, "no samples"),
    "no items": (lambda: np.zeros((0, 1, 100), np.float32), {}, "no samples"),
    "number": (lambda: 0.5, {}, r"shape \(\).*expected \(samples,\)"),
    "rank 4": (lambda: np.zeros((1, 1, 1, 9), np.float32), {}, "expected"),
    "NaN": (lambda: np.array([0, 0, np.nan], np.float32), {}, "audio: sample 2 is NaN"),
    "NaN at another rate": (lambda: np.array([0, np.nan, 0], np.float32), {"sample_rate": 44100}, "sample 1 is NaN"),
    "infinite": (lambda: np.array([0, np.inf], np.float32), {}, "sample 1"),
    "beyond float32": (lambda: np.array([1e300]), {}, "sample 0"),
    "NaN in an item": (lambda: np.array([[[0.0]], [[np.nan]]]), {}, "item 1: sample 0"),
    "rate 0": (lambda: np.zeros(9, np.float32), {"sample_rate": 0}, "sample_rate=0"),
    "rate 7999": (lambda: np.zeros(9, np.float32), {"sample_rate": 7999}, "from 8000"),
    "rate of text": (lambda: np.zeros(9, np.float32), {"sample_rate": "16000"}, "sample_rate='16000': use whole Hz"),
    "rate not whole": (lambda: np.zeros(9, np.float32), {"sample_rate": 16000.5}, "whole Hz"),
    "channels": (lambda: np.zeros(9, np.float32), {"channels": "left"}, "use keep or mix"),
    "lengths of one": (lambda: np.zeros(9, np.float32), {"lengths": [9]}, "go with a batch"),
    "lengths too many": (lambda: np.zeros((1, 1, 9), np.float32), {"lengths": [9, 9]}, "expected 1 whole numbers"),
    "length too long": (lambda: np.zeros((1, 1, 9), np.float32), {"lengths": [10]}, "between 1 and 9"),
    "length not whole": (lambda: np.zeros((1, 1, 9), np.float32), {"lengths": [8.5]}, "whole numbers between 1 and 9"),
    "length 0": (lambda: np.zeros((1, 1, 9), np.float32), {"lengths": [0]}, "between 1 and 9"),
}


@pytest.mark.parametrize("case", BAD_AUDIO)
def test_audio_that_cannot_be_coded_is_refused_in_one_clear_line(tiny: Model, case: str) -> None:
    make, options, text = BAD_AUDIO[case]
    with pytest.raises(AudioError, match=text) as caught:
        tiny.encode(make(), **options)
    assert "\n" not in str(caught.value)


# codes from outside, and files


def test_codes_made_elsewhere_decode_like_those_of_encode(tiny: Model, speech: Speech) -> None:
    codes = tiny.encode(speech[:5000])
    again = tiny.codes(codes.data.tolist(), codes.n_samples)
    assert np.array_equal(tiny.decode(again), tiny.decode(codes))
    assert tiny.codes(codes.data).n_samples == codes.n_frames * 320 - tiny.info.delay
    assert isinstance(tiny.decode(tiny.codes(torch.from_numpy(codes.data))), torch.Tensor)


@pytest.mark.parametrize(
    ("data", "n_samples", "text"),
    [
        ([[0.5]] * 4, None, "type float64, expected integers"),
        ([[0], [0], [0]], None, "3 codebooks: tiny decodes 2, 4"),
        ([[0], [0], [0], [32]], None, "code 32 at codebook 3, frame 0"),
        ([[0], [-1]], None, "code -1 at codebook 1"),
        ([0, 1], None, "expected"),
        ([[0, 0], [0, 0]], 161, "2 frames carry 0 to 160 samples"),
        ([[0, 0], [0, 0]], -1, "n_samples=-1"),
        ([[0, 0], [0, 0]], 10.5, r"n_samples=10\.5"),
        (np.array([[0]] * 3 + [[2**64 - 1]], np.uint64), None, "at codebook 3"),
    ],
)
def test_codes_that_the_model_cannot_decode_are_refused(tiny: Model, data: Any, n_samples: Any, text: str) -> None:
    with pytest.raises(CodesError, match=text):
        tiny.codes(data, n_samples)


def test_a_prefix_is_what_fewer_codebooks_would_have_given(tiny: Model, speech: Speech) -> None:
    codes = tiny.encode(speech[:5000])
    few = codes.prefix(2)
    assert np.array_equal(few.data, tiny.encode(speech[:5000], codebooks=2).data)
    assert (few.codebooks, few.bitrate, few.n_samples) == (2, 500.0, 5000)
    assert np.array_equal(tiny.decode(few), tiny.decode(tiny.encode(speech[:5000], codebooks=2)))
    assert np.array_equal(codes.prefix(4).data, codes.data)
    for count in (0, 5, 1.5):
        with pytest.raises(CodesError, match="these codes have 1 to 4 codebooks"):
            codes.prefix(count)  # type: ignore[arg-type]


def test_a_prefix_of_frames_that_differ_keeps_what_each_of_them_has_of_it(embedded: Model, speech: Speech) -> None:
    codes = embedded.encode(speech[:32000], bitrate=2000, variable=True)
    few = codes.prefix(4)
    assert few.frame_codebooks == (2, 4)
    assert np.array_equal(few.data, codes.data[:4])
    assert few.bitrate < codes.bitrate
    assert len(embedded.decode(few)) == 32000


def test_what_is_no_codes_object_is_refused_by_decode(tiny: Model) -> None:
    things: list[Any] = [np.zeros((4, 3), np.int64), [np.zeros((4, 3), np.int64)], "x.codes", None]
    for thing in things:
        with pytest.raises(CodesError, match=r"model\.codes\(array\)"):
            tiny.decode(thing)
    with pytest.raises(CodesError, match="empty list"):
        tiny.decode([])


def test_items_of_different_channels_do_not_become_one_batch(tiny: Model, speech: Speech) -> None:
    items = [tiny.encode(speech[:1000]), tiny.encode(speech[:2000].reshape(2, 1000))]
    with pytest.raises(CodesError, match="items of 1, 2 channels"):
        tiny.decode(items)


@pytest.mark.parametrize("shape", [(5000,), (2, 2500)])
@pytest.mark.parametrize("mode", ["block", "frame"])
def test_saved_codes_come_back_the_same(
    tiny: Model, speech: Speech, tmp_path: Path, shape: tuple[int, ...], mode: str
) -> None:
    codes = tiny.encode(speech[:5000].reshape(shape), codebooks=2, mode=mode)
    codes.save(tmp_path / "x.codes")
    opened = codec.open(tmp_path / "x.codes")
    assert np.array_equal(opened.data, codes.data)
    assert (opened.n_samples, opened.mode, opened.model.name, opened.warnings) == (shape[-1], mode, "tiny", ())
    assert (opened.bitrate, opened.duration) == (codes.bitrate, codes.duration)
    assert np.array_equal(tiny.decode(opened), tiny.decode(codes))


def test_codes_of_torch_tensors_are_saved_too(tiny: Model, speech: Speech, tmp_path: Path) -> None:
    codes = tiny.encode(torch.from_numpy(speech[:2000]))
    codes.save(tmp_path / "x.codes")
    assert np.array_equal(codec.open(tmp_path / "x.codes").data, codes.data.numpy())


def test_saving_refuses_an_existing_file_when_asked_to(tiny: Model, tmp_path: Path) -> None:
    target = tmp_path / "x.codes"
    target.write_bytes(b"old")
    with pytest.raises(CodesFileError, match="exists"):
        tiny.encode(np.zeros(100, np.float32)).save(target, overwrite=False)
    assert target.read_bytes() == b"old"


def test_a_missing_codes_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CodesFileError, match=r"x\.codes: cannot be read: no such file"):
        codec.open(tmp_path / "x.codes")


def test_codes_of_another_model_are_refused_by_name(tiny: Model, embedded: Model) -> None:
    codes = tiny.encode(np.zeros(1000, np.float32))
    with pytest.raises(ModelError, match=r"codes of tiny .*: this is default_16k"):
        embedded.decode(codes)


@pytest.mark.parametrize(
    "change",
    [
        {"weights_hash": "0" * 64},
        {"name": "other"},
        {"hop_length": 160},
        {"sample_rate": 8000},
        {"codebook_sizes": (32, 32, 32, 64)},
        {"divisors": (1, 1, 1, 2)},
    ],
)
def test_a_header_that_contradicts_the_model_is_refused(tiny: Model, change: dict[str, Any]) -> None:
    check_same_model(tiny.info, tiny.info)
    with pytest.raises(ModelError, match="codes of"):
        check_same_model(replace(tiny.info, **change), tiny.info)


# models


def test_info_says_what_the_model_is(tiny: Model, tiny_path: Path) -> None:
    info = tiny.info
    assert (info.name, info.sample_rate, info.frame_rate, info.licence) == ("tiny", 16000, 50.0, "CC0-1.0")
    assert (info.codebooks, info.codebook_size, info.bitrate) == (4, 32, 1000.0)
    assert info.latency == (320 + info.delay) / 16000
    assert info.weights_hash == checksum(tiny_path / WEIGHTS)
    assert set(info.parameters) == {"encoder", "bottleneck", "decoder"}
    weights = load_file(tiny_path / WEIGHTS)
    assert sum(info.parameters.values()) == sum(x.numel() for x in weights.values())


def test_the_embedded_model_is_the_default(embedded: Model) -> None:
    assert embedded.info.name == "default_16k"
    assert embedded.info.name in codec.list_models()
    assert embedded.info.bitrate == 4000.0
    assert choose_codebooks(embedded.info, bitrate=2000) == 4


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"name_or_path": "nosuchmodel"}, "nosuchmodel: no such model; give a model folder or one of .*default_16k"),
        ({"name_or_path": "."}, "not a model folder"),
        ({"engine": "tensorflow"}, "use auto or"),
        ({"device": "tpu"}, "use cpu, cuda or mps"),
        ({"device": "cpu:x"}, "use cpu, cuda or mps"),
        ({"device": "meta"}, "use cpu, cuda or mps"),
        ({"device": "cpu:7"}, "the last one of this machine is cpu:0"),
        ({"device": None}, "use cpu, cuda or mps"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_refused(options: dict[str, Any], text: str, tmp_path: Path) -> None:
    options = {key: str(tmp_path) if value == "." else value for key, value in options.items()}
    with pytest.raises(ModelError, match=text):
        load(**options)


def test_a_model_shows_itself_in_one_line(embedded: Model) -> None:
    assert repr(embedded) == "<codec.Model default_16k, 16000 Hz, 4000 bit/s, onnx>"
