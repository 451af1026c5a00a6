"""The plan decides which utterance goes into which shard, once and for all."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codec.corpus.plan import DUPLICATES, LINES, PLAN, Settings, open_plan, read_plan
from codec.errors import CorpusError

SETTINGS = Settings("", None, "parquet", 1.25 / 3600, False, "m", "0" * 64, 2, "block", "onnx")


def make_corpus(folder: Path, count: int = 5) -> Settings:
    folder.mkdir()
    for i in range(count):
        soundfile.write(folder / f"{i}.wav", np.random.default_rng(i).normal(0, 0.1, 8000), 16000)
    return dataclasses.replace(SETTINGS, source=str(folder))


def quiet(line: str) -> None:
    assert line


def test_shards_are_cut_by_length_and_hold_every_utterance_once(tmp_path: Path) -> None:
    plan = open_plan(tmp_path / "out", make_corpus(tmp_path / "in"), quiet)
    assert [shard.n_rows for shard in plan.shards] == [2, 2, 1]
    assert [item.id for shard in plan.shards for item in plan.items(shard)] == list("01234")
    assert (plan.n_rows, plan.seconds) == (5, 2.5)
    assert [plan.name(shard) for shard in plan.shards][-1] == "tokens-000002.parquet"


def test_a_plan_stays_though_the_source_changes(tmp_path: Path) -> None:
    settings = make_corpus(tmp_path / "in")
    first = open_plan(tmp_path / "out", settings, quiet)
    shutil.copy(tmp_path / "in" / "0.wav", tmp_path / "in" / "00.wav")
    assert open_plan(tmp_path / "out", settings, quiet) == first


def test_two_plans_of_one_source_are_equal_byte_for_byte(tmp_path: Path) -> None:
    settings = make_corpus(tmp_path / "in")
    for name in ("a", "b"):
        open_plan(tmp_path / name, settings, quiet)
    for file in (PLAN, LINES):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("change", [{"codebooks": 4}, {"weights_hash": "1" * 64}, {"output": "npy"}, {"dedupe": True}])
def test_other_settings_on_the_same_folder_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    settings = make_corpus(tmp_path / "in", 1)
    open_plan(tmp_path / "out", settings, quiet)
    with pytest.raises(CorpusError, match=next(iter(change))):
        open_plan(tmp_path / "out", dataclasses.replace(settings, **change), quiet)  # type: ignore[arg-type]


def test_files_of_equal_bytes_are_left_out_and_named_on_request(tmp_path: Path) -> None:
    settings = dataclasses.replace(make_corpus(tmp_path / "in", 2), dedupe=True)
    shutil.copy(tmp_path / "in" / "0.wav", tmp_path / "in" / "twin.wav")
    plan = open_plan(tmp_path / "out", settings, quiet)
    assert [item.id for shard in plan.shards for item in plan.items(shard)] == ["0", "1"]
    assert plan.n_duplicates == 1
    assert json.loads((tmp_path / "out" / DUPLICATES).read_text()) == {"id": "twin", "same_as": "0"}


def test_sections_of_one_file_are_no_duplicates(tmp_path: Path) -> None:
    settings = make_corpus(tmp_path / "in", 1)
    lines = [{"id": i, "path": "0.wav", "start": 0.1 * i, "end": 0.1 * i + 0.1} for i in range(2)]
    (tmp_path / "in" / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = dataclasses.replace(settings, source=str(tmp_path / "in" / "m.jsonl"), dedupe=True)
    assert open_plan(tmp_path / "out", settings, quiet).n_rows == 2


def test_two_utterances_with_one_id_are_refused_by_name_and_no_plan_is_left(tmp_path: Path) -> None:
    settings = make_corpus(tmp_path / "in", 2)
    soundfile.write(tmp_path / "in" / "1.flac", np.zeros(8000), 16000)
    with pytest.raises(CorpusError, match=r"id '1' twice: .*1\.flac and .*1\.wav"):
        open_plan(tmp_path / "out", settings, quiet)
    assert list((tmp_path / "out").iterdir()) == []


def test_columns_get_the_type_that_holds_all_values(tmp_path: Path) -> None:
    make_corpus(tmp_path / "in", 1)
    lines = [{"a": 1, "b": 1, "c": True, "d": [1], "text": "x"}, {"a": 2, "b": 0.5, "c": "x", "model": "y"}]
    manifest = tmp_path / "in" / "m.jsonl"
    manifest.write_text("".join(json.dumps({"path": "0.wav", "id": i} | x) + "\n" for i, x in enumerate(lines)))
    plan = open_plan(tmp_path / "out", dataclasses.replace(SETTINGS, source=str(manifest)), quiet)
    assert plan.fields == {"a": "int", "b": "float", "c": "str", "d": "str", "source_model": "str"}


def test_a_source_without_audio_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(CorpusError, match="no audio there"):
        open_plan(tmp_path / "out", dataclasses.replace(SETTINGS, source=str(tmp_path / "in")), quiet)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": 99}'])
def test_a_damaged_plan_is_one_line(tmp_path: Path, text: str) -> None:
    open_plan(tmp_path / "out", make_corpus(tmp_path / "in", 1), quiet)
    (tmp_path / "out" / PLAN).write_text(text)
    with pytest.raises(CorpusError, match=r"plan\.json"):
        read_plan(tmp_path / "out")
