"""EnCodec's checkpoints: its own network and ours give the same codes and the same audio."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import codec
from codec.convert.encodec import convert_encodec
from codec.convert.hf import convert_hf
from codec.convert.run import convert
from codec.errors import ModelError
from codec.export.folder import write_folder
from codec.golden import GOLDEN, codes_agreement, difference_db
from codec.network import Network
from codec.verify import verify_model

# The published packages' weight norm is of the old style.
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
SIZES = {"n_filters": 4, "ratios": [4, 3, 2, 2], "dimension": 16}
SIZES_48 = {"n_filters": 4, "ratios": [8, 5, 4, 2], "dimension": 8}
FIXTURES = Path(__file__).parent / "fixtures"


@torch.no_grad()
def fill(tables: list[Tensor], latent: Tensor) -> None:
    """Entries of the size of real latents (N, D) and of what each level leaves: a fresh EnCodec's are all zero."""
    generator = torch.Generator().manual_seed(0)
    for table in tables:
        rows = torch.randint(len(latent), (len(table),), generator=generator)
        table.copy_(latent[rows] + 0.5 * latent.std() * torch.randn(table.shape, generator=generator))
        latent = latent - table[torch.cdist(latent, table).argmin(1)]


def speech(seconds: float = 0.5) -> Tensor:
    """Speech at 24 kHz (as if), a multiple of the small model's hop of 48."""
    audio, _ = codec.read_audio(FIXTURES / "rhasspy_nathalie_03.flac")
    n = int(24000 * seconds) // 48 * 48
    return torch.from_numpy(audio[:1, 8000 : 8000 + n])[None]


