"""A vector beside the codes: a FACodec file decodes alone; what lacks or damages its vector is refused in one line."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import codec
from codec import codesfile
from codec.api import Model
from codec.audiowriter import write
from codec.codesfile.condition import SECTION, condition_bytes, condition_from, condition_of
from codec.codesfile.fields import crc_of
from codec.config import ModelConfig, Part
from codec.corpus.check import verify_tokens
from codec.corpus.plan import Settings, open_plan
from codec.corpus.rows import RunFacts
from codec.corpus.run import read_index, write_index
from codec.corpus.shard import Job, Work, make_shard
from codec.corpus.sinks import read_rows
from codec.errors import CodesError, CodesFileError, ConfigError, ModelError
from codec.export.folder import write_folder
from codec.lm.dataset import TokenDataset, collate
from codec.network import Network
from codec.quality.evaluate import measured_bitrate
from codec.transcode import DecodeOptions, EncodeOptions, decode_file, encode_file
from codec.verify import verify_codes_file, verify_model

DEMO = Path(__file__).parent / "fixtures" / "demo.flac"
N = 8  # numbers of the vector


def config_of(**bottleneck: int) -> ModelConfig:
    options = {"codebook_size": 8, "codebook_dim": 4, "n_passed": N} | bottleneck
    encoder = {"n_filters": 2, "strides": [8, 10], "n_layers": 1, "n_heads": 2, "hidden_dim": 8}
    return ModelConfig(
        Part("speaker", encoder),
        Part("attributes", options),
        Part("speaker", {"width": 8, "strides": [8, 10]}),
        hop_length=80,
        latent_dim=2 * N,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FACodec with few channels and random weights, its voices far apart."""
    config = config_of()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = Network(config)
        network.decoder.layers[0].style.weight.data.normal_()  # type: ignore[union-attr,index]
    path = tmp_path_factory.mktemp("models") / "facodec"
    write_folder(path, "facodec", config, network.state_dict(), licence="CC0-1.0")
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return codec.load(folder)


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    audio, _ = codec.read_audio(DEMO)
    return np.stack([audio[0, 8000:11000], audio[0, 16000:19000]])


def test_a_file_decodes_alone(model: Model, speech: np.ndarray, tmp_path: Path) -> None:
    """Clause 2.5: the vectors of both channels are in the header, and the audio is that of the codes at hand."""
    codes = model.encode(speech)
    assert model.info.condition == N
    assert codes.condition is not None
    assert codes.condition.shape == (2, N)
    assert np.abs(codes.condition[0] - codes.condition[1]).max() > 1e-4
    codes.save(tmp_path / "two.codes")
    again = codec.open(tmp_path / "two.codes")
    assert again.condition is not None
    assert np.array_equal(again.condition, codes.condition)
    audio = model.decode(again)
    assert np.array_equal(audio, model.decode(codes))
    other = dataclasses.replace(codes, condition=-codes.condition)
    assert np.abs(model.decode(other) - audio).max() > 1e-3 * np.abs(audio).max()  # the vector is heard
    with pytest.raises(CodesFileError, match=r"two\.codes: its condition stands for the recording as it is"):
        codesfile.append(tmp_path / "two.codes")
    one = model.encode(speech[0])
    assert one.condition is not None
    assert one.condition.shape == (N,)
    assert np.array_equal(one.condition, codes.condition[0])
    assert measured_bitrate(one) * one.duration == 3 * 6 * 38 + 32 * N


def test_a_stream_that_goes_on_elsewhere_has_no_condition_of_before(model: Model, speech: np.ndarray) -> None:
    encoder, other = (model.stream_encoder(whole=True) for _ in range(2))
    encoder.feed(speech[0])
    encoder.flush()
    assert encoder.condition is not None
    other.feed(speech[1])
    encoder.load_state(other.state())
    assert encoder.condition is None


