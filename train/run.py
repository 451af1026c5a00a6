"""A training run from its folder: begin or resume, log, measure, save, end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from codec.config import to_dict
from codec.errors import TrainError
from codec.train import checkpoint
from codec.train.config import Recipe
from codec.train.data import Batches, Corpus, find_audio, load_corpus
from codec.train.report import Report
from codec.train.trainer import Stopwatch, Trainer, choose_device

Say = Callable[[str], None]

MEASURE_CROPS, MEASURE_SECONDS = 16, 2.0


def run(recipe: Recipe, say: Say, *, stop_after: int | None = None) -> Path:
    """Train a recipe in its run folder, from the newest checkpoint there if there is one.

    Args:
        recipe: `recipe.run.path` is the folder, `recipe.data.path` the speech.
        say: gets each line of the log.
        stop_after: steps after which to save and return, for tests and rented machines.

    Returns:
        The newest checkpoint.

    Raises:
        TrainError: no data, a folder of another recipe, or a run that diverges.
    """
    folder = _open_folder(recipe)
    torch.set_flush_denormal(True)
    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)
    device = choose_device(recipe.run.device)
    trainer = Trainer(recipe, device)
    _resume(trainer, folder, say)
    if trainer.step >= recipe.optim.steps:
        say(f"{folder}: finished at step {trainer.step}; raise optim.steps to go on")
        latest = checkpoint.find_latest(folder)
        assert latest is not None
        return latest
    batches = make_batches(recipe, folder, device, say)
    end = recipe.optim.steps if stop_after is None else min(recipe.optim.steps, trainer.step + stop_after)
    with contextlib.closing(Report(folder, trainer.step)) as report:
        return _loop(trainer, batches, folder, end, lambda line: _tell(line, say, report), report)


def _loop(trainer: Trainer, batches: Batches, folder: Path, end: int, say: Say, report: Report) -> Path:
    recipe = trainer.recipe
    held_out = batches.held_out(MEASURE_CROPS, MEASURE_SECONDS, recipe.model.sample_rate)
    best = _read_best(folder)
    watch, saved = Stopwatch(), time.monotonic()
    path = checkpoint.find_latest(folder)
    while trainer.step < end:
        with watch.waiting():
            batch = batches(trainer.step)
        result = trainer.run_step(batch)
        watch.steps += 1
        if trainer.step % recipe.run.log_every == 0 or trainer.step == end:
            say(report.step(trainer, result, *watch.lap()))
        if trainer.step % recipe.run.measure_every == 0 or trainer.step == end:
            measured = trainer.measure(held_out)
            say(report.measure(trainer, measured))
            score = measured["mel"] + measured.get("complex", 0.0)
            if trainer.learner.n_started and score < best:
                best = score
                checkpoint.save(folder / "best.safetensors", _shipped(trainer, score))
        if time.monotonic() - saved >= recipe.run.save_seconds or trainer.step == end:
            path = checkpoint.save_latest(folder, trainer.state_dict(), step=trainer.step, keep=recipe.run.keep)
            saved = time.monotonic()
    assert path is not None
    return path


def make_batches(recipe: Recipe, folder: Path, device: torch.device, say: Say) -> Batches:
    """Decode or map the speech, put it on the device, and give the batches of a run. Raises: TrainError."""
    cache = Path(recipe.data.cache) if recipe.data.cache else folder
    rate = recipe.model.sample_rate

    def corpus(paths: tuple[str, ...], held_out: float) -> Corpus:
        found, problems = load_corpus(find_audio(paths), cache, sample_rate=rate, held_out=held_out)
        for problem in problems:
            say(f"left out: {problem}")
        hours = int(found.lengths.sum()) / rate / 3600
        say(f"data: {hours:.2f} h in {len(found.lengths)} files")
        return found.to(device) if device.type != "cpu" else found

    if not recipe.data.path:
        raise TrainError("no data: give data=FOLDER, or a manifest")
    speech = corpus(recipe.data.path, recipe.data.held_out)
    noise = corpus(recipe.data.noise, 0.0) if recipe.data.noise and recipe.data.noise_share else None
    hop = recipe.model.hop_length
    length = round(recipe.data.crop * rate / hop) * hop
    return Batches(speech, recipe.data, length=length, seed=recipe.run.seed, levels=_levels(recipe), noise=noise)


def _levels(recipe: Recipe) -> dict[int, float]:
    if not recipe.optim.levels:
        return {2**30: 1.0}  # more than any bottleneck owns: all of them
    return {int(count): share for count, share in recipe.optim.levels.items()}


def _open_folder(recipe: Recipe) -> Path:
    if not recipe.run.path:
        raise TrainError("no run folder: give run=FOLDER, where checkpoints and logs go")
    folder = Path(recipe.run.path)
    folder.mkdir(parents=True, exist_ok=True)
    known = folder / "recipe.yaml"
    mine = to_dict(recipe)
    if known.exists():
        theirs = yaml.safe_load(known.read_text())
        if theirs.get("model") != mine["model"]:
            raise TrainError(f"{folder}: holds a run of another network; give another run=FOLDER")
    known.write_text(yaml.safe_dump(mine, sort_keys=False))
    return folder


def _resume(trainer: Trainer, folder: Path, say: Say) -> None:
    latest = checkpoint.find_latest(folder)
    if latest is None:
        say(f"begins in {folder}")
        return
    trainer.load_state_dict(checkpoint.load(latest))
    say(f"resumes in {folder} at step {trainer.step}")


def _shipped(trainer: Trainer, score: float) -> dict[str, Any]:
    return {"weights": trainer.average.weights, "step": trainer.step, "score": score}


def _read_best(folder: Path) -> float:
    path = folder / "best.safetensors"
    return float(checkpoint.load(path)["score"]) if path.exists() else float("inf")


def _tell(line: str, say: Say, report: Report) -> None:
    say(line)
    report.write(line)
