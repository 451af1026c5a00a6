"""Graphs with 8-bit products: standard operators, one arithmetic for every block length, near to full precision."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import codec
from codec.engine import Audio, Engine, open_engine
from codec.errors import ModelError
from codec.export.calibrate import BLOCK, read_clips
from codec.export.graphs import write_graphs
from codec.export.int8 import INPUT_LEVELS, WEIGHT_LEVELS, WORTH_DB, Form, Seen, error_of, find_form
from codec.golden import difference_db
from codec.hub import find_model
from codec.modelfolder import GRAPHS, INT8_GRAPHS, ModelFolder, read_model

DEMO = Path(__file__).parent / "fixtures" / "demo.flac"
N_FRAMES = 40  # of a block


@pytest.fixture(scope="module")
def folder(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    path = tmp_path_factory.mktemp("int8") / "tiny"
    shutil.copytree(tiny_path, path)
    return write_graphs(path, int8=True)


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


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)


@pytest.mark.parametrize("name", INT8_GRAPHS)
def test_all_operators_are_standard_ones(folder: ModelFolder, name: str) -> None:
    model = onnx.load(folder.path / name, load_external_data=False)
    assert [opset.domain for opset in model.opset_import] == [""]
    assert {node.domain for node in model.graph.node} == {""}


@pytest.mark.parametrize("name", INT8_GRAPHS)
def test_the_runtime_makes_one_node_of_a_product(folder: ModelFolder, name: str, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / name)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(folder.path / name), options, providers=["CPUExecutionProvider"])
    found = operators(tmp_path / name)
    assert found["MatMulIntegerToFloat"] == operators(folder.path / name)["MatMulInteger"] > 3
    assert found["MatMulInteger"] == 0


def test_the_search_of_codebooks_stays_in_float32(folder: ModelFolder) -> None:
    full, low = (operators(folder.path / names[0]) for names in (GRAPHS, INT8_GRAPHS))
    assert low["Gemm"] == full["Gemm"] == folder.info.codebooks


def test_two_products_fit_into_16_bits() -> None:
    assert 2 * INPUT_LEVELS * WEIGHT_LEVELS < 1 << 15  # else CPUs without VNNI saturate, and sums are not exact


def seen(levels: list[float], offset: float = 0.0) -> Seen:
    """Rows of noise with a level to each channel."""
    generator = np.random.default_rng(0)
    rows = (generator.standard_normal((300, len(levels))) * levels + offset).astype(np.float32)
    weight = (generator.standard_normal((8, len(levels))) / levels).astype(np.float32)
    return Seen(rows, rows.min(0), rows.max(0), weight)


def test_channels_of_one_level_share_a_scale() -> None:
    form = find_form(seen([1.0] * 16), after_norm=False)
    assert form.centre is None
    assert form.spread is None


@pytest.mark.parametrize(
    ("levels", "offset", "n_nodes"), [([1.0] * 15 + [1000.0], 0.0, 1), ([0.1] * 16, 20.0, 2)], ids=["differ", "shifted"]
)
def test_channels_that_differ_get_a_spread_and_shifted_ones_a_centre(
    levels: list[float], offset: float, n_nodes: int
) -> None:
    rows = seen(levels, offset)
    form = find_form(rows, after_norm=False)
    assert form.n_nodes == n_nodes
    low, high = min(0, rows.low.min()), rows.high.max()
    plain = Form(float(high - low) / INPUT_LEVELS, round(float(-low / (high - low)) * INPUT_LEVELS))
    assert error_of(plain, rows) > 10 ** (WORTH_DB / 10 * n_nodes) * error_of(form, rows)


def test_a_layer_norm_takes_in_both_for_nothing() -> None:
    assert find_form(seen([1.0] * 16), after_norm=True).n_nodes == 2


def test_a_calibration_is_the_golden_clip_soft_loud_low_and_high() -> None:
    info = read_model(find_model("default_16k")).info
    audio = read_clips(info, (), find_model("default_16k"))
    assert audio.shape[:2] == (1, 1)
    assert audio.shape[2] % (BLOCK * info.hop_length) == 0
    assert audio.shape[2] >= info.sample_rate * 3 * (1 + 1 + 0.8 + 1.25)
    clip = codec.read_audio(DEMO)[0][0, : info.sample_rate * 3]
    np.testing.assert_allclose(audio[0, 0, : len(clip)], clip, atol=1e-4)
    np.testing.assert_array_equal(read_clips(info, (DEMO,), find_model("default_16k")), audio)


def test_clips_decide_the_scales_and_nothing_else_does(folder: ModelFolder, tmp_path: Path) -> None:
    def written(name: str, *clips: Path) -> tuple[bytes, ...]:
        shutil.copytree(folder.path, tmp_path / name)
        write_graphs(tmp_path / name, clips, int8=True)
        assert not list((tmp_path / name).glob("observed*"))
        return tuple((tmp_path / name / graph).read_bytes() for graph in (*GRAPHS, *INT8_GRAPHS))

    first, second = written("a"), written("b", DEMO)
    assert first == tuple((folder.path / name).read_bytes() for name in (*GRAPHS, *INT8_GRAPHS))
    assert first[:2] == second[:2]
    assert first[2] != second[2]
    assert first[3] != second[3]


@pytest.mark.slow
def test_the_command_takes_clips(folder: ModelFolder, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "codec",
        "export",
        str(folder.path),
        str(tmp_path / "out"),
        "--int8",
        "--calibrate",
        str(DEMO),
    ]
    subprocess.run(command, capture_output=True, check=True)
    shutil.copytree(folder.path, tmp_path / "again")
    write_graphs(tmp_path / "again", [DEMO], int8=True)
    for name in INT8_GRAPHS:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_folder_without_its_graphs_is_refused(folder: ModelFolder, tmp_path: Path) -> None:
    shutil.copytree(folder.path, tmp_path / "tiny")
    (tmp_path / "tiny" / INT8_GRAPHS[0]).unlink()
    without = ModelFolder(tmp_path / "tiny", folder.info, folder.config)
    with pytest.raises(ModelError, match="no 8-bit ONNX graphs; write them with `codec export`"):
        open_engine(without, engine="onnx-int8")
    with pytest.raises(ModelError, match=INT8_GRAPHS[0]):
        read_model(tmp_path / "tiny")
