"""Runs travel: packed on one machine, unpacked on another, and back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from codec.errors import ConfigError, TrainError
from codec.train import checkpoint
from codec.train.config import read_recipe
from codec.train.pack import MANIFEST, SHARD_BYTES, pack, parse_size, read_manifest, unpack
from codec.train.run import run

MIB = 2**20
FIXTURES = Path(__file__).parent / "fixtures"
SMALL = FIXTURES / "small.yaml"
SPEECH = f"data={FIXTURES}/librispeech_4267_287369-0000.flac,{FIXTURES}/rhasspy_nathalie_03.flac"
ADVERSARY = "adversary.start_step=2"


def quiet(line: str) -> None:
    del line


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run with an adversary, all stages started, stopped before its end."""
    folder = tmp_path_factory.mktemp("run")
    words = (SPEECH, f"run={folder}", "learn.pool=8", "optim.steps=20", ADVERSARY)
    run(read_recipe(SMALL, words), quiet, stop_after=8)
    return folder


@pytest.fixture(scope="module")
def packed(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packs") / "pack"
    pack(trained, out, size_bytes=MIB, say=quiet)
    return out


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def newest(folder: Path) -> dict[str, Any]:
    latest = checkpoint.find_latest(folder)
    assert latest is not None
    return checkpoint.load(latest)


def test_a_pack_holds_recipe_weights_and_speech_and_nothing_to_execute(packed: Path) -> None:
    names = sorted(path.relative_to(packed).as_posix() for path in packed.rglob("*") if path.is_file())
    assert names == ["data/speech-000.opus", "data/speech.json", MANIFEST, "recipe.yaml", "weights-000.safetensors"]
    assert size_of(packed) <= MIB
    assert str(FIXTURES) not in (packed / "recipe.yaml").read_text()


def test_weights_come_back_equal_to_half_precision(trained: Path, packed: Path, tmp_path: Path) -> None:
    unpack(packed, tmp_path / "run", say=quiet)
    before, after = newest(trained), newest(tmp_path / "run")
    for key, x in before["average"]["weights"].items():
        assert torch.equal(x.half().float(), after["average"]["weights"][key]), key
    for key, x in before["network"].items():
        source = x if key.startswith("bottleneck.") else before["average"]["weights"][key]
        assert torch.equal(source.half().float(), after["network"][key]), key
    for key, x in before["adversary"]["discriminators"].items():
        assert torch.equal(x.half().float(), after["adversary"]["discriminators"][key]), key
    for one, two in zip(before["learner"]["averages"], after["learner"]["averages"], strict=True):
        assert torch.equal(one["cluster_size"], two["cluster_size"])
    assert (after["step"], after["begin"], after["adversary"]["begin"]) == (8, 8, before["adversary"]["begin"])
    assert not after["optimizer"]["state"]


def test_training_goes_on_where_it_was_with_the_speech_of_the_pack(trained: Path, packed: Path, tmp_path: Path) -> None:
    unpack(packed, tmp_path / "run", say=quiet)
    recipe = read_recipe(SMALL, (f"run={tmp_path / 'run'}", "learn.pool=8", "optim.steps=10", ADVERSARY))
    lines: list[str] = []
    run(recipe, lines.append)
    assert lines[0].endswith("resumes in " + str(tmp_path / "run") + " at step 8")
    assert lines[1].endswith("in 2 files")
    again = tmp_path / "again"
    pack(tmp_path / "run", again, size_bytes=MIB, say=lines.append)
    assert any(line.startswith("speech: copied") for line in lines)
    assert (again / "data/speech-000.opus").read_bytes() == (packed / "data/speech-000.opus").read_bytes()
    unpack(again, tmp_path / "back", say=quiet)
    assert newest(tmp_path / "back")["step"] == newest(tmp_path / "back")["begin"] == 10


def test_the_first_step_after_a_trip_is_a_small_one(packed: Path, tmp_path: Path) -> None:
    unpack(packed, tmp_path / "run", say=quiet)
    lines: list[str] = []
    run(read_recipe(tmp_path / "run/recipe.yaml", ("optim.warmup=1000", "run.log_every=1")), lines.append, stop_after=1)
    assert "rate 2.0e-06" in lines[2]


def test_a_size_too_small_is_refused_and_leaves_nothing(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="the weights alone take"):
        pack(trained, tmp_path / "pack", size_bytes=50_000, say=quiet)
    assert list(tmp_path.iterdir()) == []


def test_speech_fills_what_is_left_of_the_size(trained: Path, tmp_path: Path) -> None:
    weights = size_of_weights(trained, tmp_path)
    limit = weights + 2**15 + 14_000  # one of the two recordings
    pack(trained, tmp_path / "pack", size_bytes=limit, say=quiet)
    index = json.loads((tmp_path / "pack/data/speech.json").read_text())
    assert [len(entry["utterances"]) for entry in index["files"]] == [1]
    assert size_of(tmp_path / "pack") <= limit


def size_of_weights(trained: Path, tmp_path: Path) -> int:
    pack(trained, tmp_path / "bare", size_bytes=MIB, data=(), say=quiet)
    return (tmp_path / "bare/weights-000.safetensors").stat().st_size


def test_other_speech_or_none_can_be_packed(trained: Path, tmp_path: Path) -> None:
    pack(trained, tmp_path / "other", size_bytes=MIB, data=(str(FIXTURES / "demo.flac"),), say=quiet)
    assert "demo.flac" in (tmp_path / "other/data/speech.json").read_text()
    pack(trained, tmp_path / "none", size_bytes=MIB, data=(), say=quiet)
    assert not (tmp_path / "none/data").exists()
    unpack(tmp_path / "none", tmp_path / "run", say=quiet)
    assert not (tmp_path / "run/data").exists()


@pytest.mark.parametrize("name", ["weights-000.safetensors", "recipe.yaml", "data/speech-000.opus", MANIFEST])
@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_a_damaged_pack_is_refused_by_name(packed: Path, tmp_path: Path, name: str, damage: str) -> None:
    shutil.copytree(packed, tmp_path / "pack")
    file = tmp_path / "pack" / name
    if damage == "missing":
        file.unlink()
    else:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    with pytest.raises(TrainError, match=file.name.replace(".", r"\.")):
        unpack(tmp_path / "pack", tmp_path / "run", say=quiet)
    assert not (tmp_path / "run").exists()


def test_a_manifest_that_leads_out_of_the_pack_is_refused(packed: Path, tmp_path: Path) -> None:
    from codec.train.pack import _digest

    shutil.copytree(packed, tmp_path / "pack")
    data = json.loads((tmp_path / "pack" / MANIFEST).read_text())
    data["files"]["../outside"] = "0" * 64
    (tmp_path / "outside").write_text("x")
    del data["checksum"]
    (tmp_path / "pack" / MANIFEST).write_text(json.dumps(data | {"checksum": _digest(data)}))
    with pytest.raises(TrainError, match="outside"):
        read_manifest(tmp_path / "pack")


def test_folders_in_use_are_not_overwritten(trained: Path, packed: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(TrainError, match="not empty"):
        pack(trained, tmp_path, size_bytes=MIB, say=quiet)
    with pytest.raises(TrainError, match="not empty"):
        unpack(packed, tmp_path, say=quiet)
    with pytest.raises(TrainError, match="not a run folder"):
        pack(tmp_path, tmp_path / "out", size_bytes=MIB, say=quiet)
    with pytest.raises(TrainError, match=r"no pack\.json"):
        unpack(tmp_path, tmp_path / "out", say=quiet)


def test_weights_are_split_into_files_under_16_mib() -> None:
    from codec.train.pack import _join, _shards

    tensors = {"a": torch.rand(5000, 3000).half(), "b": torch.arange(3), "c": torch.rand(4_000_000).half()}
    shards = list(_shards(tensors))
    assert all(sum(x.nbytes for x in shard.values()) <= SHARD_BYTES for shard in shards)
    pieces = {key: x for shard in reversed(shards) for key, x in shard.items()}
    back = _join(pieces)
    assert all(torch.equal(back[key], x.float() if x.is_floating_point() else x) for key, x in tensors.items())


@pytest.mark.parametrize(("text", "size"), [("32MiB", 32 * MIB), ("1.5 mb", 1_500_000), ("77", 77), ("2kB", 2000)])
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-3MB", "3 bananas"])
def test_wrong_sizes_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="size"):
        parse_size(text)


@pytest.mark.slow
def test_the_loss_goes_on_where_it_was(tmp_path: Path) -> None:
    words = (f"data={FIXTURES}", "run.device=cpu", "optim.steps=220", "optim.decay_share=0", "run.log_every=1")
    before: list[str] = []
    run(read_recipe("tiny", (*words, f"run={tmp_path / 'run'}")), before.append, stop_after=200)
    pack(tmp_path / "run", tmp_path / "pack", size_bytes=MIB, say=quiet)
    unpack(tmp_path / "pack", tmp_path / "back", say=quiet)
    after: list[str] = []
    run(read_recipe("tiny", (*words[1:], f"run={tmp_path / 'back'}")), after.append)
    mel = [[float(line.split()[3]) for line in lines if " grad " in line] for lines in (before, after)]
    assert sum(mel[1]) / 20 < 1.15 * sum(mel[0][-20:]) / 20
    assert max(mel[1]) < 0.8 * mel[0][9]


@pytest.mark.slow
def test_the_command_packs_unpacks_and_exports(trained: Path, tmp_path: Path) -> None:
    out, back, model = (str(tmp_path / name) for name in ("pack", "run", "model"))
    packing = command("--pack", str(trained), out, "--size", "1MiB")
    assert packing.returncode == 0, packing.stderr
    assert "speech: 2 of 2 files" in packing.stdout
    unpacking = command("--unpack", out, back)
    assert "ready at step 8 of 20" in unpacking.stdout, unpacking.stderr
    exporting = command("--export", "small", str(trained), model)
    assert exporting.returncode == 0, exporting.stderr
    assert json.loads((tmp_path / "model/model.json").read_text())["info"]["name"] == "small"
    wrong = command("--pack", str(trained))
    assert wrong.returncode == 2


def command(*words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-W", "error", "-m", "codec", "train", *words]
    return subprocess.run(line, capture_output=True, text=True, env=environment, timeout=300, check=False)
