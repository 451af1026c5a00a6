"""codec.quantize.ranks: two processes on halves of a batch learn the codebooks of one process on the whole batch.

Run as a script with a rank and a folder, this file is one of the two processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from codec.config import Part
from codec.quantize.build import build_bottleneck
from codec.quantize.learn import LearnConfig, Learner

STEPS, KILL = 16, 12  # revivals look at every fourth step
CONFIG = LearnConfig(start_step=1, pool=200, revive_every=4)
PARTS = (
    Part("residual", {"codebook_size": 8, "n_codebooks": 2, "learn": "gradient"}),
    Part("grouped", {"codebook_size": 8, "n_levels": 2}),
    Part("masked", {"codebook_size": 8, "n_codebooks": 4}),
)


def train(rank: int, ranks: int) -> dict[str, Tensor]:
    """Codebooks and averages after some steps on this rank's share of each batch."""
    result = {}
    for part in PARTS:
        learner = Learner(build_bottleneck(part, 12), CONFIG)
        for step in range(STEPS):
            latent = torch.randn(4, 12, 25, generator=torch.Generator().manual_seed(step)).chunk(ranks)[rank]
            if step == KILL:
                for averages in learner.averages:
                    averages.cluster_size[:3] = 0
            # Only rank 0's draws count: the others come with another generator.
            generator = torch.Generator().manual_seed(1000 * rank + step)
            learner.update(learner.bottleneck(latent, n_stages=learner.n_started), step, generator)
            if step in (KILL - 1, KILL, STEPS - 1):
                for i, (book, averages) in enumerate(zip(learner.bottleneck.codebooks, learner.averages, strict=True)):
                    name = f"{part.kind} step {step} codebook {i}"
                    result[f"{name} embed"] = book.embed.detach().clone()
                    result |= {f"{name} {key}": x.clone() for key, x in averages.tensors().items()}
        assert learner.n_started == learner.bottleneck.n_stages
    return result


@pytest.mark.slow
def test_two_ranks_learn_what_one_process_learns(tmp_path: Path) -> None:
    """Starts, moving averages and revivals; the two agree to the bit."""
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)], env=environment, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    try:
        whole = train(0, 1)
        for process in ranks:
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors.decode()
    finally:
        for process in ranks:
            process.kill()  # nothing to do where it has ended
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    assert set(first) == set(second) == set(whole)
    for name, expected in whole.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], expected, rtol=1e-4, atol=1e-4)
        if name.endswith("cluster_size") and f"step {KILL} " in name:
            assert first[name][:3].min() > 5  # revived


if __name__ == "__main__":
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    save_file(train(rank, 2), folder / f"{rank}.safetensors")
    dist.destroy_process_group()
