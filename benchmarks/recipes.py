"""What one training step of each recipe costs at its published size: seconds and memory, measured.

    python -m benchmarks.recipes [--only NAME] [--crops N] [--crop SECONDS] [--memory GIB]

A process of its own for each recipe, one thread: a step of the published batch, or of so many crops, with the recipe's
adversary and all codebooks in use; in as few parts (`optim.accumulate`) as keep no more than --memory, by what
`codec train --dry-run` counts. Seconds are those of the processor, the least of up to three steps; memory is the
process's greatest. Both go into benchmarks/systems.json; `python -m benchmarks.systems` writes the table and the lines
in the recipes from it. What the published batch takes in one part, or where it was not measured, is computed: crops are
alike, so seconds grow with their number and length, and memory by what the dry run counts for both.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

from benchmarks.memory import ROOT, one_thread
from benchmarks.systems import RECIPES, is_published, read_results, write_results

PATIENCE = 20.0  # s; a step that takes longer is measured once


def main() -> None:
    """Measure all recipes, or with --child one in this process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=RECIPES)
    parser.add_argument("--crops", type=int, help="the published batch where not given")
    parser.add_argument("--crop", type=float, help="seconds; the recipe's where not given")
    parser.add_argument("--memory", type=float, default=6.0, help="GiB that the crops of a part may keep")
    parser.add_argument("--child", action="store_true")
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.only, args.crops, args.crop, args.memory * 2**30)))
        return
    for name in [args.only] if args.only else RECIPES:
        command = [sys.executable, "-m", "benchmarks.recipes", "--child", "--only", name, "--memory", str(args.memory)]
        command += ["--crops", str(args.crops)] if args.crops else []
        command += ["--crop", str(args.crop)] if args.crop else []
        done = subprocess.run(command, capture_output=True, text=True, env=one_thread(), cwd=ROOT, check=False)
        if done.returncode:
            reason = done.stderr.strip() or f"ended with {done.returncode}"
            print(f"{name}: {reason.splitlines()[-1]}", file=sys.stderr)
            continue
        row = json.loads(done.stdout.splitlines()[-1])
        results, kind = read_results(), "batches" if is_published(row) else "crops"
        results[kind] = {**results.get(kind, {}), name: row}
        write_results(results)
        print(name, row, flush=True)


def measure(name: str, crops: int | None, crop: float | None, limit: float) -> dict[str, Any]:
    """Steps of one recipe in this process."""
    import torch

    from codec.timing import peak_memory
    from codec.train.config import read_recipe
    from codec.train.data import Batch
    from codec.train.dryrun import dry_run
    from codec.train.trainer import Trainer

    torch.set_num_threads(1)
    published = read_recipe(name)
    crops = crops or published.data.batch
    words = [f"data.batch={crops}", "optim.precision=float32", "run.device=cpu", "optim.compile=never"]
    words += [f"data.crop={crop}"] if crop else []
    if published.adversary.start_step > 0:
        words.append("adversary.start_step=0")
    shapes = (read_recipe(name, [*words, f"optim.accumulate={n}"]) for n in range(1, crops + 1) if crops % n == 0)
    recipe = next((recipe for recipe in shapes if dry_run(recipe).memory <= limit), None)
    recipe = recipe or read_recipe(name, [*words, f"optim.accumulate={crops}"])
    hop = recipe.model.hop_length
    length = round(recipe.data.crop * recipe.model.frame_rate) * hop
    trainer = Trainer(recipe, torch.device("cpu"))
    trainer.learner.n_started = trainer.network.bottleneck.n_stages  # as after the start of the codebooks
    generator = torch.Generator().manual_seed(0)
    batch = Batch(0.1 * torch.randn(crops, 1, length, generator=generator), torch.full((crops,), 2**20))
    seconds: list[float] = []
    while len(seconds) < 3 and (not seconds or max(seconds) < PATIENCE):
        begin = time.process_time()
        trainer.run_step(batch)
        seconds.append(time.process_time() - begin)
    memory = peak_memory()
    more = dry_run(published).memory - dry_run(recipe).memory
    return {
        "crops": crops,
        "parts": recipe.optim.accumulate,
        "crop": recipe.data.crop,
        "batch": published.data.batch,
        "batch_crop": published.data.crop,
        "seconds": min(seconds),
        "memory_bytes": memory,
        "batch_memory_bytes": (memory or 0) + more,
    }


if __name__ == "__main__":
    main()
