"""Rows run in batches are, but for rounding, those run alone; what is written in a layout comes back exactly."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from codec.api import Model, load
from codec.config import ModelConfig, Part
from codec.corpus import encoding
from codec.corpus.check import verify_tokens
from codec.corpus.plan import Settings, open_plan
from codec.corpus.rows import Encoded, RunFacts, choose_layout, make_row, open_layout, to_codes
from codec.corpus.run import read_index, write_index
from codec.corpus.shard import Done, Job, Work, make_shard
from codec.corpus.sinks import describe, open_sink, read_rows
from codec.corpus.utterance import Place, Utterance
from codec.errors import CodesError, CorpusError
from codec.export.folder import write_folder
from codec.golden import MIN_CODES
from codec.lm.dataset import TokenDataset
from codec.network import Network

LAYOUTS = ["parallel", "frame", "codebook", "delay", "coarse:n_coarse=1", "semantic", "multirate", "depth"]
N_CLIPS = 10
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, speech: Any) -> Path:
    """Clips of different lengths, and in their middle one file that is no audio."""
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(N_CLIPS):
        soundfile.write(folder / f"{i:02d}.wav", speech[i * 500 : i * 800 + 3000 + 2001 * (i % 3)], 16000)
    (folder / "05.wav").write_bytes(b"no audio")
    return folder


def make(corpus: Path, out: Path, model: Model, path: Path, output: str = "parquet", **change: Any) -> Done:
    """One shard, made in this process."""
    info = model.info
    facts = RunFacts(info, info.codebooks, "block", {}, **change)
    settings = Settings(
        str(corpus), None, output, 1.0, False, info.name, info.weights_hash, info.codebooks, "block",
        model.engine.name, facts.layout, facts.batch,
    )  # fmt: skip
    plan = open_plan(out, settings, lambda line: None)
    job = Job(str(out), output, str(path), model.engine.name, "cpu", facts)
    done = make_shard(model, job, Work(plan.shards[0], plan.name(plan.shards[0])), lambda n_rows, seconds: None)
    write_index(plan, facts)
    return done


def rows_of(out: Path) -> list[dict[str, Any]]:
    index = read_index(out)
    return list(read_rows(index["output"], out / index["shards"][0]["name"]))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, corpus: Path, tiny: Model, tiny_path: Path) -> Path:
    """The corpus with each row run alone."""
    out = tmp_path_factory.mktemp("alone")
    make(corpus, out, tiny, tiny_path)
    return out


def test_batches_agree_with_rows_alone_and_say_how_well(
    tmp_path: Path, corpus: Path, alone: Path, tiny: Model, tiny_path: Path
) -> None:
    """Batches of two, so that the ten files are two windows."""
    done = make(corpus, tmp_path, tiny, tiny_path, batch=2)
    rows, wanted = rows_of(tmp_path), rows_of(alone)
    assert [row["id"] for row in rows] == [row["id"] for row in wanted]
    assert [row["num_samples"] for row in rows] == [row["num_samples"] for row in wanted]
    equal = [found["codes"] == row["codes"] for found, row in zip(rows, wanted, strict=True)]
    assert np.concatenate([part.ravel() for part in equal]).mean() >= MIN_CODES
    assert [failure["id"] for failure in done.failures] == ["05"]
    index = read_index(tmp_path)
    assert index["batch"] == 2
    assert index["n_compared"] == done.n_compared == rows[0]["codes"].size
    assert index["agreement"] == done.n_equal / done.n_compared >= MIN_CODES
    report = verify_tokens(tmp_path, model=str(tiny_path))
    assert "batches of 2" in [check.name for check in report.checks]
    assert report.passed
    assert read_index(alone)["agreement"] is None


def test_a_batch_in_several_steps_gives_the_codes_of_one(tiny: Model, speech: Any) -> None:
    rows = [speech[:60000], speech[:1], speech[100:26000]]
    n = tiny.info.codebooks
    whole, steps = encoding.encode_rows(tiny, rows, n), encoding.encode_rows(tiny, rows, n, step=1.0)
    for row, one, several in zip(rows, whole, steps, strict=True):
        assert one.shape == several.shape == (n, tiny.info.frames(len(row)))
        assert (one == several).mean() >= MIN_CODES


def test_batches_put_nothing_behind_rows_of_a_ragged_encoder(tmp_path: Path, speech: Any) -> None:
    options = {"n_filters": 2, "strides": [4, 5], "n_recurrent": 1, "padding": "mirror"}
    config = ModelConfig(
        Part("conv", options | {"ragged": True}),
        Part("residual", {"n_codebooks": 2, "codebook_size": 32}),
        Part("conv", options),
        hop_length=20,
        latent_dim=6,
    )
    torch.manual_seed(0)
    network = Network(config)
    with torch.no_grad():
        for book in network.bottleneck.codebooks:
            book.embed.copy_(0.2 * torch.randn(book.embed.shape))
    model = load(write_folder(tmp_path / "m", "m", config, network.state_dict(), licence="", half=False).path)
    rows = [speech[:7000], speech[:1], speech[100:2013], speech[3:1916]]
    codes = encoding.encode_rows(model, rows, 2) + encoding.encode_rows(model, rows[2:], 2, step=0.1)
    for row, found in zip([*rows, *rows[2:]], codes, strict=True):
        wanted = model.encode(row).data
        assert found.shape == wanted.shape == (2, -(-len(row) // 20))
        assert (found == wanted).mean() >= MIN_CODES
        assert np.array_equal(found[:, -1], wanted[:, -1])


def test_what_is_too_long_for_a_batch_runs_alone(
    tmp_path: Path, corpus: Path, alone: Path, tiny: Model, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "LONGEST", 0.1)
    done = make(corpus, tmp_path, tiny, tiny_path, batch=4)
    assert done.n_compared == 0
    for row, wanted in zip(rows_of(tmp_path), rows_of(alone), strict=True):
        assert np.array_equal(row["codes"], wanted["codes"])


def test_a_model_that_looks_ahead_and_a_batch_of_nothing_are_refused(tiny: Model) -> None:
    ahead = dataclasses.replace(tiny.info, encoder_lookahead=5, causal=False)
    with pytest.raises(CorpusError, match="looks ahead"):
        encoding.check_batches(ahead, 2)
    encoding.check_batches(ahead, 1)
    with pytest.raises(CorpusError, match="a vector of each whole signal"):
        encoding.check_batches(dataclasses.replace(tiny.info, condition=8), 2)
    with pytest.raises(CorpusError, match="1 or more"):
        encoding.check_batches(tiny.info, 0)


@pytest.mark.parametrize("output", ["parquet", "webdataset", "npy"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_written_and_comes_back_exactly(
    tmp_path: Path, alone: Path, tiny: Model, layout: str, output: str
) -> None:
    layout = choose_layout(layout, tiny.info, tiny.info.codebooks)
    facts, wanted = RunFacts(tiny.info, tiny.info.codebooks, "block", {}, layout), rows_of(alone)
    with open_sink(output, tmp_path / "shard", facts) as sink:
        for row in wanted:
            item = Utterance(row["id"], Place(row["source"]))
            sink.append(make_row(item, Encoded(row["codes"].astype(np.int64), row["num_samples"]), facts))
    said = describe(facts)
    opened = open_layout(said["layout"], said["codebook_sizes"])
    assert said["vocabulary"]["size"] == opened.ids.size
    for found, row in zip(read_rows(output, tmp_path / "shard"), wanted, strict=True):
        assert found["layout"] == said["layout"] == layout
        assert found["codes"].dtype == np.uint16
        assert np.array_equal(found["codes"], opened.arrange(row["codes"]))
        assert np.array_equal(to_codes(found, opened), row["codes"])


def test_verify_and_the_data_set_read_a_layout(
    tmp_path: Path, corpus: Path, alone: Path, tiny: Model, tiny_path: Path
) -> None:
    make(corpus, tmp_path, tiny, tiny_path, layout="delay")
    for kind in ("codebook", "parallel"):
        found = [item["tokens"].tolist() for item in TokenDataset(tmp_path, layout=kind, seed=1)]
        assert found == [item["tokens"].tolist() for item in TokenDataset(alone, layout=kind, seed=1)]
    assert verify_tokens(tmp_path, model=str(tiny_path)).misses == ()
    index = read_index(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps({**index, "layout": "frame"}))
    (wrong,) = (check for check in verify_tokens(tmp_path, model=str(tiny_path)).misses if check.name == "rows")
    assert "layout delay, the index says frame" in wrong.measured


def test_tokens_that_end_inside_a_frame_are_an_error() -> None:
    layout = open_layout("frame", (8, 8))
    with pytest.raises(CorpusError, match="x: its tokens end in the middle of a frame"):
        to_codes({"id": "x", "layout": "frame", "codes": np.array([1, 9, 2])}, layout)
    with pytest.raises(CorpusError, match=r"x: tokens\[1\] = 3"):
        to_codes({"id": "x", "layout": "frame", "codes": np.array([1, 3])}, layout)


@pytest.mark.parametrize("text", ["spiral", "coarse:n_coarse=9", "delay:delays=a", "frame:n=1"])
def test_a_layout_that_cannot_be_is_refused(tiny: Model, text: str) -> None:
    with pytest.raises(CodesError, match=r"layout|sections"):
        choose_layout(text, tiny.info, tiny.info.codebooks)


@pytest.mark.slow
def test_the_command_takes_a_layout_and_a_batch(tmp_path: Path, corpus: Path, run: Run) -> None:
    out = tmp_path / "out"
    args = ["--workers", "1", "--engine", "torch", "--batch", "4", "--layout", "delay"]
    done = run("tokenize", corpus, "--out", out, *args)
    assert done.returncode == 0, done.stderr
    assert b"batches of 4: for speed" in done.stderr
    assert b"of compared codes are those of rows run alone" in done.stderr
    index = read_index(out)
    assert (index["layout"], index["batch"]) == ("delay", 4)
    assert index["agreement"] >= MIN_CODES
    checked = run("verify", out, "--json")
    assert checked.returncode == 0, checked.stdout
    refused = run("tokenize", corpus, "--out", tmp_path / "other", "--layout", "delay", "--format", "codes")
    assert refused.returncode == 1
    assert b"hold codes as they are" in refused.stderr
