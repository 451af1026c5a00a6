"""Shards give back what went into them, whatever they are, and equal rows are equal bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codec.api import Model
from codec.corpus.rows import Row, RunFacts, make_row
from codec.corpus.shard import checksum_of
from codec.corpus.sinks import file_key, make_schema, open_sink, read_rows
from codec.corpus.utterance import Place, Utterance
from codec.errors import CorpusError

OUTPUTS = ["parquet", "webdataset", "codes", "npy"]
IDS = ["a", "b/c.d", "../up", "ünï/☃", "x" * 150]


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
        rows.append(make_row(item, codes, codes.shape[1] * 320 - 7, facts))
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
    assert [row["source_model"] for row in found] == ["[0]", None, "[2]", None, "[4]"]


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


def test_different_ids_have_different_file_names() -> None:
    names = ["a.b", "a%2Eb", "a/b", "a//b", "/a/b", "a/", "a", ".", "..", "%2F"]
    keys = [file_key(name) for name in names]
    assert len(set(keys)) == len(names)
    assert not any(part in ("", ".", "..") for key in keys for part in key.split("/"))
