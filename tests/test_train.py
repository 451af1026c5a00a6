"""A run from its folder: it learns, it can be killed at any moment, it says what it does."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from codec.cli import app
from codec.config import ModelInfo, Part, replace
from codec.errors import ConfigError, TrainError
from codec.export.folder import write_folder
from codec.files import hold_folder
from codec.modelfolder import read_model
from codec.train import checkpoint
from codec.train.config import Recipe, read_recipe
from codec.train.data import Batch
from codec.train.run import LOCK, run, shipped_weights
from codec.train.trainer import StepReport, Trainer

FIXTURES = Path(__file__).parent / "fixtures"
RECIPES = Path(__file__).parent.parent / "recipes"
CPU = torch.device("cpu")
SMALL = FIXTURES / "small.yaml"
SPEECH = f"data={FIXTURES}/librispeech_4267_287369-0000.flac,{FIXTURES}/rhasspy_nathalie_03.flac"
ADVERSARY = ("adversary.start_step=2",)
BALANCED = ("loss.balance=true", *ADVERSARY)


def small(*overrides: str) -> Recipe:
    return read_recipe(SMALL, (SPEECH, *overrides))


def quiet(line: str) -> None:
    del line


def batch(recipe: Recipe, step: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(step)
    levels = torch.full((2,), 4)
    return Batch(0.1 * torch.randn(2, 1, 3200, generator=generator), levels)


def same_weights(a: Path, b: Path) -> bool:
    left, right = (checkpoint.flatten(checkpoint.load(path))[0] for path in (a, b))
    return list(left) == list(right) and all(torch.equal(left[key], right[key]) for key in left)


def mel_of(lines: list[str]) -> dict[int, float]:
    found = (re.match(r"(?:\S+ )?step (\d+)/\d+  mel ([\d.]+)", line) for line in lines)
    return {int(match[1]): float(match[2]) for match in found if match}


# --- it learns


@pytest.mark.slow  # the fast form of this law is in test_recipes
def test_it_learns(tmp_path: Path) -> None:
    lines: list[str] = []
    recipe = read_recipe(
        RECIPES / "tiny.yaml",
        (f"data={FIXTURES}", f"run={tmp_path}", "optim.steps=50", "data.batch=4", "data.crop=0.3", "run.device=cpu"),
    )
    run(recipe, lines.append)
    mel = mel_of(lines)
    assert mel[50] < 0.75 * mel[10]


@pytest.mark.slow
def test_the_tiny_recipe_learns_in_about_a_minute(tmp_path: Path) -> None:
    result = command("tiny", f"data={FIXTURES}", f"run={tmp_path}", "run.device=cpu", "run.threads=1")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    mel = mel_of(lines)
    assert sum(mel[step] for step in (460, 470, 480, 490, 500)) / 5 <= 0.6 * mel[10]
    usage = re.search(r"usage ([\d.]+) of 4", lines[-2])
    assert usage is not None
    assert float(usage[1]) >= 0.5
    again = command("tiny", f"data={FIXTURES}", f"run={tmp_path}")
    assert again.returncode == 0
    assert "finished at step 500" in again.stdout


# --- it resumes


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param((), marks=pytest.mark.slow),
        pytest.param(ADVERSARY, marks=pytest.mark.slow),
        BALANCED,  # has all that the others have
    ],
    ids=["plain", "adversary", "adversary, balanced"],
)
def test_a_run_in_parts_is_the_run_in_one(tmp_path: Path, extra: tuple[str, ...]) -> None:
    whole = run(small(f"run={tmp_path / 'whole'}", *extra), quiet)
    lines: list[str] = []
    for count in (1, 3, None):
        parts = run(small(f"run={tmp_path / 'parts'}", *extra), lines.append, stop_after=count)
    assert [line.split(" ")[-1] for line in lines if line.startswith("resumes in")] == ["1", "4"]
    assert whole.name == parts.name == "step-00000006.safetensors"
    assert same_weights(whole, parts)
    assert ("adversary" in checkpoint.load(whole)) is bool(extra)


def test_what_layers_draw_depends_on_seed_and_step_alone() -> None:
    """So a run that goes on drops the rows that an unbroken one drops; when it is measured, none."""
    recipe = small()
    options = {"n_fft": 640, "n_mels": 8, "depths": (2,), "dims": (8,), "drop_path": 0.9, "sample_rate": 16000}
    encoder = Part("mel", options)
    recipe = replace(recipe, model=replace(recipe.model, encoder=encoder))
    trainers = [Trainer(recipe, CPU) for _ in range(2)]
    for trainer in trainers:
        torch.randn(int(torch.randint(1, 9, ())))  # the process's own generator is elsewhere
        steps(trainer, 4)
    a, b = (trainer.network.state_dict() for trainer in trainers)
    assert all(torch.equal(a[key], b[key]) for key in a)
    audio = batch(recipe).audio
    assert torch.equal(*(trainer.measure(audio)[1] for trainer in trainers))
    trainers[0].step += 1
    assert torch.equal(*(trainer.measure(audio)[1] for trainer in trainers))
    assert trainers[0].network.training


def test_a_second_run_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with hold_folder(tmp_path, LOCK, error=TrainError), pytest.raises(TrainError, match="another run is at work"):
        run(small(f"run={tmp_path}"), quiet)


@pytest.mark.parametrize("change", ["optim.freeze=encoder", "adversary.channels=2"])
def test_a_checkpoint_of_other_settings_is_refused_in_one_line(tmp_path: Path, change: str) -> None:
    words = (f"run={tmp_path}", "adversary.start_step=0")
    run(small(*words), quiet, stop_after=1)
    with pytest.raises(TrainError, match=r"step-00000001.safetensors: written with other settings \(.*run=FOLDER$"):
        run(small(*words, change), quiet)


def test_weights_begin_by_the_seed_alone() -> None:
    torch.manual_seed(1)
    a = Trainer(small(), CPU).network.state_dict()
    torch.manual_seed(2)
    b, c = (Trainer(small(f"run.seed={seed}"), CPU).network.state_dict() for seed in (0, 1))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], c[key]) for key in a)


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    words = [SPEECH, "optim.steps=300", "run.save_seconds=0.05", "run.measure_every=50", "run.threads=1"]
    whole = run(read_recipe(SMALL, (*words, f"run={tmp_path / 'whole'}")), quiet)
    folder = tmp_path / "killed"
    draw = random.Random(time.time_ns())
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "codec", "train", str(SMALL), *words, f"run={folder}"], stdout=subprocess.DEVNULL
        )
        before = checkpoint.find_latest(folder)
        while process.poll() is None and checkpoint.find_latest(folder) == before:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
    result = command(str(SMALL), *words, f"run={folder}")
    assert result.returncode == 0, result.stderr
    assert re.search(r"resumes in .* at step [1-9]|finished at step 300", result.stdout)
    latest = checkpoint.find_latest(folder)
    assert latest is not None
    assert same_weights(whole, latest)


def test_a_finished_run_says_so(tmp_path: Path) -> None:
    words = (f"run={tmp_path}", "optim.steps=1")
    first = run(small(*words), quiet)
    lines: list[str] = []
    assert run(small(*words), lines.append) == first
    assert lines[-1] == f"{tmp_path}: finished at step 1; raise optim.steps to go on"


def test_a_run_folder_of_another_network_is_refused(tmp_path: Path) -> None:
    run(small(f"run={tmp_path}", "optim.steps=1"), quiet)
    with pytest.raises(TrainError, match="holds a run of another network"):
        run(small(f"run={tmp_path}", "model.latent_dim=16"), quiet)


def test_a_damaged_recipe_or_checkpoint_is_named(tmp_path: Path) -> None:
    latest = run(small(f"run={tmp_path}", "optim.steps=1"), quiet)
    latest.write_bytes(latest.read_bytes()[:100])
    with pytest.raises(TrainError, match=r"step-00000001\.safetensors"):
        run(small(f"run={tmp_path}"), quiet)
    (tmp_path / "recipe.yaml").write_text("")
    with pytest.raises(TrainError, match=r"recipe\.yaml"):
        run(small(f"run={tmp_path}"), quiet)


def test_a_run_without_folder_or_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="run=FOLDER"):
        run(small(), quiet)
    with pytest.raises(TrainError, match="data=FOLDER"):
        run(read_recipe("tiny", (f"run={tmp_path}",)), quiet)


def test_a_crop_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.crop"):
        Trainer(small("data.crop=0.1"), CPU)
    with pytest.raises(ConfigError, match=r"data\.crop"):
        Trainer(small("adversary.start_step=0", "adversary.windows=[4096]"), CPU)


def test_an_old_checkpoint_goes_on_with_a_fresh_adversary() -> None:
    old = Trainer(small(), CPU)
    for step in range(4):
        old.run_step(batch(old.recipe, step))
    state = old.state_dict()
    assert sorted(state) == ["average", "learner", "network", "optimizer", "skipped", "step"]
    new = Trainer(small(*ADVERSARY), CPU)
    new.load_state_dict(state)
    assert new.adversary is None
    result = new.run_step(batch(new.recipe, 4))
    assert new.adversary is not None
    assert new.adversary.begin == 4
    assert {"adversarial", "feature_matching", "discriminator"} <= set(result.values)


# --- what a step does


def steps(trainer: Trainer, count: int) -> list[StepReport]:
    return [trainer.run_step(batch(trainer.recipe, trainer.step)) for _ in range(count)]


def test_steps_that_do_not_wait_for_the_device_are_the_same_steps() -> None:
    waiting, running = (Trainer(small(*ADVERSARY), CPU, deferred=deferred) for deferred in (False, True))
    assert [float(r.grad_norm) for r in steps(waiting, 8)] == [float(r.grad_norm) for r in steps(running, 8)]
    assert waiting.learner.n_started == 2
    a, b = (checkpoint.flatten(trainer.state_dict())[0] for trainer in (waiting, running))
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(("extra", "deferred"), [((), True), (BALANCED, False), (BALANCED, True)])
def test_a_step_that_is_not_finite_is_skipped_and_counted(extra: tuple[str, ...], deferred: bool) -> None:
    trainer = Trainer(small(*extra), CPU, deferred=deferred)
    steps(trainer, 6)
    before = {key: x.clone() for key, x in checkpoint.flatten(trainer.state_dict())[0].items()}
    good = batch(trainer.recipe)
    result = trainer.run_step(Batch(good.audio * float("nan"), good.levels))
    assert not bool(result.finite)
    after = checkpoint.flatten(trainer.state_dict())[0]
    kept = [key for key in before if not key.startswith("average/")]
    assert [key for key in kept if not torch.equal(before[key], after[key])] == []
    assert trainer.skipped == 1
    steps(trainer, 1)
    assert trainer.skipped == 1
    assert trainer.step == 8


def steps_and_check(trainer: Trainer, bad: Batch) -> None:
    trainer.run_step(bad)
    trainer.check()


@pytest.mark.parametrize("deferred", [False, True])
def test_too_many_skipped_steps_in_a_row_end_the_run(deferred: bool) -> None:
    trainer = Trainer(small("optim.max_skips=3"), CPU, deferred=deferred)
    good = batch(trainer.recipe)
    bad = Batch(good.audio * float("nan"), good.levels)
    for _ in range(3):
        trainer.run_step(bad)
        trainer.check()
    with pytest.raises(TrainError, match="4 steps in a row without a finite gradient"):
        steps_and_check(trainer, bad)


def test_a_frozen_part_does_not_learn() -> None:
    trainer = Trainer(small("optim.freeze=encoder,bottleneck"), CPU)
    trainer.warm_start(trainer.network.state_dict())
    before = {key: x.clone() for key, x in trainer.network.state_dict().items()}
    steps(trainer, 2)
    changed = {key.split(".")[0] for key, x in trainer.network.state_dict().items() if not torch.equal(x, before[key])}
    assert changed == {"decoder"}


def test_a_warm_start_from_another_network_is_refused() -> None:
    with pytest.raises(TrainError, match="does not fit"):
        Trainer(small(), CPU).warm_start(Trainer(small("model.latent_dim=16"), CPU).network.state_dict())


def test_a_run_can_begin_with_the_weights_of_a_model(tmp_path: Path) -> None:
    source = Trainer(small(), CPU)
    for book in source.network.bottleneck.codebooks:
        book.embed.data.normal_()
    write_folder(tmp_path / "model", "small", small().model, source.network.state_dict(), licence="CC0-1.0")
    lines: list[str] = []
    run(
        small(f"run={tmp_path / 'run'}", f"run.init={tmp_path / 'model'}", "optim.rate=1e-12"),
        lines.append,
        stop_after=1,
    )
    latest = checkpoint.find_latest(tmp_path / "run")
    assert latest is not None
    network = checkpoint.load(latest)["network"]
    kept = {key: x for key, x in source.network.state_dict().items() if not key.endswith("embed")}
    assert all(torch.allclose(network[key], x.half().float(), atol=1e-9) for key, x in kept.items())
    assert "from the weights of" in lines[0]


def test_measuring_changes_nothing() -> None:
    trainer = Trainer(small(), CPU)
    steps(trainer, 3)
    before = {key: x.clone() for key, x in trainer.network.state_dict().items()}
    values, audio_hat = trainer.measure(batch(trainer.recipe).audio)
    assert sorted(values) == ["commitment", "complex", "mel"]
    assert audio_hat.shape == (2, 3200 - trainer.network.delay)
    assert all(torch.equal(x, before[key]) for key, x in trainer.network.state_dict().items())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a CPU needs a C++ compiler")
# The compiler's own parts warn: of tools they do not find, of modules they will move.
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_network_is_the_same_network_under_the_same_names() -> None:
    plain, compiled = Trainer(small(), CPU), Trainer(small("optim.compile=always"), CPU)
    for a, b in zip(steps(plain, 4), steps(compiled, 4), strict=True):
        assert float(a.grad_norm) == pytest.approx(float(b.grad_norm), rel=1e-3)
    assert list(plain.network.state_dict()) == list(compiled.network.state_dict())


@pytest.mark.parametrize(("frozen", "same"), [("encoder,bottleneck", True), ("encoder", False)])
def test_a_decoder_that_learned_alone_knows_the_codes_of_before(frozen: str, same: bool, tmp_path: Path) -> None:
    """Trained and exported as by the recipe of the default model, with the real command."""

    def export(name: str) -> ModelInfo:
        done = CliRunner().invoke(
            app, ["train", "--export", "small", str(tmp_path / name), str(tmp_path / f"{name}.model")]
        )
        assert done.exit_code == 0, done.output
        return read_model(tmp_path / f"{name}.model").info

    run(small(f"run={tmp_path / 'first'}", "optim.steps=3", "learn.pool=16"), quiet)
    first = export("first")
    words = (
        f"run.init={tmp_path / 'first.model'}",
        f"optim.freeze={frozen}",
        "adversary.start_step=0",
        "optim.steps=2",
    )
    run(small(f"run={tmp_path / 'last'}", *words, "learn.pool=16"), quiet)
    last = export("last")
    assert last.weights_hash != first.weights_hash
    assert last.same_codes == ((first.weights_hash,) if same else ())


# --- what a run leaves behind


def test_a_run_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    run(small(f"run={tmp_path}", "optim.steps=1", f"run.threads={threads + 1}"), quiet)
    assert torch.get_num_threads() == threads
    assert float(torch.tensor(1e-40) * 1) > 0


def test_the_best_weights_are_those_of_the_terms_that_the_recipe_has(tmp_path: Path) -> None:
    words = ("optim.steps=2", "run.measure_every=1", "loss.mel=0", "loss.complex=0", "loss.waveform=3")
    lines: list[str] = []
    run(small(f"run={tmp_path}", *words, "learn.pool=16"), lines.append)
    held_out = [float(line.split("waveform ")[1].split()[0]) for line in lines if "held out" in line]
    best = checkpoint.load(tmp_path / "best.safetensors")
    assert float(best["score"]) == pytest.approx(3 * min(held_out), abs=3e-4)


def test_with_an_adversary_the_newest_weights_are_kept_and_not_those_of_the_least_distance(tmp_path: Path) -> None:
    words = ("optim.steps=4", "run.measure_every=1", "adversary.start_step=2", "optim.rate=0.5", "optim.ema=0")
    lines: list[str] = []
    run(small(f"run={tmp_path}", *words, "learn.pool=16"), lines.append)
    held_out = [float(line.split("mel ")[1].split()[0]) for line in lines if "held out" in line]
    assert held_out[-1] > min(held_out)
    assert shipped_weights(tmp_path)[1] == "the newest measured, step 4"


def test_a_run_leaves_a_log_a_board_and_its_best_weights(tmp_path: Path) -> None:
    lines: list[str] = []
    words = ("learn.pool=16", "run.log_every=2", "run.measure_every=3", *ADVERSARY)
    latest = run(small(f"run={tmp_path}", *words), lines.append)
    assert [line.split(" ")[1] for line in lines if line.startswith("step ") and "/" in line] == ["2/6", "4/6", "6/6"]
    assert all(word in lines[-2] for word in ("mel", "discriminator", "usage", "steps/s", "waiting"))
    written = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.partition(" ")[2] for line in written] == [line for line in lines if line.startswith("step ")]
    weights, which = shipped_weights(tmp_path)
    assert which.startswith("the newest measured")
    assert set(weights) == set(checkpoint.load(latest)["network"])
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert board.Tags()["audio"] == ["held_out/original", "held_out/decoded"]
    assert {"train/mel", "held_out/mel", "codebook_0/usage", "codebook_3/perplexity"} <= set(board.Tags()["scalars"])


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """The real command as a process."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "codec", "train", *words],
        capture_output=True,
        text=True,
        env=environment,
        timeout=900,
        check=False,
    )
