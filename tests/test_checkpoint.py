"""Checkpoints come back as they were, or not at all."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from codec.errors import TrainError
from codec.train import checkpoint

LEAVES = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=5)
TENSORS = st.sampled_from(
    [torch.zeros(0), torch.tensor(3), torch.ones(2, 3, dtype=torch.float16), torch.tensor([True]), torch.arange(4)[::2]]
)
KEYS = st.text(max_size=4) | st.integers()
TREES = st.recursive(
    LEAVES | TENSORS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b) and type(a) is type(b)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(KEYS, TREES, max_size=4))
def test_any_tree_comes_back(tmp_path_factory: pytest.TempPathFactory, tree: dict[Any, Any]) -> None:
    path = tmp_path_factory.mktemp("tree") / "x.safetensors"
    checkpoint.save(path, tree)
    assert same(tree, checkpoint.load(path))


def test_an_optimiser_comes_back_with_its_numbered_keys(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    checkpoint.save(tmp_path / "x", {"optimizer": optimizer.state_dict()})
    other = torch.optim.AdamW(module.parameters())
    other.load_state_dict(checkpoint.load(tmp_path / "x")["optimizer"])
    assert same(optimizer.state_dict()["state"], other.state_dict()["state"])


def test_tensors_that_share_memory_are_kept_apart(tmp_path: Path) -> None:
    x = torch.arange(6.0)
    checkpoint.save(tmp_path / "x", {"a": x, "b": x[2:4], "c": x.view(2, 3).t()})
    assert same(checkpoint.load(tmp_path / "x"), {"a": x, "b": x[2:4], "c": x.view(2, 3).t()})


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "text", "foreign", "missing"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "step-00000007.safetensors"
    checkpoint.save(path, {"a": torch.ones(100), "b": 1})
    whole = path.read_bytes()
    if damage == "foreign":
        save_file({"a": torch.ones(1)}, path)
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {"empty": b"", "cut": whole[:-9], "flipped": b"\xff" * 8 + whole[8:], "text": b"hello"}[damage]
        )
    with pytest.raises(TrainError, match=r"step-00000007\.safetensors: .*delete it to go on"):
        checkpoint.load(path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, {"a": 1})
    with pytest.raises(TypeError):
        checkpoint.save(path, {"a": object()})
    assert checkpoint.load(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path: Path) -> None:
    import resource  # not on Windows

    path = tmp_path / "x.safetensors"
    checkpoint.save(path, {"a": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(TrainError, match=r"x\.safetensors: cannot be written .*free some disk space"):
            checkpoint.save(path, {"a": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert checkpoint.load(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def _write_forever(path: Path) -> None:
    for i in range(10**9):
        checkpoint.save(path, {"a": torch.full((100_000,), float(i)), "i": i})


def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, {"a": torch.full((1,), -1.0), "i": -1})
    process = multiprocessing.get_context("fork").Process(target=_write_forever, args=(path,))
    process.start()
    process.join(0.5)
    process.kill()
    process.join()
    tree = checkpoint.load(path)
    assert bool((tree["a"] == tree["i"]).all())


def test_the_last_ones_are_kept_and_the_newest_is_found(tmp_path: Path) -> None:
    assert checkpoint.find_latest(tmp_path) is None
    for step in (1, 2, 10, 100):
        checkpoint.save_latest(tmp_path, {"step": step}, step=step, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000010.safetensors", "step-00000100.safetensors"]
    latest = checkpoint.find_latest(tmp_path)
    assert latest is not None
    assert checkpoint.load(latest) == {"step": 100}


def test_what_a_killed_run_had_half_written_goes_and_nothing_else(tmp_path: Path) -> None:
    checkpoint.save_latest(tmp_path, {"step": 1}, step=1, keep=2)
    others = [".lock", ".corpus-1.pcm.0a.part", "log.txt", ".tmpfile.wav"]  # another run may be at the second
    for name in (*others, ".step-00000002.safetensors.8b4c6cb1.part", ".best.safetensors.01234567.part", ".tmpZfOe0t"):
        (tmp_path / name).write_text("half")
    checkpoint.remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*others, "step-00000001.safetensors"])


def test_a_checkpoint_has_the_rights_of_the_umask(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    checkpoint.save(tmp_path / "x.safetensors", {"a": torch.ones(3)})
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_half_precision_leaves_integers() -> None:
    half = checkpoint.to_half({"a": torch.ones(1), "b": torch.ones(1, dtype=torch.int64)})
    assert half["a"].dtype == torch.float16
    assert half["b"].dtype == torch.int64
