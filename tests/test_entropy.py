"""Entropy-coded .codes files, container version 2 (docs/codes-format.md, clause 9).

The two golden files were written once, by `write_golden` below; they must never change.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from codec import codesfile
from codec.api import load
from codec.codesfile import CodesFile, Header, Reader, Writer
from codec.codesfile.entropy import decode_blocks, encode_block
from codec.codesfile.packed import with_prior
from codec.codesfile.prior import FILE_NAME, read_prior
from codec.codesfile.rans import PythonCoder, open_coder
from codec.errors import CodesError, CodesFileError, ModelError
from codec.modelfolder import write_model as write_facts
from codec.train.prior import PriorConfig, PriorNetwork, save_prior
from codec.transcode import DecodeOptions, EncodeOptions, decode_file, encode_file

GOLDEN = Path(__file__).parent / "golden"
PRIOR = GOLDEN / "entropy_coded.prior.safetensors"
SIZES = (16, 16, 8)
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


def golden_file(n_frames: int = 50) -> CodesFile:
    """Two channels, blocks of 20 frames, the last of 10."""
    header = Header("golden", "ab" * 16, "frame", 100, 10, SIZES, channels=2, sections={"note": b"\x00\x01"})
    steps = np.arange(n_frames)
    codes = np.stack([[(steps * (3 + q) + 5 * c) // 2 % size for q, size in enumerate(SIZES)] for c in range(2)])
    return CodesFile(with_prior(header, read_prior(PRIOR)), codes, n_frames * 10 - 3)


def write_golden(folder: Path) -> None:
    generator = torch.Generator().manual_seed(5)
    books = [torch.randn(size, 6, generator=generator) for size in SIZES]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        save_prior(PriorNetwork(books, PriorConfig(dim=4, n_context=8, n_hidden=8)), folder / PRIOR.name, "ab" * 32)
    codesfile.write(folder / "entropy_coded.codes", golden_file(), prior=read_prior(PRIOR))


def packed(codes_file: CodesFile) -> bytes:
    file = io.BytesIO()
    codesfile.write(file, codes_file, prior=read_prior(PRIOR))
    return file.getvalue()


def long_file() -> CodesFile:
    """Ten full blocks and a short one, one channel."""
    header = Header("long", "ab" * 16, "block", 100, 10, SIZES)
    rng = np.random.default_rng(1)
    codes = np.stack([rng.integers(0, size, 205) for size in SIZES])
    return CodesFile(with_prior(header, read_prior(PRIOR)), codes, 2050)


class Pipe(io.BytesIO):
    def seekable(self) -> bool:
        return False


def test_the_golden_file_gives_its_codes_for_ever() -> None:
    data = (GOLDEN / "entropy_coded.codes").read_bytes()
    for source in (io.BytesIO(data), Pipe(data)):
        found = codesfile.read(source, priors=[PRIOR])
        assert (found.codes == golden_file().codes).all()
        assert (found.header, found.n_samples) == (golden_file().header, 497)
    assert packed(golden_file()) == data


def test_a_decoder_in_plain_integers_reads_the_golden_file() -> None:
    prior, wanted = read_prior(PRIOR), golden_file()
    data = (GOLDEN / "entropy_coded.codes").read_bytes()
    at = data.index(bytes.fromhex(prior.prior_id)) + 4 + 4  # behind the header's CRC-32
    length = data[at]
    assert length < 0x80
    assert length % 2 == 1
    coder = open_coder(data[at + 1 : at + 1 + (length - 3) // 2], kind=PythonCoder)
    memories = [prior.start(1), prior.start(1)]
    for frame in range(20):
        row = wanted.codes[:, :, frame]
        for q in range(len(SIZES)):
            for channel in range(2):
                counts = prior.frequencies(prior.context(memories[channel]), row[channel : channel + 1, :q])
                assert coder.decode(counts)[0] == row[channel, q]
        memories = [prior.remember(memory, row[c : c + 1]) for c, memory in enumerate(memories)]
    assert coder.is_empty()


@pytest.mark.parametrize("n_frames", [0, 1, 19, 20, 21, 205])
def test_any_length_comes_back_from_a_file_and_from_a_pipe(n_frames: int) -> None:
    whole = long_file()
    part = CodesFile(whole.header, whole.codes[:, :n_frames], n_frames * 10)
    data = packed(part)
    for source in (io.BytesIO(data), Pipe(data)):
        found = codesfile.read(source, priors=[PRIOR])
        assert (found.codes == part.codes).all()
        assert found.n_samples == part.n_samples


def test_appending_gives_the_bytes_of_writing_in_one_go(tmp_path: Path) -> None:
    whole, path = long_file(), tmp_path / "x.codes"
    codesfile.write(path, CodesFile(whole.header, whole.codes[:, :33], 330), prior=read_prior(PRIOR))
    with codesfile.append(path, priors=[PRIOR]) as writer:
        for first in range(33, 205, 50):
            writer.append(whole.codes[:, first : min(first + 50, 205)])
        writer.close(2050)
    assert path.read_bytes() == packed(whole)


def test_any_range_can_be_read_alone() -> None:
    whole = long_file()
    reader = Reader(io.BytesIO(packed(whole)), priors=[PRIOR])
    assert reader.n_frames == 205
    for start, stop in ((0, 205), (3, 4), (19, 21), (60, 80), (199, 205), (204, 205), (5, 5)):
        assert (reader.read_frames(start, stop) == whole.codes[:, start:stop]).all()


def test_every_flipped_byte_is_found_and_costs_one_block() -> None:
    whole = long_file()
    data = packed(whole)
    good = Reader(io.BytesIO(data), priors=[PRIOR])
    begin, third, fourth = (good.block_offset(number) for number in (0, 3, 4))
    for at in range(begin, len(data), 97):
        with pytest.raises(CodesFileError):
            codesfile.read(io.BytesIO(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]), priors=[PRIOR])
    for at in (*range(third, third + 3), *range(third + 3, fourth, 13), fourth - 1):
        for flip in (0x01, 0x80, data[at]):
            bad = data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]
            if bad == data:
                continue
            reader = Reader(io.BytesIO(bad), priors=[PRIOR])
            assert (reader.read_frames(80, 205) == whole.codes[:, 80:]).all()
            assert (reader.read_frames(0, 60) == whole.codes[:, :60]).all()
            with pytest.raises(CodesFileError, match="block 3"):
                reader.read_frames(60, 80)
    for source in (io.BytesIO(bad), Pipe(bad)):
        found = codesfile.read(source, partial=True, priors=[PRIOR])
        assert (found.codes == whole.codes[:, :60]).all()
        assert "7 good blocks after it not used" in found.warnings[0]


def test_a_truncated_file_keeps_its_whole_blocks() -> None:
    whole = long_file()
    data = packed(whole)
    third = Reader(io.BytesIO(data), priors=[PRIOR]).block_offset(3)
    for end in range(third, third + 12, 2):
        for source in (io.BytesIO(data[:end]), Pipe(data[:end])):
            found = codesfile.read(source, partial=True, priors=[PRIOR])
            assert (found.codes == whole.codes[:, :60]).all()
            assert len(found.warnings) == 1


def test_without_its_prior_a_file_is_refused_in_one_line() -> None:
    for partial in (False, True):
        with pytest.raises(ModelError, match=r"packed with prior [0-9a-f]{8} of model 'long'.*--model"):
            codesfile.read(io.BytesIO(packed(long_file())), partial=partial)


def test_a_writer_wants_the_prior_that_the_header_names() -> None:
    header = long_file().header
    with pytest.raises(CodesError, match=f"prior {header.prior_id}"):
        Writer(io.BytesIO(), header)


def test_a_payload_with_something_left_over_is_not_whole() -> None:
    prior = read_prior(PRIOR)
    codes = long_file().codes[None, :, :20]
    payload = encode_block(prior, codes)
    found, is_whole = decode_blocks(prior, [payload, payload + b"\x07"], (1, 3, 20))
    assert (found[0] == codes).all()
    assert is_whole.tolist() == [True, False]


@pytest.fixture(scope="module")
def folder(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a prior in its folder."""
    from codec.modelfolder import read_model

    path = Path(shutil.copytree(tiny_path, tmp_path_factory.mktemp("entropy") / "tiny"))
    model = read_model(path)
    books = [torch.randn(size, 4, generator=torch.Generator().manual_seed(1)) for size in model.info.codebook_sizes]
    network = PriorNetwork(books, PriorConfig(dim=4, n_context=8, n_hidden=8))
    save_prior(network, path / FILE_NAME, model.info.weights_hash)
    write_facts(path, model.info, model.config)
    return path


