"""A teacher gives a student its encoder and decoder, and its latents pull the student's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from codec.errors import ConfigError, TrainError
from codec.export.folder import write_folder
from codec.train.config import Recipe, read_recipe
from codec.train.data import Batch
from codec.train.run import run
from codec.train.trainer import Trainer

FIXTURES = Path(__file__).parent / "fixtures"
CPU = torch.device("cpu")
SPEECH = f"data={FIXTURES}/librispeech_4267_287369-0000.flac,{FIXTURES}/rhasspy_nathalie_03.flac"
SIZES = (
    "model.hop_length=32", "model.latent_dim=16",
    "model.encoder.options={sample_rate: 24000, n_fft: 64, n_mels: 8, depths: [1, 1], dims: [8, 16]}",
    "model.decoder.options={width: 16, rates: [8, 4], kernels: [16, 12], kernel_size: 13, activation: silu}",
)  # fmt: skip
TRAINING = (
    "data.batch=2", "data.crop=0.2", "optim.steps=4", "optim.precision=float32", "learn.pool=64", "run.device=cpu",
    "adversary.start_step=-1", "optim.rate=1e-3",
)  # fmt: skip
STUDENT = "model.bottleneck.options={codebook_size: 64, codebook_dim: 6}"
TEACHER = "model.bottleneck.options={codebook_size: 16, codebook_dim: 6, n_groups: 2, n_levels: 2}"


def recipe_of(*overrides: str) -> Recipe:
    return read_recipe("distilcodec_24k", (*SIZES, *TRAINING, *overrides))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of four codebooks."""
    folder = tmp_path_factory.mktemp("models") / "teacher"
    recipe = recipe_of(TEACHER)
    network = Trainer(recipe, CPU).network
    for book in network.bottleneck.codebooks:
        torch.nn.init.normal_(book.embed, std=0.3)
    write_folder(folder, "teacher", recipe.model, network.state_dict(), licence="MIT")
    return folder


def test_a_student_begins_with_the_teachers_encoder_and_decoder_alone(teacher: Path) -> None:
    student = Trainer(recipe_of(STUDENT, f"distill.teacher={teacher}", "run.seed=7"), CPU)
    assert student.teacher is not None
    theirs = student.teacher.network.state_dict()
    before = {key: x.clone() for key, x in student.network.state_dict().items()}
    line = student.begin_from_teacher()
    assert "gives encoder, decoder" in line
    for key, x in student.network.state_dict().items():
        given = not key.startswith("bottleneck.")
        assert torch.equal(x, theirs[key] if given else before[key])
        assert torch.equal(x, student.average.weights[key])
    assert any(not torch.equal(before[key], theirs[key]) for key in theirs if key.startswith("encoder."))


def test_following_the_teachers_latent_brings_the_student_nearer_to_it(teacher: Path) -> None:
    """Nothing else pulls it: the other weights are 0."""
    losses = ("loss.distill=1", "loss.mel=0", "loss.commitment=0")
    recipe = recipe_of(STUDENT, f"distill.teacher={teacher}", "learn.start_step=100", "optim.rate=3e-3", *losses)
    student = Trainer(recipe, CPU)
    audio = 0.1 * torch.randn(2, 1, 4800, generator=torch.Generator().manual_seed(0))
    batch = Batch(audio, torch.full((2,), 2**20))
    values = [float(student.run_step(batch).values["distill"]) for _ in range(12)]
    assert min(values[-3:]) < 0.9 * values[0]
    assert all(not p.requires_grad and p.grad is None for p in student.teacher.network.parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize("balance", [False, True])
def test_the_distance_goes_with_and_without_the_balancer(teacher: Path, balance: bool) -> None:
    words = (STUDENT, f"distill.teacher={teacher}", "loss.distill=1", f"loss.balance={str(balance).lower()}")
    student = Trainer(recipe_of(*words, "learn.start_step=100"), CPU)
    report = student.run_step(Batch(0.1 * torch.randn(2, 1, 4800), torch.full((2,), 2**20)))
    assert float(report.values["distill"]) > 0
    assert bool(report.finite)


@pytest.mark.slow  # the fast laws above do without files
def test_a_run_names_its_teacher_and_resumes_without_beginning_again(teacher: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    recipe = recipe_of(STUDENT, SPEECH, f"run={tmp_path}", f"distill.teacher={teacher}", "run.log_every=1")
    run(recipe, lines.append, stop_after=2)
    assert any(line.endswith("gives encoder, decoder") for line in lines)
    lines.clear()
    run(recipe, lines.append)
    assert any(line.startswith("resumes in") for line in lines)
    assert not any("gives encoder" in line for line in lines)


def test_a_teacher_that_does_not_fit_is_named(teacher: Path) -> None:
    with pytest.raises(ConfigError, match="its sample_rate is 24000, the recipe's 16000"):
        Trainer(recipe_of(STUDENT, f"distill.teacher={teacher}", "model.sample_rate=16000"), CPU)
    with pytest.raises(ConfigError, match=r"loss\.distill: 1, but there is no teacher"):
        Trainer(recipe_of(STUDENT, "loss.distill=1"), CPU)
    with pytest.raises(ConfigError, match=r"distill\.parts: unknown 'head'"):
        recipe_of(STUDENT, "distill.parts=head")
    student = Trainer(recipe_of(STUDENT, f"distill.teacher={teacher}", "distill.parts=bottleneck"), CPU)
    with pytest.raises(TrainError, match="its bottleneck has another"):
        student.begin_from_teacher()