@pytest.fixture
def original(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A small EnCodec of the authors' package; it imports torchaudio at its top and never needs it here."""
    if not all(importlib.util.find_spec(name) for name in ("encodec", "einops")):
        pytest.skip("the encodec package (extra dev) or its einops is not installed")
    monkeypatch.setitem(sys.modules, "torchaudio", types.ModuleType("torchaudio"))
    model = importlib.import_module("encodec.model")
    torch.manual_seed(0)
    encoder = model.m.SEANetEncoder(channels=1, norm="weight_norm", causal=True, **SIZES)
    decoder = model.m.SEANetDecoder(channels=1, norm="weight_norm", causal=True, **SIZES)
    quantizer = model.qt.ResidualVectorQuantizer(dimension=16, n_q=8, bins=64)
    network: nn.Module = model.EncodecModel(encoder, decoder, quantizer, [24.0], 24000, 1).eval()
    with torch.no_grad():
        latent = encoder(speech()).transpose(1, 2)[0]
    books = [layer._codebook for layer in quantizer.vq.layers]
    for book in books:
        book.inited.fill_(True)
    fill([book.embed for book in books], latent)
    return network


def test_the_authors_state_dict_gives_their_codes_and_their_audio(original: nn.Module, tmp_path: Path) -> None:
    torch.save(original.state_dict(), tmp_path / "encodec.th")
    converted = convert_encodec(tmp_path / "encodec.th")
    ours = Network(converted.config).eval()
    ours.load_state_dict(converted.weights)
    x = speech()
    with torch.no_grad():
        theirs = original.quantizer.encode(original.encoder(x), 24000 // 48, 1e9).transpose(0, 1)  # type: ignore[operator, union-attr]
        audio = original.decode([(theirs, None)])  # type: ignore[operator]
        codes = ours.bottleneck.encode(ours.encoder(x))
        audio_hat = ours.decoder(ours.bottleneck.decode(codes))
    assert len(theirs.unique()) > 32
    assert torch.equal(codes, theirs)
    assert float((audio - audio_hat).abs().max()) < 1e-4


def test_the_transformers_folder_gives_its_codes_and_its_audio(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra interop is not installed")
    torch.manual_seed(0)
    config = transformers.EncodecConfig(
        num_filters=4, upsampling_ratios=[4, 3, 2, 2], hidden_size=16, codebook_dim=16, codebook_size=64,
        target_bandwidths=[24.0],
    )  # fmt: skip
    model = transformers.EncodecModel(config).eval()
    x = speech()
    with torch.no_grad():
        latent = model.encoder(x).transpose(1, 2)[0]
    fill([layer.codebook.embed for layer in model.quantizer.layers], latent)
    model.save_pretrained(tmp_path / "hf")
    converted = convert_hf(tmp_path / "hf")
    ours = Network(converted.config).eval()
    ours.load_state_dict(converted.weights)
    with torch.no_grad():
        theirs = model.encode(x, bandwidth=24.0).audio_codes[0]
        audio = model.decode(theirs[None], [None])[0]
        codes = ours.bottleneck.encode(ours.encoder(x), theirs.shape[1])
        audio_hat = ours.decoder(ours.bottleneck.decode(codes))
    assert len(theirs.unique()) > 32
    assert torch.equal(codes, theirs)
    assert float((audio - audio_hat).abs().max()) < 1e-4


def check_streams(original: nn.Module, model: codec.Model, n_samples: int, mode: str) -> None:
    """Codes and audio of streams: equal for any chunking, and the authors' own of the whole signal."""
    x, n_frames = speech()[..., :n_samples], -(-n_samples // 48)
    with torch.no_grad():
        theirs = original.quantizer.encode(original.encoder(x), 24000 // 48, 1e9).transpose(0, 1)  # type: ignore[operator, union-attr]
        audio = original.decode([(theirs, None)])[0, 0].numpy()  # type: ignore[operator]
    generator = np.random.default_rng(n_samples)
    encoder, decoder, codes, heard = model.stream_encoder(mode=mode), model.stream_decoder(mode=mode), [], []
    for chunk in np.split(x[0, 0].numpy(), np.sort(generator.integers(0, n_samples + 1, 9))):
        codes.append(encoder.feed(chunk))
    codes.append(encoder.flush())
    found = np.concatenate(codes, 1)
    assert np.array_equal(found, model.encode(x[0, 0].numpy(), mode=mode).data)
    assert codes_agreement(theirs[0].numpy(), found) >= 0.999
    for chunk in np.split(theirs[0].numpy(), np.sort(generator.integers(0, n_frames + 1, 9)), 1):
        heard.append(decoder.feed(chunk))
    sound = np.concatenate([*heard, decoder.flush()])
    assert np.array_equal(sound, model.decode(model.codes(theirs[0].numpy(), mode=mode)))
    assert difference_db(audio, sound) >= 100


def test_streams_wait_for_the_mirror_image_and_give_the_authors_codes_and_audio(
    original: nn.Module, tmp_path: Path
) -> None:
    """In either mode; a signal shorter than the image, of which no stream is ever sure, too."""
    torch.save(original.state_dict(), tmp_path / "encodec.th")
    converted = convert_encodec(tmp_path / "encodec.th")
    write_folder(tmp_path / "small", "small", converted.config, converted.weights, licence="", half=False)
    model = codec.load(tmp_path / "small")
    assert (model.info.encoder_start, model.info.decoder_start, model.info.latency) == (7, 7, 7 * 48 / 24000)
    for n_frames, mode in ((1, "block"), (6, "frame"), (7, "frame"), (20, "frame"), (70, "block")):
        check_streams(original, model, 48 * n_frames, mode)


def test_a_last_frame_that_is_not_whole_is_the_authors_too(original: nn.Module, tmp_path: Path) -> None:
    """Each strided convolution mirrors what it has: lengths of every rest, some shorter than the image."""
    torch.save(original.state_dict(), tmp_path / "encodec.th")
    converted = convert_encodec(tmp_path / "encodec.th")
    write_folder(tmp_path / "small", "small", converted.config, converted.weights, licence="", half=False)
    model = codec.load(tmp_path / "small")
    assert model.info.ragged
    rests = (1, 10, 37, 47)
    for i, rest in enumerate(rests):
        check_streams(original, model, 48 * (3 * i) + rest, ("frame", "block")[i % 2])
    x = [speech()[0, 0, : 48 * 7 + rest].numpy() for rest in rests]
    rows = model.stream_encoders(rows=len(x))
    parts = [rows.feed(dict(enumerate(x))), rows.flush(range(len(x)))]
    for i, one in enumerate(x):
        assert np.array_equal(np.concatenate([part[i] for part in parts], 1), model.encode(one, mode="frame").data)


@pytest.mark.slow
def test_convert_writes_a_folder_with_graphs_and_golden_vectors(original: nn.Module, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra export is not installed")
    torch.save(original.state_dict(), tmp_path / "encodec.th")
    lines: list[str] = []
    folder = convert(tmp_path / "encodec.th", tmp_path / "small", "encodec", lines.append)
    assert folder.has_graphs
    assert (folder.path / GOLDEN).is_file()
    assert "codes agree on" in lines[-1]
    model = codec.load(folder.path)
    assert model.engine.name == "onnx"
    assert model.decode(model.encode(speech()[0, 0].numpy())).shape == (12000,)
    for n_samples in (1, 47, 144, 336, 337, 350, 1000, 11999, 12000):
        check_streams(original, model, n_samples, "frame")
    with pytest.raises(ModelError, match="something lies there"):
        convert(tmp_path / "encodec.th", tmp_path / "small", "encodec", lines.append)


def test_convert_without_graphs_runs_what_it_wrote_and_refuses_a_folder_in_use(
    original: nn.Module, tmp_path: Path
) -> None:
    torch.save(original.state_dict(), tmp_path / "encodec.th")
    lines: list[str] = []
    folder = convert(tmp_path / "encodec.th", tmp_path / "small", "encodec", lines.append, graphs=False)
    assert not folder.has_graphs
    assert lines[-1].startswith("forward: 2 s of noise to 1000 frames of 8 codes")
    assert folder.info.licence == "CC-BY-NC-4.0"
    with pytest.raises(ModelError, match="something lies there"):
        convert(tmp_path / "encodec.th", tmp_path / "small", "encodec", lines.append)
    broken = {key: x * float("nan") if key.startswith("decoder") else x for key, x in original.state_dict().items()}
    torch.save(broken, tmp_path / "encodec.th")
    with pytest.raises(ModelError, match=r"broken: the converted model gives no audio"):
        convert(tmp_path / "encodec.th", tmp_path / "broken", "encodec", lines.append, graphs=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encodec.th", "small"]
    (tmp_path / "config.json").write_text('{"model_type": "x"}')
    with pytest.raises(ModelError, match=r"model_type 'x' has no converter"):
        convert_hf(tmp_path)


def test_keys_that_nothing_maps_and_keys_that_are_missing_are_errors(original: nn.Module, tmp_path: Path) -> None:
    state = dict(original.state_dict())
    torch.save(state | {"extra.weight": torch.zeros(1)}, tmp_path / "more.th")
    with pytest.raises(ModelError, match=r"extra\.weight has no place here"):
        convert_encodec(tmp_path / "more.th")
    del state["decoder.model.15.conv.conv.bias"]
    torch.save(state, tmp_path / "less.th")
    with pytest.raises(ModelError, match=r"no decoder.model.15.conv.conv.bias \(1 keys missing\)"):
        convert_encodec(tmp_path / "less.th")


def stereo(n_samples: int) -> Tensor:
    """Two recordings side by side, (1, 2, T) at 48 kHz (as if)."""
    clips = [codec.read_audio(FIXTURES / name)[0][0] for name in ("rhasspy_nathalie_03.flac", "talk.flac")]
    return torch.from_numpy(np.stack([np.resize(np.roll(clip, -9000), n_samples) for clip in clips]))[None]


@torch.no_grad()
def fill_normed(parameters: Iterator[tuple[str, nn.Parameter]], tables: list[Tensor], encoder: nn.Module) -> None:
    """As `fill`, of a network with norms, whose fresh weights are all one: those too."""
    for name, x in parameters:
        if ".norm." in name:
            x.add_(torch.randn(x.shape), alpha=0.2)
    audio = stereo(48000)
    fill(tables, encoder(audio / audio.mean(1).square().mean().sqrt()).transpose(1, 2)[0])


@pytest.fixture
def original_48(original: nn.Module) -> nn.Module:
    """A small one of the authors' models at 48 kHz, with the published strides and segments."""
    model = importlib.import_module("encodec.model")
    sizes = {"channels": 2, "norm": "time_group_norm", "causal": False, **SIZES_48}
    quantizer = model.qt.ResidualVectorQuantizer(dimension=8, n_q=4, bins=64)
    parts = model.m.SEANetEncoder(**sizes), model.m.SEANetDecoder(**sizes), quantizer
    network: nn.Module = model.EncodecModel(*parts, [24.0], 48000, 2, normalize=True, segment=1.0).eval()
    books = [layer._codebook for layer in quantizer.vq.layers]
    for book in books:
        book.inited.fill_(True)
    fill_normed(network.named_parameters(), [book.embed for book in books], parts[0])
    return network


def flat(segments: Sequence[Tensor]) -> Tensor:
    """Codes (1, Q, f) of each segment as ours: a frame that one lacks before another is its last again."""
    whole = [nn.functional.pad(codes.float(), (0, 150 - codes.shape[-1]), mode="replicate") for codes in segments[:-1]]
    return torch.cat((*whole, segments[-1].float()), -1)[0].long()


@torch.no_grad()
def run_original(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (Q, F) and audio (2, T) of the authors' model.

    Its overlap-add fails where the last segment is a frame long and ends within the one before: silence goes behind it.
    """
    segments, n_samples = network.encode(x), x.shape[-1]  # type: ignore[operator]
    parts = [network._decode_frame(segment) for segment in segments]  # type: ignore[operator]
    parts[-1] = nn.functional.pad(parts[-1], (0, max(0, 480 - parts[-1].shape[-1])))
    audio = importlib.import_module("encodec.model")._linear_overlap_add(parts, 47520)[0, :, :n_samples]
    if n_samples > 47520 and 160 < n_samples % 47520 <= 320:
        with pytest.raises(RuntimeError):
            network.decode(segments)  # type: ignore[operator]
    else:
        assert torch.allclose(audio, network.decode(segments)[0, :, :n_samples], atol=1e-6)  # type: ignore[operator]
    return flat([codes for codes, _ in segments]), audio


# One sample; a frame and one; a last frame of the first segment that is not there, its next one of a sample; where the
# authors' overlap-add fails; then their neighbours, whole seconds, and the same of a second segment.
LENGTHS = (1, 321, 47521, 47681)
MORE_LENGTHS = (
    2,
    319,
    320,
    20000,
    47519,
    47520,
    47680,
    47840,
    47841,
    47999,
    48000,
    48001,
    95040,
    95041,
    95200,
    95201,
    96000,
)


def test_the_model_at_48_khz_gives_the_authors_codes_and_audio(original_48: nn.Module, tmp_path: Path) -> None:
    """Stereo in overlapping seconds, of any length; mono goes into both channels."""
    torch.save(original_48.state_dict(), tmp_path / "encodec_48khz.th")
    lines: list[str] = []
    folder = convert(tmp_path / "encodec_48khz.th", tmp_path / "both", "encodec", lines.append, graphs=False)
    assert lines[-1] == "forward: 2 s of noise to 303 frames of 6 codes and back"
    assert (folder.info.sample_rate, folder.info.audio_channels, folder.info.latency) == (48000, 2, 1.0)
    assert (folder.info.prefixes, folder.info.codebook_size) == ((3, 4, 5, 6), 64)
    model = codec.load(tmp_path / "both")
    for n_samples in LENGTHS:
        check_original(original_48, model, stereo(n_samples))
    left = stereo(5000)[:, :1]
    check_original(original_48, model, left.expand(1, 2, -1))
    assert np.array_equal(model.encode(left[0, 0].numpy()).data, model.encode(left[0].expand(2, -1).numpy()).data)


def check_original(network: nn.Module, model: codec.Model, x: Tensor) -> None:
    theirs, audio = run_original(network, x)
    codes = model.encode(x[0].numpy())
    assert np.array_equal(codes.data[2:], theirs), x.shape
    assert float((torch.from_numpy(model.decode(codes)) - audio).abs().max()) < 1e-5, x.shape
    if x.shape[-1] > 40000:
        assert len(np.unique(theirs)) > 32


def test_the_transformers_folder_of_the_model_at_48_khz_gives_the_same(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra interop is not installed")
    torch.manual_seed(0)
    config = transformers.EncodecConfig(
        num_filters=4, upsampling_ratios=[8, 5, 4, 2], hidden_size=8, codebook_dim=8, codebook_size=64,
        target_bandwidths=[3.6], audio_channels=2, normalize=True, chunk_length_s=1.0, overlap=0.01,
        norm_type="time_group_norm", use_causal_conv=False, sampling_rate=48000,
    )  # fmt: skip
    network = transformers.EncodecModel(config).eval()
    tables = [layer.codebook.embed for layer in network.quantizer.layers]
    fill_normed(network.named_parameters(), tables, network.encoder)
    network.save_pretrained(tmp_path / "hf")
    converted = convert_hf(tmp_path / "hf")
    write_folder(tmp_path / "both", "both", converted.config, converted.weights, licence="", half=False)
    model = codec.load(tmp_path / "both")
    for n_samples in (5000, 48000):
        x = stereo(n_samples)
        with torch.no_grad():
            segments, loudness, lack = network.encode(x, return_dict=False)
            audio = network.decode(segments, loudness, last_frame_pad_length=lack)[0][0, :, :n_samples]
        codes = model.encode(x[0].numpy())
        assert np.array_equal(codes.data[2:], flat(list(segments))[:, : codes.n_frames])
        assert float((torch.from_numpy(model.decode(codes)) - audio).abs().max()) < 1e-5


@pytest.mark.slow
def test_convert_writes_graphs_of_the_model_at_48_khz_and_they_agree(original_48: nn.Module, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra export is not installed")
    torch.save(original_48.state_dict(), tmp_path / "encodec_48khz.th")
    lines: list[str] = []
    convert(tmp_path / "encodec_48khz.th", tmp_path / "both", "encodec", lines.append)
    assert "codes agree on" in lines[-1]
    for engine in ("onnx", "torch"):
        model = codec.load(tmp_path / "both", engine=engine)
        for n_samples in LENGTHS + MORE_LENGTHS:
            check_original(original_48, model, stereo(n_samples))
    report = verify_model(tmp_path / "both")
    assert report.passed, report.misses


@pytest.mark.slow
def test_the_published_shape_of_the_model_at_48_khz_gives_its_codes_and_audio(
    original_48: nn.Module, tmp_path: Path
) -> None:
    """`EncodecModel.encodec_model_48khz`, with random weights: 16 codebooks of 1024.

    Of equal latents its search may choose otherwise where two entries are equally near up to rounding, as happens deep
    down among random ones; what that leaves over then differs too.
    """
    network = importlib.import_module("encodec.model").EncodecModel.encodec_model_48khz(pretrained=False)
    books = [layer._codebook for layer in network.quantizer.vq.layers]
    for book in books:
        book.inited.fill_(True)
    fill_normed(network.named_parameters(), [book.embed for book in books], network.encoder)
    torch.save(network.state_dict(), tmp_path / "encodec_48khz.th")
    converted = convert_encodec(tmp_path / "encodec_48khz.th")
    folder = write_folder(tmp_path / "both", "both", converted.config, converted.weights, licence="", half=False)
    assert folder.info.codebook_sizes == (65536, 65536, *[1024] * 16)
    assert sum(folder.info.parameters.values()) == sum(x.numel() for x in converted.weights.values())
    model = codec.load(tmp_path / "both")
    for n_samples in (5000, 60000):
        x = stereo(n_samples)
        theirs, audio = run_original(network, x)
        codes = model.encode(x[0].numpy())
        assert codes_agreement(theirs[:8].numpy(), codes.data[2:10]) >= 0.999
        assert codes_agreement(theirs.numpy(), codes.data[2:]) >= 0.99
        same = model.codes(np.concatenate((codes.data[:2], theirs)), n_samples)
        assert float((torch.from_numpy(model.decode(same)) - audio).abs().max()) < 1e-4


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"model": Path("x")}, tmp_path / "code.th")
    with pytest.raises(ModelError, match="not tensors and plain data alone"):
        convert_encodec(tmp_path / "code.th")
    (tmp_path / "junk.th").write_bytes(b"junk")
    with pytest.raises(ModelError, match=r"junk\.th"):
        convert_encodec(tmp_path / "junk.th")