def test_files_to_files(model: Model, folder: Path, tmp_path: Path, speech: np.ndarray) -> None:
    write(tmp_path / "in.wav", speech, 16000)
    for channels, n_rows in (("mix", 1), ("keep", 2)):
        options = EncodeOptions(channels=channels, overwrite=True)
        encode_file(model, tmp_path / "in.wav", tmp_path / "x.codes", options)
        header = codesfile.read(tmp_path / "x.codes").header
        found = condition_of(header.sections, header.channels)
        assert found is not None
        assert found.shape == (n_rows, N)
        decode_file(lambda _: model, tmp_path / "x.codes", tmp_path / "out.wav", DecodeOptions(overwrite=True))
        heard, _ = codec.read_audio(tmp_path / "out.wav")
        expected = np.atleast_2d(model.decode(codec.open(tmp_path / "x.codes")))
        assert np.abs(heard - expected).max() <= 1 / 32767
    report = verify_codes_file(tmp_path / "x.codes", model=str(folder))
    assert [check.name for check in report.checks if check.result == "pass"] == [
        "header",
        "blocks and trailer",
        "model",
        "decoding",
    ]


def test_codes_without_their_vector_are_refused(model: Model, folder: Path, speech: np.ndarray, tmp_path: Path) -> None:
    codes = model.encode(speech[0])
    with pytest.raises(CodesError, match="facodec: decodes with a condition of 8 numbers, and got none"):
        model.decode(dataclasses.replace(codes, condition=None))
    with pytest.raises(CodesError, match="got none"):
        model.codes(codes.data)
    dataclasses.replace(codes, condition=None).save(tmp_path / "bare.codes")
    with pytest.raises(CodesFileError, match=r"bare\.codes: facodec: decodes with a condition"):
        decode_file(lambda _: model, tmp_path / "bare.codes", tmp_path / "out.wav", DecodeOptions())
    assert not (tmp_path / "out.wav").exists()
    (row,) = verify_codes_file(tmp_path / "bare.codes", model=str(folder)).misses
    assert "got none" in row.measured
    for wrong, text in ((np.zeros(3), r"shape \(3,\), expected \(8,\)"), (np.full(N, np.nan), "not finite")):
        with pytest.raises(CodesError, match=text):
            model.codes(codes.data, condition=wrong)
    assert np.array_equal(model.decode(model.codes(codes.data, 3000, condition=codes.condition)), model.decode(codes))


def test_a_model_without_a_vector_takes_none(tiny: Model) -> None:
    codes = tiny.encode(np.zeros(3200, np.float32))
    assert codes.condition is None
    with pytest.raises(CodesError, match="takes no condition"):
        tiny.decode(dataclasses.replace(codes, condition=np.zeros(N, np.float32)))


@pytest.mark.parametrize(
    ("data", "channels", "text"),
    [(b"", 1, "no float32"), (bytes(6), 1, "no float32"), (bytes(4), 2, "no float32"), (b"\0\0\xc0\x7f", 1, "finite")],
)
def test_a_damaged_section_is_refused_at_writing_and_reading(data: bytes, channels: int, text: str) -> None:
    """Clause 2.5."""
    header = codesfile.Header("m", "00" * 16, "block", 8, 2, (5,), channels=channels, sections={"other": data})
    with pytest.raises(CodesError, match=text):
        dataclasses.replace(header, sections={SECTION: data})
    file = io.BytesIO()
    codesfile.write(file, codesfile.CodesFile(header, np.zeros((channels, 1, 2), np.int64), 4))
    # The same header with the section's name changed: its size 4 more, its CRC-32 right.
    written = file.getvalue()
    fields = written[6 : 6 + written[5]].replace(b"\x05other", b"\x09condition")
    head = written[:5] + bytes([len(fields)]) + fields
    forged = head + crc_of(head)
    with pytest.raises(CodesFileError, match=f"byte 6: header: section condition: .*{text}"):
        codesfile.read(io.BytesIO(forged))


def test_the_section_is_little_endian_channel_after_channel() -> None:
    """Clause 2.5."""
    vectors = np.array([[1.0, 2.0], [-0.5, 0.0]], np.float32)
    assert condition_bytes(vectors).hex() == "0000803f00000040000000bf00000000"
    assert np.array_equal(condition_from(condition_bytes(vectors), channels=2), vectors)


