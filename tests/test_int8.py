"""Graphs with 8-bit products: one arithmetic for every block length, near to full precision."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import codec
from codec.engine import Audio, Engine, open_engine
from codec.errors import ModelError
from codec.export.graphs import write_graphs
from codec.golden import difference_db
from codec.modelfolder import INT8_GRAPHS, ModelFolder, read_model

DEMO = Path(__file__).parent / "fixtures" / "demo.flac"
N_FRAMES = 40  # of a block


@pytest.fixture(scope="module")
def folder(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    path = tmp_path_factory.mktemp("int8") / "tiny"
    shutil.copytree(tiny_path, path)
    return write_graphs(path)


@pytest.fixture(scope="module")
def low(folder: ModelFolder) -> Engine:
    return open_engine(folder, engine="onnx-int8")


@pytest.fixture(scope="module")
def blocks(folder: ModelFolder) -> Audio:
    """Three blocks of speech, (3, 1, 1, T)."""
    hop = folder.info.hop_length
    return codec.read_audio(DEMO)[0][0, : 3 * N_FRAMES * hop].reshape(3, 1, 1, N_FRAMES * hop)


def test_a_block_gives_exactly_what_its_frames_give(folder: ModelFolder, low: Engine, blocks: Audio) -> None:
    hop = folder.info.hop_length
    encoder = encoder_by_frame = low.init_encoder(1)
    decoder = decoder_by_frame = low.init_decoder(1)
    for block in blocks:
        codes, encoder = low.encode_step(block, encoder, folder.info.codebooks)
        audio, decoder = low.decode_step(codes, decoder)
        for i in range(N_FRAMES):
            here = slice(hop * i, hop * (i + 1))
            code, encoder_by_frame = low.encode_step(block[..., here], encoder_by_frame, folder.info.codebooks)
            sound, decoder_by_frame = low.decode_step(code, decoder_by_frame)
            np.testing.assert_array_equal(code, codes[..., i : i + 1])
            np.testing.assert_array_equal(sound, audio[..., here])


def test_rows_of_a_batch_do_not_touch_each_other(folder: ModelFolder, low: Engine, blocks: Audio) -> None:
    together, _ = low.encode_step(blocks[:, 0], low.init_encoder(3), folder.info.codebooks)
    for block, codes in zip(blocks, together, strict=True):
        np.testing.assert_array_equal(low.encode_step(block, low.init_encoder(1), folder.info.codebooks)[0][0], codes)


def test_it_is_close_to_full_precision_and_not_the_same(folder: ModelFolder, low: Engine, blocks: Audio) -> None:
    full = open_engine(folder, engine="onnx")
    codes, others = (engine.encode_step(blocks[1], engine.init_encoder(1), 8)[0] for engine in (full, low))
    n_groups = folder.info.prefixes[0]
    first_level = slice(0, n_groups)  # later ones follow its residual
    assert np.mean(codes[:, first_level] == others[:, first_level]) > 0.85
    sounds = [engine.decode_step(codes, engine.init_decoder(1))[0] for engine in (full, low)]
    assert 25 < difference_db(*sounds) < 100


def test_a_folder_without_its_graphs_is_refused(folder: ModelFolder, tmp_path: Path) -> None:
    shutil.copytree(folder.path, tmp_path / "tiny")
    (tmp_path / "tiny" / INT8_GRAPHS[0]).unlink()
    without = ModelFolder(tmp_path / "tiny", folder.info, folder.config)
    with pytest.raises(ModelError, match="no 8-bit ONNX graphs; write them with `codec export`"):
        open_engine(without, engine="onnx-int8")
    with pytest.raises(ModelError, match=INT8_GRAPHS[0]):
        read_model(tmp_path / "tiny")
