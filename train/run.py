"""A training run from its folder: begin or resume, log, measure, save, end."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from codec.config import to_dict
from codec.engine.torch_engine import load_network
from codec.errors import ConfigError, TrainError
from codec.files import atomic_path, hold_folder
from codec.hub import find_model
from codec.modelfolder import read_model
from codec.quantize.ranks import same_on_ranks
from codec.train import checkpoint
from codec.train.config import Recipe, parse_recipe
from codec.train.data import Batches, Corpus, Entry, find_audio, find_entries, load_corpus
from codec.train.device import Stopwatch, choose_device, prepared
from codec.train.heads import HEADS
from codec.train.labels import Labels, load_labels
from codec.train.launch import ALONE, Ranks, average_values, in_turn, joined, read_ranks
from codec.train.losses import LOSSES
from codec.train.report import Report
from codec.train.trainer import Trainer

Say = Callable[[str], None]

MEASURE_CROPS, MEASURE_SECONDS = 16, 2.0
RECIPE, BEST, DATA, LOCK = "recipe.yaml", "best.safetensors", "data", ".lock"


def run(recipe: Recipe, say: Say, *, stop_after: int | None = None) -> Path:
    """Train a recipe in its run folder, from the newest checkpoint there if there is one.

    Where `torchrun` or `srun` started this process, it may be one of several that train together; the first one speaks
    and writes.

    Args:
        recipe: `recipe.run.path` is the folder, `recipe.data.path` the speech; without it, what came with the run.
        say: gets each line of the log.
        stop_after: steps after which to save and return, for tests and rented machines.

    Returns:
        The newest checkpoint.

    Raises:
        TrainError: no data, a folder of another recipe, or a run that diverges.
    """
    ranks = read_ranks(os.environ)
    ranks.rows(recipe.data.batch, recipe.optim.accumulate)  # refused before anything is written
    device = choose_device(recipe.run.device, ranks)
    with prepared(device, recipe.run.threads), joined(ranks, device), _held(recipe, ranks) as folder:
        if ranks.first:
            _begin_folder(folder, recipe)
        _run(Trainer(recipe, device), folder, ranks, say if ranks.first else _unheard, stop_after)
    latest = checkpoint.find_latest(folder)
    assert latest is not None
    return latest


def _run(trainer: Trainer, folder: Path, ranks: Ranks, say: Say, stop_after: int | None) -> None:
    recipe = trainer.recipe
    same_on_ranks(torch.zeros(1, device=trainer.device))  # the first one has opened the folder
    _check_levels(trainer)
    _resume(trainer, folder, say)
    _check_step(trainer, folder)
    if trainer.step >= recipe.optim.steps:
        say(f"{folder}: finished at step {trainer.step}; raise optim.steps to go on")
        return
    batches = in_turn(ranks, lambda: make_batches(recipe, folder, trainer.device, say, ranks=ranks))
    end = recipe.optim.steps if stop_after is None else min(recipe.optim.steps, trainer.step + stop_after)
    with contextlib.closing(Report(folder if ranks.first else None, trainer.step)) as report:

        def tell(line: str) -> None:
            say(line)
            report.write(line)

        for line in trainer.begin_heads(batches.labels):
            tell(line)
        measure = _Measure(trainer, batches, folder, tell, report) if ranks.first else None
        _loop(trainer, batches, end, tell, report, measure)


def _loop(trainer: Trainer, batches: Batches, end: int, say: Say, report: Report, measure: _Measure | None) -> None:
    """Steps up to `end`; the process with a `measure` measures and saves, the others wait for it in the next step."""
    recipe = trainer.recipe
    watch, saved = Stopwatch(trainer.device), time.monotonic()
    while trainer.step < end:
        with watch.working():
            with watch.waiting():
                batch = batches(trainer.step)
            result = trainer.run_step(batch)
        if trainer.step % recipe.run.log_every == 0 or trainer.step == end:
            trainer.check()
            result = dataclasses.replace(result, values=average_values(result.values))
            say(report.step(trainer, result, watch.lap()))
        if measure is None:
            continue
        if trainer.step % recipe.run.measure_every == 0 or trainer.step == end:
            measure()
        if time.monotonic() - saved >= recipe.run.save_seconds or trainer.step == end:
            checkpoint.save_latest(measure.folder, trainer.state_dict(), step=trainer.step, keep=recipe.run.keep)
            saved = time.monotonic()


class _Measure:
    """Measures the averaged weights on fixed held-out crops, and keeps the best of them.

    With an adversary the newest: what it teaches costs distance, and by distance the weights from before it were best.
    """

    def __init__(self, trainer: Trainer, batches: Batches, folder: Path, say: Say, report: Report) -> None:
        self.trainer, self.say, self.report = trainer, say, report
        self.rate = trainer.recipe.model.sample_rate
        self.audio = batches.held_out(MEASURE_CROPS, MEASURE_SECONDS)
        self.folder, self.path = folder, folder / BEST
        self.best = float(checkpoint.load(self.path)["score"]) if self.path.exists() else float("inf")
        self._play("held_out/original", self.audio[0, 0])

    def __call__(self) -> None:
        measured, audio_hat = self.trainer.measure(self.audio)
        self.say(self.report.measure(self.trainer, measured))
        self._play("held_out/decoded", audio_hat[0])
        score = score_of(measured, self.trainer.weights)
        opposed = self.trainer.adversary is not None
        if self.trainer.learner.n_started and (opposed or score < self.best):
            self.best = score
            kept = {"weights": self.trainer.average.weights, "step": self.trainer.step, "score": score}
            checkpoint.save(self.path, kept | {"opposed": opposed})

    def _play(self, name: str, audio: Tensor) -> None:
        self.report.audio(name, audio.clamp(-1, 1).cpu(), self.trainer.step, self.rate)


def score_of(measured: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """What is lowest for the best weights of a run: what its recipe says of the sound, by the recipe's weights.

    >>> score_of({"mel": 0.1, "complex": 0.7, "commitment": 3.0}, {"mel": 10.0, "complex": 2.0, "commitment": 0.5})
    2.4
    """
    return sum(weights[name] * value for name, value in measured.items() if name in LOSSES)


def make_batches(recipe: Recipe, folder: Path, device: torch.device, say: Say, *, ranks: Ranks = ALONE) -> Batches:
    """Decode or map the speech, put it on the device, and give the batches of a run. Raises: TrainError."""
    rate = recipe.model.sample_rate

    def corpus(files: Sequence[Path], held_out: float) -> Corpus:
        cache = Path(recipe.data.cache) if recipe.data.cache else folder
        found, problems = load_corpus(files, cache, sample_rate=rate, held_out=held_out)
        for problem in problems:
            say(f"left out: {problem}")
        hours = int(found.lengths.sum()) / rate / 3600
        say(f"data: {hours:.2f} h in {len(found.lengths)} files")
        return found.to(device) if device.type != "cpu" else found

    entries = find_entries(speech_sources(recipe, folder))
    speech = corpus([entry.file for entry in entries], recipe.data.held_out)
    labels = _labels(recipe, speech, entries, say, device)
    noise = corpus(find_audio(recipe.data.noise), 0.0) if recipe.data.noise and recipe.data.noise_share else None
    hop = recipe.model.hop_length
    length = round(recipe.data.crop * rate / hop) * hop
    return Batches(
        speech,
        recipe.data,
        length=length,
        sample_rate=rate,
        seed=recipe.run.seed,
        levels=_levels(recipe),
        noise=noise,
        labels=labels,
        ranks=ranks,
    )


def _labels(recipe: Recipe, speech: Corpus, entries: Sequence[Entry], say: Say, device: torch.device) -> Labels | None:
    """What the recipe's heads learn from; None where it has no heads. Raises: TrainError."""
    heads = recipe.heads
    columns = {"pitch": "", "phones": heads.phones_column, "speaker": heads.speaker_column}
    wanted = {HEADS[name].label: columns[HEADS[name].label] for name in heads.wanted}
    if not wanted:
        return None
    labels = load_labels(speech, speech.entries(entries), wanted, recipe.model, say)
    return labels.to(device) if device.type != "cpu" else labels


