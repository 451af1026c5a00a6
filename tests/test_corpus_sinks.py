"""Shards give back what went into them, whatever they are, and equal rows are equal bytes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codec.api import Model
from codec.corpus.rows import Encoded, Row, RunFacts, make_row
from codec.corpus.run import read_index
from codec.corpus.shard import checksum_of
from codec.corpus.sinks import file_key, make_schema, open_sink, read_rows
from codec.corpus.utterance import Place, Utterance
from codec.errors import CorpusError

FIXTURES = Path(__file__).resolve().parent / "fixtures"
OUTPUTS = ["parquet", "webdataset", "codes", "npy"]
IDS = ["a", "b/c.d", "../up", "ünï/☃", "x" * 150, "音" * 80, "音" * 79 + "楽"]


def make_facts(model: Model) -> RunFacts:
    return RunFacts(model.info, 2, "block", {"speaker": "int", "source_model": "str"})


def make_rows(facts: RunFacts) -> list[Row]:
    generator = np.random.default_rng(0)
    rows = []
    for i, name in enumerate(IDS):
        codes = generator.integers(0, 32, (2, 3 + i))
        item = Utterance(
            name, Place(f"/x/{i}.wav"), "té\nxt" if i else None, {"speaker": i} if i % 2 else {"model": [i]}
        )
        rows.append(make_row(item, Encoded(codes, codes.shape[1] * 320 - 7), facts))
    return rows


def write(path: Path, output: str, facts: RunFacts) -> Path:
    with open_sink(output, path, facts) as sink:
        for row in make_rows(facts):
            sink.append(row)
    return path


@pytest.mark.parametrize("output", OUTPUTS)
def test_rows_come_back_as_they_went_in(tmp_path: Path, output: str, tiny: Model) -> None:
    facts = make_facts(tiny)
    found = list(read_rows(output, write(tmp_path / "shard", output, facts)))
    assert [row["id"] for row in found] == IDS
    for row, wanted in zip(found, make_rows(facts), strict=True):
        codes: Any = row["codes"]
        assert np.array_equal(codes, wanted.codes)
        assert (row["num_samples"], row["text"], row["source"]) == (wanted.n_samples, wanted.text, wanted.source)
        assert (row["layout"], row["sample_rate"], row["model"]) == ("parallel", 16000, "tiny")
        assert row["weights_hash"] == tiny.info.weights_hash
        assert (row["speaker"], row["source_model"]) == (wanted.fields["speaker"], wanted.fields["source_model"])
    assert [row["source_model"] for row in found] == ["[0]", None, "[2]", None, "[4]", None, "[6]"]


@pytest.mark.parametrize("output", OUTPUTS)
def test_equal_rows_give_equal_bytes_and_stay_inside_the_shard(tmp_path: Path, output: str, tiny: Model) -> None:
    (tmp_path / "deep").mkdir()
    one, two = (write(tmp_path / "deep" / name, output, make_facts(tiny)) for name in ("a", "b"))
    assert checksum_of(one) == checksum_of(two)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.parent in (tmp_path, tmp_path / "deep")) == [
        "a",
        "b",
        "deep",
    ]


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_cut_shard_is_an_error_of_one_line(tmp_path: Path, output: str, tiny: Model) -> None:
    path = write(tmp_path / "shard", output, make_facts(tiny))
    victim = path if path.is_file() else path / file_key("a")
    victim = victim if victim.is_file() else victim.with_suffix(f".{output}")
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    with pytest.raises(CorpusError, match="damaged") as caught:
        list(read_rows(output, path))
    assert "\n" not in str(caught.value)


def test_parquet_columns_are_those_of_the_documents(tiny: Model) -> None:
    schema = make_schema(make_facts(tiny))
    assert schema.names == [
        "id", "codes", "layout", "sample_rate", "num_samples", "model", "weights_hash", "source", "text",
        "speaker", "source_model",
    ]  # fmt: skip
    assert str(schema.field("codes").type) == "list<element: list<element: uint16>>".replace("element", "item")


def test_a_tar_keeps_nothing_of_the_rows_that_are_written(tmp_path: Path, tiny: Model) -> None:
    facts = make_facts(tiny)
    rows = make_rows(facts)
    with open_sink("webdataset", tmp_path / "shard", facts) as sink:
        sink.append(rows[0])
        tracemalloc.start()
        for i in range(300):
            sink.append(dataclasses.replace(rows[0], id=str(i)))
        kept = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    assert kept < 50_000


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_rows_of_a_shard(tmp_path: Path) -> None:
    """Most of a worker's memory while `codec tokenize` makes one shard: of 900 rows what it is of 150."""
    sizes = []
    for count in (150, 900):
        source, out = tmp_path / f"{count}.jsonl", tmp_path / f"out-{count}"
        row = {"audio": str(FIXTURES / "demo.flac"), "start": 0.0, "duration": 0.1}
        source.write_text("".join(json.dumps({"id": str(i), **row}) + "\n" for i in range(count)))
        command = [sys.executable, "-m", "codec", "tokenize", str(source), "--out", str(out), "--workers", "1", "-q"]
        with subprocess.Popen(command) as process:
            most = 0.0
            while process.poll() is None:
                with contextlib.suppress(OSError):  # a process that ends while we look
                    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                    most = max([most, *(peak_mib(pid) for pid in children)])
                time.sleep(0.05)
        assert [shard["n_rows"] for shard in read_index(out)["shards"]] == [count]
        sizes.append(most)
    assert sizes[0] > 50
    assert sizes[1] - sizes[0] < 6, sizes


def peak_mib(pid: str) -> float:
    """The most memory that a process had."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def test_different_ids_have_different_file_names() -> None:
    names = ["a.b", "a%2Eb", "a/b", "a//b", "/a/b", "a/", "a", ".", "..", "%2F"]
    keys = [file_key(name) for name in names]
    assert len(set(keys)) == len(names)
    assert not any(part in ("", ".", "..") for key in keys for part in key.split("/"))