@pytest.mark.slow
def test_the_command_packs_the_same_codes_and_gives_the_same_audio(run: Run, folder: Path, tmp_path: Path) -> None:
    clip = Path(__file__).parent / "fixtures" / "rhasspy_nathalie_03.flac"
    plain, small = tmp_path / "plain.codes", tmp_path / "small.codes"
    assert run("encode", clip, plain, "--model", folder).returncode == 0
    assert run("encode", clip, small, "--model", folder, "--entropy").returncode == 0
    assert (codesfile.read(small, priors=[folder]).codes == codesfile.read(plain).codes).all()
    for source in (plain, small):
        done = run("decode", source, source.with_suffix(".wav"), "--model", folder)
        assert done.returncode == 0, done.stderr
    assert plain.with_suffix(".wav").read_bytes() == small.with_suffix(".wav").read_bytes()
    facts = run("info", small, "--json", "--model", folder)
    assert facts.returncode == 0, facts.stderr
    assert json.loads(facts.stdout)["prior"] == read_prior(folder).prior_id


def test_a_packed_file_holds_the_codes_of_a_plain_one_and_decodes_to_the_same_audio(
    folder: Path, tmp_path: Path
) -> None:
    model = load(folder)
    clip = Path(__file__).parent / "fixtures" / "rhasspy_nathalie_03.flac"
    for name, prior in (("plain", None), ("small", read_prior(folder))):
        encode_file(model, clip, tmp_path / f"{name}.codes", EncodeOptions(prior=prior))
        options = DecodeOptions(priors=(folder,))
        decode_file(lambda header: model, tmp_path / f"{name}.codes", tmp_path / f"{name}.wav", options)
    plain, small = (codesfile.read(tmp_path / f"{name}.codes", priors=[folder]) for name in ("plain", "small"))
    assert (plain.codes == small.codes).all()
    assert (plain.header.prior_id, small.header.prior_id) == ("", read_prior(folder).prior_id)
    assert (tmp_path / "plain.wav").read_bytes() == (tmp_path / "small.wav").read_bytes()