def test_streams_need_the_vector_and_many_at_once_are_refused(model: Model, speech: np.ndarray) -> None:
    encoder = model.stream_encoder(mode="block", whole=True)
    encoder.feed(speech[0])
    assert encoder.condition is None  # it stands for the whole signal
    codes = encoder.flush()
    decoder = model.stream_decoder(mode="block", condition=encoder.condition)
    parts = [decoder.feed(codes[:, :20]), decoder.feed(codes[:, 20:]), decoder.flush()]
    whole = model.decode(model.codes(codes, condition=encoder.condition))
    assert np.array_equal(np.concatenate(parts), whole)
    decoder.reset()
    assert np.array_equal(np.concatenate((decoder.feed(codes), decoder.flush())), whole)
    with pytest.raises(CodesError, match="got none"):
        model.stream_decoder()
    with pytest.raises(ModelError, match="condition of its own"):
        model.stream_decoders()


@pytest.mark.parametrize("output", ["parquet", "webdataset", "codes", "npy"])
def test_shards_hold_it_and_the_data_set_gives_it(
    output: str, model: Model, folder: Path, speech: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for i, audio in enumerate(speech):
        write(tmp_path / "in" / f"{i}.flac", audio[None], 16000)
    out, info = tmp_path / "out", model.info
    engine = model.engine.name
    settings = Settings(
        str(tmp_path / "in"), None, output, 1.0, False, info.name, info.weights_hash, info.codebooks, "block", engine
    )
    plan = open_plan(out, settings, lambda line: None)
    facts = RunFacts(info, info.codebooks, "block", plan.fields)
    job = Job(str(out), output, str(folder), engine, "cpu", facts)
    make_shard(model, job, Work(plan.shards[0], plan.name(plan.shards[0])), lambda n_rows, seconds: None)
    write_index(plan, facts)
    rows = list(read_rows(output, out / plan.name(plan.shards[0])))
    items = list(TokenDataset(out, shuffle=False))
    encoded = [model.encode(codec.read_audio(tmp_path / "in" / f"{i}.flac")[0][0]) for i in range(2)]
    for row, item, wanted in zip(rows, items, encoded, strict=True):
        assert wanted.condition is not None
        assert np.array_equal(row["codes"], wanted.data)
        assert row["condition"].dtype == np.float32
        assert np.array_equal(row["condition"], wanted.condition)
        assert np.array_equal(item["condition"], wanted.condition)
    assert collate([items[0] | {"tokens": items[0]["tokens"][0]}], 0)["condition"].shape == (1, N)
    if output == "codes":
        kept = codec.open(out / plan.name(plan.shards[0]) / "0.codes")
        assert np.array_equal(model.decode(kept), model.decode(encoded[0]))
    if output == "parquet":
        assert verify_tokens(out, model=str(folder)).misses == ()
        (out / "index.json").write_text(json.dumps(read_index(out) | {"condition": N + 1}))
        misses = verify_tokens(out, model=str(folder)).misses
        assert any("no condition of 9 numbers" in check.measured for check in misses)


def test_parts_that_do_not_agree_on_the_vector_are_refused() -> None:
    with pytest.raises(ConfigError, match="condition of 8, 0, 8 numbers"):
        Network(config_of(n_passed=0))


@pytest.mark.slow
def test_the_commands_know_it(folder: Path, tmp_path: Path) -> None:
    def run(*words: str) -> str:
        done = subprocess.run([sys.executable, "-m", "codec", *words], capture_output=True, text=True, check=True)
        return done.stdout

    file = str(tmp_path / "x.codes")
    run("encode", str(DEMO), file, "--model", str(folder))
    assert json.loads(run("info", file, "--json"))["condition"] == N
    run("decode", file, str(tmp_path / "x.wav"), "--model", str(folder))
    run("verify", file, "--model", str(folder))
    assert verify_model(folder).passed
