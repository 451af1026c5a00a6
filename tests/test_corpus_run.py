"""`codec tokenize`: right codes, nothing lost or doubled whatever happens to the run."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from codec.api import Model, load
from codec.corpus.check import verify_tokens
from codec.corpus.plan import Settings, open_plan, read_plan
from codec.corpus.rows import RunFacts
from codec.corpus.run import FAILURES, Options, read_index, tokenize, write_index
from codec.corpus.shard import Job, Work, make_shard, read_done
from codec.corpus.sinks import read_rows
from codec.errors import CorpusError, MissingExtraError
from codec.files import hold_folder

ROOT = Path(__file__).resolve().parents[1]
Speech = Any
HOURS = 1.1 / 3600  # of a shard: two clips of half a second


@pytest.fixture(scope="module")
def small() -> Model:
    """The embedded model on onnxruntime: starts faster than torch."""
    return load(engine="onnx")


def make_corpus(folder: Path, speech: Speech, count: int, seconds: float = 0.5) -> Path:
    """Clips of different length cut from real speech, and one file that is no audio."""
    folder.mkdir()
    for i in range(count):
        start = 900 * i % 60000
        soundfile.write(folder / f"{i:03d}.flac", speech[start : start + round(seconds * 16000) - 13 * i], 16000)
    (folder / "005.wav").write_bytes(b"RIFF but no audio")
    (folder / "005.flac").unlink(missing_ok=True)
    return folder


def shards_alone(source: Path, out: Path, model: Model, hours: float = HOURS) -> dict[str, str]:
    """Make all shards in this process, one after the other, last one first: name to checksum."""
    name, weights = model.info.name, model.info.weights_hash
    settings = Settings(str(source), None, "parquet", hours, False, name, weights, 8, "block", "onnx")
    plan = open_plan(out, settings, lambda line: None)
    facts = RunFacts(model.info, 8, "block", plan.fields)
    job = Job(str(out), "parquet", "default_16k", "onnx", "cpu", facts)
    works = [Work(shard, plan.name(shard), is_careful=bool(shard.number % 2)) for shard in reversed(plan.shards)]
    sums = {work.name: make_shard(model, job, work, lambda n, s: None).sha256 for work in works}
    write_index(plan, facts)
    return sums


def checksums(folder: Path) -> dict[str, str]:
    return {shard["name"]: shard["sha256"] for shard in read_index(folder)["shards"]}


def start(source: Path, out: Path, *args: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "codec", "tokenize", str(source), "--out", str(out), "--shard-hours", str(HOURS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([*command, *args], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_rows_are_what_encode_gives_and_bad_audio_is_noted(tmp_path: Path, speech: Speech, small: Model) -> None:
    source = make_corpus(tmp_path / "in", speech, 4)
    shards_alone(source, tmp_path / "out", small)
    plan = read_plan(tmp_path / "out")
    rows = [row for s in plan.shards for row in read_rows("parquet", tmp_path / "out" / plan.name(s))]
    assert [row["id"] for row in rows] == ["000", "001", "002", "003"]
    for row in rows:
        wanted = small.encode(soundfile.read(row["source"], dtype="float32")[0])
        assert np.array_equal(row["codes"], wanted.data)
        assert row["num_samples"] == wanted.n_samples
    (failure,) = map(json.loads, (tmp_path / "out" / FAILURES).read_text().splitlines())
    assert failure["id"] == "005"
    assert "not an audio file" in failure["reason"]
    index = read_index(tmp_path / "out")
    assert (index["complete"], index["n_rows"], index["n_failures"]) == (True, 4, 1)


@pytest.mark.slow  # five processes; a worker that is killed is tested below
def test_a_run_that_is_killed_goes_on_and_gives_the_same_shards(tmp_path: Path, speech: Speech, small: Model) -> None:
    source = make_corpus(tmp_path / "in", speech, 12)
    wanted = shards_alone(source, tmp_path / "whole", small)
    kill_and_resume(source, tmp_path / "out", kills=1, workers=1)
    assert checksums(tmp_path / "out") == wanted
    assert verify_tokens(tmp_path / "out").misses == ()
    assert [path for path in (tmp_path / "out").iterdir() if path.name.endswith(".part")] == []


@pytest.mark.slow
@pytest.mark.parametrize("output", ["parquet", "codes"])
def test_ten_kills_at_random_moments_lose_and_double_nothing(tmp_path: Path, speech: Speech, output: str) -> None:
    source = make_corpus(tmp_path / "in", speech, 240, 1.0)
    whole = start(source, tmp_path / "whole", "--format", output, "--workers", "2")
    whole.communicate()
    assert whole.returncode == 0
    n_kills = kill_and_resume(source, tmp_path / "out", kills=10, workers=2, output=output)
    assert n_kills == 10
    assert checksums(tmp_path / "out") == checksums(tmp_path / "whole")
    for name in (FAILURES, "index.json", "plan.json", "plan.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert verify_tokens(tmp_path / "out").misses == ()


def kill_and_resume(source: Path, out: Path, *, kills: int, workers: int, output: str = "parquet") -> int:
    """Start, wait until work is under way, kill -9; so many times, then let it end. The kills that hit a run."""
    generator = np.random.default_rng()
    hits = 0
    for _ in range(kills):
        process = start(source, out, "--format", output, "--workers", str(workers))
        before, limit = count_done(out), time.monotonic() + 60
        while count_done(out) == before and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.02)
        time.sleep(generator.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        hits += process.wait() == -signal.SIGKILL
        process.communicate()
    process = start(source, out, "--format", output, "--workers", str(workers))
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert b"going on: " in errors
    return hits


def count_done(out: Path) -> int:
    return len(list((out / "done").glob("*.json")))


def test_a_worker_that_is_killed_is_replaced(tmp_path: Path, speech: Speech, small: Model) -> None:
    source = make_corpus(tmp_path / "in", speech, 8)
    wanted = shards_alone(source, tmp_path / "whole", small)
    killed: list[int] = []

    def kill_a_worker() -> None:
        while not killed:
            for child in children(os.getpid()):
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes() and count_done(tmp_path / "out"):
                    os.kill(child, signal.SIGKILL)
                    killed.append(child)
            time.sleep(0.005)

    thread = threading.Thread(target=kill_a_worker)
    thread.start()
    summary = tokenize(str(source), tmp_path / "out", Options(engine="onnx", shard_hours=HOURS, workers=1))
    thread.join()
    assert killed
    assert summary.is_complete
    assert checksums(tmp_path / "out") == wanted


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_parts_of_several_machines_make_the_whole(tmp_path: Path, speech: Speech, small: Model) -> None:
    source = make_corpus(tmp_path / "in", speech, 4)
    wanted = shards_alone(source, tmp_path / "whole", small)
    options = Options(engine="onnx", shard_hours=HOURS, workers=1)
    first = tokenize(str(source), tmp_path / "out", dataclasses.replace(options, part=(0, 2)))
    assert not first.is_complete
    assert {name for name in wanted if int(name[7:13]) % 2 == 0} == set(checksums(tmp_path / "out"))
    last = tokenize(str(source), tmp_path / "out", dataclasses.replace(options, part=(1, 2)))
    assert last.is_complete
    assert checksums(tmp_path / "out") == wanted


def test_utterances_that_took_a_process_down_twice_become_failures(
    tmp_path: Path, speech: Speech, small: Model
) -> None:
    source = make_corpus(tmp_path / "in", speech, 2)
    shards_alone(source, tmp_path / "out", small)
    plan = read_plan(tmp_path / "out")
    job = Job(str(tmp_path / "out"), "parquet", "default_16k", "onnx", "cpu", RunFacts(small.info, 8, "block", {}))
    work = Work(plan.shards[0], "x.parquet", {0: "took its process down"}, is_careful=True)
    done = make_shard(small, job, work, lambda n, s: None)
    assert [failure["id"] for failure in done.failures] == ["000", "005"]
    assert done.n_rows == plan.shards[0].n_rows - 2


def test_half_a_shard_with_folders_inside_and_notes_of_another_plan_are_not_taken_for_shards(
    tmp_path: Path, speech: Speech
) -> None:
    """Left by a run that was killed, and by a plan that had more shards."""
    corpus, out = make_corpus(tmp_path / "corpus", speech, 2), tmp_path / "out"
    half = out / ".tokens-000000.0123abcd.part" / "speaker"
    half.mkdir(parents=True)
    (half / "000.npy").write_bytes(b"half")
    options = Options(engine="onnx", workers=1, output="npy")
    first = tokenize(str(corpus), out, options)
    assert (first.is_complete, first.n_done) == (True, 1)
    assert not list(out.glob("*.part"))
    note = out / "done" / "000000.json"
    note.with_name("000007.json").write_bytes(note.read_bytes())
    assert tokenize(str(corpus), out, options).n_done == 1
    for name in ("plan.json", "index.json"):
        (out / name).unlink()
    with pytest.raises(CorpusError, match="choose an empty folder"):
        tokenize(str(corpus), out, options)


def test_a_wrong_source_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such file or folder"):
        tokenize(str(tmp_path / "nowhere"), tmp_path / "out", Options(engine="onnx"))
    assert not (tmp_path / "out").exists()


def test_parquet_without_pyarrow_is_refused_before_anything_is_made(
    tmp_path: Path, speech: Speech, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match="pyarrow"):
        tokenize(str(make_corpus(tmp_path / "corpus", speech, 2)), tmp_path / "out", Options(engine="onnx"))
    assert not (tmp_path / "out").exists()


def test_a_second_run_on_the_same_folder_waits_its_turn(tmp_path: Path, speech: Speech) -> None:
    import fcntl

    source = make_corpus(tmp_path / "in", speech, 1)
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock-0-1").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(CorpusError, match="another run"):
            tokenize(str(source), tmp_path / "out", Options(engine="onnx"))


def test_runs_side_by_side_must_cut_the_shards_alike(tmp_path: Path, speech: Speech) -> None:
    source, out = str(make_corpus(tmp_path / "in", speech, 1)), tmp_path / "out"

    def plan(index: int, count: int) -> None:
        tokenize(source, out, Options(engine="onnx", part=(index, count)), plan_only=True)

    with hold_folder(out, ".lock-0-2", error=CorpusError):
        for part in ((0, 1), (1, 3)):
            with pytest.raises(CorpusError, match=r"out: another run is at work on shard 0/2 of it; give all the same"):
                plan(*part)
        plan(1, 2)
    plan(0, 1)


@pytest.mark.parametrize(
    ("change", "why"),
    [({"part": (2, 2)}, "shard 2/2"), ({"output": "mp3"}, "output"), ({"shard_hours": 0.0}, "hours"),
     ({"workers": 0}, "workers")],
)  # fmt: skip
def test_options_that_cannot_be_are_refused(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    with pytest.raises(CorpusError, match=why):
        tokenize(str(tmp_path), tmp_path / "out", Options(**change))


def test_verify_finds_a_damaged_a_missing_and_a_foreign_shard(tmp_path: Path, speech: Speech, small: Model) -> None:
    source, out = make_corpus(tmp_path / "in", speech, 4), tmp_path / "out"
    names = sorted(shards_alone(source, out, small))
    assert verify_tokens(out).passed
    whole = (out / names[0]).read_bytes()
    (out / names[0]).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert [check.name for check in verify_tokens(out).misses] == ["checksums"]
    (out / names[0]).unlink()
    assert [check.name for check in verify_tokens(out).misses] == ["checksums"]
    (out / names[0]).write_bytes(whole)
    soundfile.write(source / "000.flac", speech[-8000:], 16000)
    assert "encoded again: 000" in [check.name for check in verify_tokens(out).misses]
    index = read_index(out)
    index["shards"].pop()
    (out / "index.json").write_text(json.dumps(index))
    assert {"shards", "counts"} <= {check.name for check in verify_tokens(out).misses}


def test_the_command_says_the_rate_and_verify_takes_the_folder(tmp_path: Path, speech: Speech, call: Any) -> None:
    source = make_corpus(tmp_path / "in", speech, 2)
    options = ("--workers", "1", "--format", "npy", "--codebooks", "4")
    code, _, err = call("tokenize", source, "--out", tmp_path / "out", *options)
    assert code == 0, err
    assert "failed: 005: " in err
    assert "2 utterances" in err
    assert "hours of audio per hour" in err
    code, _, err = call("tokenize", source, "--out", tmp_path / "out", *options, "--strict", "--quiet")
    assert (code, err) == (1, f"codec: {tmp_path / 'out'}: 1 failed; {FAILURES} there has the reasons\n")
    assert read_index(tmp_path / "out")["codebooks"] == 4
    code, out, _ = call("verify", tmp_path / "out", "--json")
    assert code == 0, out


def test_a_shard_is_done_only_when_its_note_is_there(tmp_path: Path, speech: Speech, small: Model) -> None:
    source, out = make_corpus(tmp_path / "in", speech, 3), tmp_path / "out"
    wanted = shards_alone(source, out, small)
    (out / "done" / "000000.json").unlink()
    (out / "tokens-000000.parquet").write_bytes(b"half")
    (out / ".tokens-000000.parquet.0a.part").write_bytes(b"left over")
    assert read_done(out, 0) is None
    assert shards_alone(source, out, small) == wanted
    assert not list(out.glob(".*.part"))