def speech_sources(recipe: Recipe, folder: Path) -> tuple[str, ...]:
    """Where a run's speech is: what the recipe says, else what came with the run. Raises: TrainError."""
    if recipe.data.path:
        return recipe.data.path
    if (folder / DATA).is_dir():
        return (str(folder / DATA),)
    raise TrainError("no data: give data=FOLDER, or a manifest")


def read_run(folder: Path) -> tuple[Recipe, Path]:
    """Recipe and newest checkpoint of a run folder. Raises: TrainError."""
    latest = checkpoint.find_latest(folder)
    if latest is None or not (folder / RECIPE).is_file():
        raise TrainError(f"{folder}: not a run folder with a checkpoint; name the folder that was given as run=")
    return parse_recipe(read_yaml(folder / RECIPE), (f"run={folder}",), where=str(folder / RECIPE)), latest


def shipped_weights(folder: Path) -> tuple[Mapping[str, Tensor], str]:
    """The averaged weights of a run that `_Measure` kept, the newest where none were measured, and which they are.

    Raises:
        TrainError: not a run folder, or a damaged checkpoint.
    """
    _, latest = read_run(folder)
    if (folder / BEST).exists():
        best = checkpoint.load(folder / BEST)
        which = "newest" if best.get("opposed") else "best"  # not there in runs of earlier versions
        return best["weights"], f"the {which} measured, step {best['step']}"
    state = checkpoint.load(latest)
    return state["average"]["weights"], f"the newest, step {state['step']}"


