"""Processes that train one run together: which one this is, where it works, what they share.

`torchrun`, or SLURM's `srun`, starts the same command several times and tells each process in its environment which
one it is. Each takes its rows of every batch, and gradients are averaged, so that the weights of all stay equal to the
bit. A process alone does nothing of this.

>>> Ranks().rows(8), Ranks(rank=1, count=4).rows(8)
(slice(0, 8, None), slice(2, 4, None))
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from codec.errors import CodecError, ConfigError, TrainError
from codec.quantize.ranks import count_ranks, sum_over_ranks

Made = TypeVar("Made")

# Where they stand in the environment: rank, count, local. A batch script has SLURM_NTASKS too, but is one process: only
# srun sets the count of its step. Source: srun's manual, "Output environment variables".
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
SRUN = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
MEETING = ("MASTER_ADDR", "MASTER_PORT")  # where they find each other; torchrun sets them

# Rank 0 decodes the speech while the others wait, for hours where there is much. torchrun sees at once that one died.
PATIENCE = timedelta(hours=12)


@dataclass(frozen=True)
class Ranks:
    """One of the processes of a run.

    Attributes:
        rank: number of this process; 0 writes what a run leaves behind.
        count: of processes.
        local: number of this process on its machine, and of its GPU.
    """

    rank: int = 0
    count: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def rows(self, batch: int, parts: int = 1) -> slice:
        """Which rows of a batch are for this process, in equal `parts`. Raises: ConfigError where they are not even."""
        if batch % (self.count * parts):
            raise ConfigError(
                f"data.batch: {batch} rows cannot be shared evenly by {self.count} processes"
                + (f" in {parts} parts each (optim.accumulate)" if parts > 1 else "")
                + f"; give a multiple of {self.count * parts}, or start another number of processes"
            )
        size = batch // self.count
        return slice(self.rank * size, (self.rank + 1) * size)


ALONE = Ranks()


def read_ranks(environment: Mapping[str, str]) -> Ranks:
    """Which process this is, by what `torchrun` says, or SLURM's `srun` where processes know how to find each other.

    Raises:
        TrainError: words that are no numbers; several processes of `srun` that would each train the run alone.

    >>> read_ranks({"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"})
    Ranks(rank=3, count=4, local=1)
    """
    for names in (TORCHRUN, SRUN):
        if any(name not in environment for name in names):
            continue
        try:
            rank, count, local = (int(environment[name]) for name in names)
        except ValueError:
            raise TrainError(f"{', '.join(names)}: not numbers; start with torchrun, or unset them") from None
        if names is SRUN and count > 1 and any(name not in environment for name in MEETING):
            raise TrainError(
                f"srun started {count} processes that do not know of each other: each would train the whole run; start "
                "one torchrun on each machine (docs/scale.md), or set MASTER_ADDR to the first one and MASTER_PORT"
            )
        return Ranks(rank, count, local)
    return ALONE


@contextlib.contextmanager
def joined(ranks: Ranks, device: torch.device) -> Iterator[None]:
    """The processes find each other (gloo, on CUDA nccl), and part at the end.

    Raises:
        TrainError: one of the others ended.
    """
    if ranks.count == 1:
        yield
        return
    on_cuda = device.type == "cuda"
    if on_cuda:
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(
            "nccl" if on_cuda else "gloo",
            timeout=PATIENCE,
            rank=ranks.rank,
            world_size=ranks.count,
            device_id=device if on_cuda else None,
        )
        yield
        dist.barrier()  # nobody leaves while rank 0 still writes
    except RuntimeError as error:
        if isinstance(error, CodecError) or not _of_connection(error):
            raise
        raise TrainError(
            f"rank {ranks.rank}: another process of this run ended, its own message says why; "
            "the same command goes on from the last checkpoint"
        ) from None
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


@contextlib.contextmanager
def drawing(seed: int, step: int, part: int = 0, parts: int = 1) -> Iterator[None]:
    """What layers draw inside (noise, dropped rows) depends on seed, step, rank and part alone, as a resume needs it.

    A process with `parts` draws for them what so many processes would.
    """
    rank = dist.get_rank() if count_ranks() > 1 else 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed((seed * 9_000_011 + step * 65_537 + rank * parts + part) % 2**63)
        yield


def in_turn(ranks: Ranks, make: Callable[[], Made]) -> Made:
    """What `make` gives, first on rank 0, then on one process of each other machine, then on the rest.

    What one writes to a cache the next ones find there, whether the machines share a file system or not.
    """
    if ranks.count == 1:
        return make()
    mine = 0 if ranks.first else 1 if ranks.local == 0 else 2
    made: list[Made] = []
    for turn in range(3):
        if turn == mine:
            made.append(make())
        dist.barrier()
    return made[0]


@torch.no_grad()
def average_gradients(*modules: nn.Module) -> None:
    """Put the mean over ranks in the place of each gradient, in one message.

    Which parameters have a gradient depends on the recipe and the step, never on the data, so it is the same on all
    ranks. A gradient that is not finite on one rank is so on all afterwards: all leave the step out.
    """
    count = count_ranks()
    if count == 1:
        return
    gradients = [p.grad for module in modules for p in module.parameters() if p.grad is not None]
    for gradient, total in zip(gradients, sum_over_ranks(gradients), strict=True):
        torch.div(total, count, out=gradient)


def average_values(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mean over ranks of named scalars, the same names in the same order on all ranks."""
    count = count_ranks()
    if count == 1:
        return dict(values)
    totals = sum_over_ranks([x.float() for x in values.values()])
    return {name: total / count for name, total in zip(values, totals, strict=True)}


def _of_connection(error: RuntimeError) -> bool:
    """Whether torch.distributed lost one of the others; gloo says so in words alone."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower() or "onnection" in str(error)
