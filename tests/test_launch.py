"""codec.train.launch: two processes on halves of each batch train what one process trains on the whole batch.

Run by torchrun with a folder, or as a task of srun without one, this file is one of the two processes.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from codec.errors import ConfigError, TrainError
from codec.train import checkpoint
from codec.train.config import Recipe, read_recipe
from codec.train.data import Batch
from codec.train.device import choose_device
from codec.train.launch import ALONE, Ranks, average_values, in_turn, joined, read_ranks
from codec.train.run import make_batches, run
from codec.train.trainer import Trainer

FIXTURES = Path(__file__).parent / "fixtures"
CPU = torch.device("cpu")
STEPS = 6
SPEECH = f"data={FIXTURES}/librispeech_4267_287369-0000.flac,{FIXTURES}/rhasspy_nathalie_03.flac"
COMMON = (SPEECH, "data.batch=4", "optim.clip=1e9", "run.threads=1")
# Means over the batch: the mean over ranks is the whole batch's to the last digits. Of ratios of sums it is not.
EVEN = ("loss.complex=0", "loss.power=1")
ADVERSARY = ("adversary.start_step=0", "adversary.matching=mean", "adversary.every=1")
CASES = {
    "even": EVEN,
    "adversary": (*EVEN, *ADVERSARY),
    "balance": (*EVEN, *ADVERSARY, "loss.balance=true"),
    "frozen": (*EVEN, "optim.freeze=encoder"),
    "ratio": (),
    "heads": (
        "model.bottleneck={kind: attributes, options: {codebook_size: 8, codebook_dim: 4, n_passed: 0}}",
        "optim.levels={}",
        "heads.pitch=1",
        "heads.residual_pitch=1",
    ),
}
ROUNDING = 1e-4
RATIOS = 0.4  # with two rows of 0.2 s a process, of which one process may have the loud ones


def recipe_of(case: str) -> Recipe:
    return read_recipe(FIXTURES / "small.yaml", (*COMMON, *CASES[case]))


def train(case: str, ranks: Ranks, folder: Path) -> dict[str, Tensor]:
    """First gradient, losses and last state of some steps on this process's rows, then of one that is not finite."""
    recipe = recipe_of(case)
    trainer = Trainer(recipe, CPU)
    batches = in_turn(ranks, lambda: make_batches(recipe, folder, CPU, print, ranks=ranks))
    trainer.begin_heads(batches.labels)
    found: dict[str, Tensor] = {}
    for step in range(STEPS):
        result = trainer.run_step(batches(step))
        found |= {f"loss/{step}/{name}": x for name, x in average_values(result.values).items()}
        if step == 0:
            learning = {name: p.grad for name, p in trainer.network.named_parameters()}
            found |= {f"gradient/{name}": x.clone() for name, x in learning.items() if x is not None}
            found["norm"] = result.grad_norm
    state = checkpoint.flatten(trainer.state_dict())[0]
    good = batches(STEPS)
    worst = ranks.rank == ranks.count - 1  # the others' rows are sound
    result = trainer.run_step(Batch(good.audio * float("nan") if worst else good.audio, good.levels, good.labels))
    found["finite"] = result.finite
    after = checkpoint.flatten({"network": trainer.network.state_dict(), "optimizer": trainer.optimizer.state_dict()})
    assert all(torch.equal(state[name], x) for name, x in after[0].items())
    return found | {f"state/{name}": x for name, x in state.items()}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """What each of two processes found, of all cases."""
    folder = tmp_path_factory.mktemp("two")
    result = subprocess.run(
        [*torchrun(), __file__, str(folder)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return [load_file(folder / f"{rank}.safetensors") for rank in range(2)]


def torchrun() -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def environment() -> dict[str, str]:
    return os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}


def of(case: str, found: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    begin = f"{case}/{kind}"
    return {name.removeprefix(begin): x for name, x in found.items() if name.startswith(begin)}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_stay_equal_to_the_bit(case: str, two: list[dict[str, Tensor]]) -> None:
    """Weights, optimisers, codebooks, adversary, heads and averages; and both leave out what one cannot use."""
    first, second = (of(case, found, "") for found in two)
    assert set(first) == set(second)
    assert any(name.startswith("state/average") for name in first)
    assert [name for name, x in first.items() if not torch.equal(x, second[name])] == []
    assert not bool(first["finite"])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_what_one_trains(case: str, two: list[dict[str, Tensor]], tmp_path: Path) -> None:
    whole = {f"{case}/{name}": x for name, x in train(case, ALONE, tmp_path).items()}
    even = set(EVEN) <= set(CASES[case])
    gradient, expected = of(case, two[0], "gradient"), of(case, whole, "gradient")
    assert set(gradient) == set(expected)
    away = torch.stack([(gradient[name] - x).norm() for name, x in expected.items()]).norm()
    length = torch.stack([x.norm() for x in expected.values()]).norm()
    assert float(away) <= (ROUNDING if even else RATIOS) * float(length)
    losses, meant = of(case, two[0], "loss"), of(case, whole, "loss")
    assert set(losses) == set(meant)
    for name, x in meant.items():
        if even or name.endswith("/mel"):
            assert float(losses[name]) == pytest.approx(float(x), rel=0.05, abs=0.02), name


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the processes in /proc")
def test_a_run_goes_on_with_more_or_fewer_processes_also_after_one_was_killed(tmp_path: Path) -> None:
    words = (*COMMON, "optim.steps=150", "run.save_seconds=0.2", "run.log_every=50", "run.measure_every=150")
    recipe = read_recipe(FIXTURES / "small.yaml", (*words, f"run={tmp_path / 'run'}"))
    run(recipe, print, stop_after=3)
    command = [*torchrun(), "-m", "codec", "train", str(FIXTURES / "small.yaml"), *words, f"run={tmp_path / 'run'}"]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_until(process, lambda: newest(tmp_path / "run") > 5)
        os.kill(rank_of(process.pid, 1), signal.SIGKILL)
        said = process.communicate(timeout=90)[0]
    finally:
        process.kill()
    assert process.returncode != 0
    assert re.search(r"resumes in .* at step 3\n", said)
    assert said.count("resumes in") == 1  # one speaks for all
    assert "another process of this run ended" in said or "nothing is half written" in said
    assert not list((tmp_path / "run").glob(".*.part"))
    at = newest(tmp_path / "run")
    lines: list[str] = []
    latest = run(recipe, lines.append)
    assert lines[0].endswith(f"at step {at}")
    whole = run(read_recipe(FIXTURES / "small.yaml", (*words, f"run={tmp_path / 'whole'}")), print)
    assert latest.name == whole.name == "step-00000150.safetensors"
    parts, one = (last_mel(tmp_path / name / "log.txt") for name in ("run", "whole"))
    assert parts == pytest.approx(one, rel=0.1)


def newest(folder: Path) -> int:
    latest = checkpoint.find_latest(folder)
    return 0 if latest is None else int(latest.stem.removeprefix("step-"))


def last_mel(log: Path) -> float:
    return float(re.findall(r"held out:  mel ([\d.]+)", log.read_text())[-1])


def wait_until(process: subprocess.Popen[str], happened: object) -> None:
    end = time.monotonic() + 120
    assert callable(happened)
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.02)


def rank_of(parent: int, rank: int) -> int:
    """The process that torchrun started for a rank."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    word = f"RANK={rank}".encode()
    return next(int(pid) for pid in children if word in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))


# --- alone


def test_a_batch_that_cannot_be_shared_evenly_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    recipe = read_recipe(FIXTURES / "small.yaml", (*COMMON, f"run={tmp_path / 'run'}"))
    with pytest.raises(
        ConfigError, match=r"data\.batch: 4 rows cannot be shared evenly by 3 processes; give a multiple"
    ):
        run(recipe, print)
    assert not (tmp_path / "run").exists()


def test_a_process_knows_its_rank_from_its_environment() -> None:
    assert read_ranks({}) == read_ranks({"WORLD_SIZE": "2"}) == ALONE
    assert [Ranks(rank, 3).rows(6) for rank in range(3)] == [slice(0, 2), slice(2, 4), slice(4, 6)]
    with pytest.raises(TrainError, match="start with torchrun, or unset them"):
        read_ranks({"WORLD_SIZE": "two", "RANK": "0", "LOCAL_RANK": "0"})


def test_tasks_of_srun_train_together_only_where_they_can_find_each_other() -> None:
    step = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1"}
    with pytest.raises(TrainError, match=r"srun started 4 processes .* one torchrun on each machine .*MASTER_ADDR"):
        read_ranks(step)
    meeting = {"MASTER_ADDR": "first", "MASTER_PORT": "29500"}
    assert read_ranks(step | meeting) == Ranks(3, 4, 1)
    assert read_ranks(step | {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}) == Ranks(1, 2, 0)  # torchrun in it
    assert read_ranks(step | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_LOCALID": "0"}) == ALONE
    assert read_ranks({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}) == ALONE  # a batch script


@pytest.mark.slow
def test_two_tasks_of_srun_average_what_they_found() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"SLURM_STEP_NUM_TASKS": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    tasks = []
    for rank in ("0", "1"):
        given = environment() | meeting | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank}
        tasks.append(subprocess.Popen([sys.executable, __file__], env=given, stdout=subprocess.PIPE, text=True))
    try:
        assert [task.communicate(timeout=120)[0].strip() for task in tasks] == ["0.5", "0.5"]
    finally:
        for task in tasks:
            task.kill()


def test_several_processes_share_no_device_but_the_processor() -> None:
    assert choose_device("cpu", Ranks(1, 2, 1)) == CPU
    with pytest.raises(TrainError, match=r"run\.device=meta: several processes cannot share it"):
        choose_device("meta", Ranks(1, 2, 1))
    with pytest.raises(TrainError, match=r"run\.device 'cpu:7': the last one of this machine is cpu:0"):
        choose_device("cpu:7")


if __name__ == "__main__":
    ranks = read_ranks(os.environ)
    with joined(ranks, CPU):
        if len(sys.argv) == 1:
            sys.stdout.write(str(average_values({"rank": torch.tensor(float(ranks.rank))})["rank"].item()))
            sys.exit()
        folder = Path(sys.argv[1])
        found = {f"{case}/{name}": x for case in CASES for name, x in train(case, ranks, folder / "cache").items()}
        save_file(found, folder / f"{ranks.rank}.safetensors")