def _check_levels(trainer: Trainer) -> None:
    """Refuse numbers of codebooks that cannot be decoded. Raises: ConfigError."""
    prefixes = trainer.network.bottleneck.prefixes
    wrong = [count for count in trainer.recipe.optim.levels if int(count) not in prefixes]
    if wrong:
        known = ", ".join(map(str, prefixes))
        raise ConfigError(f"optim.levels: this network codes with {known} codebooks, not with {wrong[0]}")


def _levels(recipe: Recipe) -> dict[int, float]:
    if not recipe.optim.levels:
        return {2**30: 1.0}  # more than any bottleneck owns: all of them
    return {int(count): share for count, share in recipe.optim.levels.items()}


@contextlib.contextmanager
def _held(recipe: Recipe, ranks: Ranks) -> Iterator[Path]:
    """The run's folder; a second run on it is refused, as the two would write into each other."""
    if not recipe.run.path:
        raise TrainError("no run folder: give run=FOLDER, where checkpoints and logs go")
    folder = Path(recipe.run.path)
    with hold_folder(folder, LOCK, error=TrainError) if ranks.first else contextlib.nullcontext():
        yield folder


def _begin_folder(folder: Path, recipe: Recipe) -> None:
    checkpoint.remove_leftovers(folder)
    known = folder / RECIPE
    if known.exists() and read_yaml(known).get("model") != to_dict(recipe)["model"]:
        raise TrainError(f"{folder}: holds a run of another network; give another run=FOLDER")
    write_recipe(folder, recipe)


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """Keep the recipe in a run's folder, whole or not at all."""
    with atomic_path(folder / RECIPE, overwrite=True, error=TrainError) as temporary:
        temporary.write_text(yaml.safe_dump(to_dict(recipe), sort_keys=False))


def read_yaml(path: Path) -> dict[str, Any]:
    """A recipe file as plain data. Raises: TrainError."""
    try:
        data = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, OSError, ValueError) as error:
        raise TrainError(f"{path}: cannot be read ({str(error).splitlines()[0]}); delete it to go on") from None
    if not isinstance(data, dict):
        raise TrainError(f"{path}: damaged, it holds no keys; delete it to go on")
    return data


def _resume(trainer: Trainer, folder: Path, say: Say) -> None:
    latest = checkpoint.find_latest(folder)
    if latest is None:
        init = trainer.recipe.run.init
        if init:
            network = load_network(read_model(find_model(init)))
            trainer.warm_start(network.state_dict())
        say(f"begins in {folder}" + (f" from the weights of {init}" if init else ""))
        if trainer.teacher is not None:
            say(trainer.begin_from_teacher())
        return
    state = checkpoint.load(latest)
    try:
        trainer.load_state_dict(state)
    except (KeyError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise TrainError(
            f"{latest}: written with other settings ({reason}); go on with those (adversary, optim.freeze), "
            "or give another run=FOLDER"
        ) from None
    say(f"resumes in {folder} at step {trainer.step}")


def _check_step(trainer: Trainer, folder: Path) -> None:
    """All processes go on from one step. Raises: TrainError where one sees another checkpoint than the first one."""
    step = int(same_on_ranks(torch.tensor(trainer.step, device=trainer.device)))
    if step != trainer.step:
        raise TrainError(
            f"{folder}: step {trainer.step} is the newest here, step {step} on the first machine; "
            "put run=FOLDER on a file system that all machines share"
        )


def _unheard(line: str) -> None:
    del line
