"""Every recipe of the package: its sizes, its first lines, and that it learns and resumes when it is made small."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import codec
from codec.config import ModelConfig, Part, replace
from codec.export.folder import write_folder
from codec.export.graphs import write_graphs
from codec.export.runtime import compare
from codec.export.speech import read_speech
from codec.network import Network
from codec.nn.esc import EscConfig
from codec.nn.swin import SwinBlock
from codec.train.config import Recipe, read_recipe
from codec.train.data import Batch
from codec.train.dryrun import dry_run
from codec.train.trainer import Trainer

ROOT = Path(__file__).parent.parent
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
# Of causal and of symmetric layers; the others are slow tests.
QUICK = ("tiny", "snac_24k")
STEPS = 10
# Options by which a kind becomes small; the others keep what the recipe says.
SMALL: dict[str, dict[str, Any]] = {
    "conv": {"n_filters": 2, "n_recurrent": 1},
    "mimi": {"dim": 16, "n_filters": 2, "n_blocks": 1, "n_heads": 2},
    "hifi": {"n_filters": 8, "width": 64, "block_kernels": (3, 5), "dilations": (1,)},
    "snake": {"n_filters": 2, "width": 16},
    "spectral": {"dim": 16, "hidden_dim": 16, "n_blocks": 1},
    "vocos": {"dim": 16, "hidden_dim": 16, "n_blocks": 1},
    "attributes": {"codebook_size": 8, "codebook_dim": 4, "n_passed": 8},
    "cross_scale": {"widths": (4, 6), "n_heads": (2,), "n_blocks": 1, "codebook_size": 8, "codebook_dims": (4, 4)},
    "esc": {"widths": (4, 6), "n_heads": (2,), "n_blocks": 1},
    "factorised": {"codebook_size": 8, "codebook_dim": 4},
    "grouped": {"codebook_size": 8},
    "masked": {"codebook_size": 8},
    "mel": {"depths": (1, 1), "dims": (8, 16)},
    "projected": {"codebook_size": 8, "codebook_dim": 4},
    "residual": {"codebook_size": 8, "n_codebooks": 3},
    "speaker": {"n_filters": 2, "width": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 8},
    "split": {"codebook_size": 8, "n_codebooks": 3},
}
MILLIONS = {  # encoder, quantizer, decoder; mechanisms of the published systems, weight norm folded
    "encodec_24k": (7.425, 4.194, 7.425),
    "hificodec_16k_320d": (47.23, 1.05, 15.35),
    "hificodec_24k_320d": (47.23, 1.05, 15.35),
    "hificodec_24k_240d": (47.23, 1.05, 15.35),
    "languagecodec_24k": (7.426, 1.05, 11.06 + 0.494),
    "languagecodec_24k_streaming": (7.426, 1.05, 11.06 + 0.494),
}
TOTALS = {"snac_24k": 19.84, "dac_16k": 74.1, "esc_16k": 8.39}  # SNAC's as published; DAC's of transformers' DacModel
BITRATES = {
    "encodec_24k": 24000.0,
    "soundstream_16k": 8000.0,
    "hificodec_16k_320d": 2000.0,
    "hificodec_24k_320d": 3000.0,
    "hificodec_24k_240d": 4000.0,
    "hificodec_24k_320d_streaming": 3000.0,
    "dac_16k": 6000.0,
    "distilcodec_24k": 1406.25,
    "esc_16k": 9000.0,
    "facodec_16k": 4800.0,
    "languagecodec_24k": 6000.0,
    "languagecodec_24k_streaming": 6000.0,
    "mimi_24k": 1100.0,
    "speechtokenizer_16k": 4000.0,
    "snac_24k": 984.375,
}


def shrink(part: Part, room: str) -> Part:
    kept = set(SMALL[part.kind])
    if part.kind in ("hifi", "snake", "speaker"):
        kept -= {"width"} if room == "encoder" else {"n_filters", "n_layers", "n_heads", "hidden_dim"}
    return Part(part.kind, part.options | {key: x for key, x in SMALL[part.kind].items() if key in kept})


def small(name: str, *overrides: str) -> Recipe:
    """The recipe with few channels, two crops of a fifth of a second, and an adversary of one discriminator."""
    words = ("data.batch=2", "data.crop=0.2", "learn.pool=16", "learn.start_step=0", "optim.rate=3e-3")
    opposed = ("adversary.kinds=stft", "adversary.windows=[256]", "adversary.channels=1", "adversary.warmup=1")
    recipe = read_recipe(
        ROOT / "recipes" / f"{name}.yaml", (*words, *opposed, "optim.warmup=1", "optim.levels={}", *overrides)
    )
    model = recipe.model
    depthwise = bool(model.encoder.options.get("depthwise"))
    strides = model.encoder.options.get("strides", ())
    latent = SMALL["snake"]["n_filters"] << len(strides) if depthwise else 16
    latent = EscConfig(**SMALL["esc"]).latent_dim if model.encoder.kind == "esc" else latent
    parts = {room: shrink(getattr(model, room), room) for room in ("encoder", "bottleneck", "decoder")}
    return replace(recipe, model=replace(model, latent_dim=latent, **parts))


def batch(model: ModelConfig) -> Batch:
    audio, _ = codec.read_audio(ROOT / "tests" / "fixtures" / "rhasspy_nathalie_03.flac")
    n = round(0.2 * model.sample_rate / model.hop_length) * model.hop_length
    rows = torch.from_numpy(audio[:1, 8000 : 8000 + 2 * n].reshape(2, 1, n).copy())
    return Batch(rows, torch.full((2,), 2**20))


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in RECIPES]
)
def test_a_recipe_learns_and_resumes_at_a_reduced_size(name: str) -> None:
    if not all(getattr(read_recipe(name).model, room).kind in SMALL for room in ("encoder", "bottleneck", "decoder")):
        pytest.skip("tested beside its own family")
    recipe = small(name)
    trainer = Trainer(recipe, torch.device("cpu"))
    data = batch(recipe.model)
    terms = [trainer.run_step(data).values for _ in range(STEPS)]
    mel = [float(step["mel"]) for step in terms]
    assert min(mel[-3:]) < 0.97 * mel[0], mel
    assert trainer.learner.n_started > 0
    again = Trainer(recipe, torch.device("cpu"))
    again.load_state_dict(copy.deepcopy(trainer.state_dict()))
    assert again.step == trainer.step == STEPS
    for one in (trainer, again):
        torch.manual_seed(0)  # SNAC's noise blocks
        one.run_step(data)
    mine, theirs = trainer.network.state_dict(), again.network.state_dict()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_opens_with_its_command_source_licence_and_differences(name: str) -> None:
    lines = (ROOT / "recipes" / f"{name}.yaml").read_text().splitlines()
    head = "\n".join(line for line in lines if line.startswith("#"))
    assert lines[0].startswith("# ")
    assert f"codec train {name} " in lines[1]
    for word in ("Source:", "icence"):
        assert word in head
    if name not in ("tiny", "default_16k"):
        assert "What differs" in head
    assert read_recipe(name).name == name


@functools.cache
def build(name: str) -> Any:
    with torch.device("meta"):
        recipe = read_recipe(name)
        return Network(recipe.model).info(name, recipe.licence)


@pytest.mark.parametrize("name", MILLIONS)
def test_the_parts_are_as_large_as_those_of_the_published_networks(name: str) -> None:
    counts = build(name).parameters
    for part, millions in zip(("encoder", "bottleneck", "decoder"), MILLIONS[name], strict=True):
        assert counts[part] == pytest.approx(millions * 1e6, rel=0.01)


@pytest.mark.parametrize("name", TOTALS)
def test_the_whole_is_as_large_as_the_published_network(name: str) -> None:
    assert sum(build(name).parameters.values()) == pytest.approx(TOTALS[name] * 1e6, rel=0.01)


@pytest.mark.parametrize("name", BITRATES)
def test_the_bitrate_is_the_published_one(name: str) -> None:
    assert build(name).bitrate == pytest.approx(BITRATES[name])


@pytest.mark.parametrize("name", ["encodec_24k", "soundstream_16k", "hificodec_24k_320d_streaming", "mimi_24k"])
def test_causal_recipes_stream_frame_by_frame(name: str) -> None:
    info = build(name)
    assert info.causal
    assert info.latency == pytest.approx(info.hop_length / info.sample_rate)


def test_a_dry_run_counts_what_can_be_counted_by_hand() -> None:
    """Of the tiny recipe: 4 codebooks of 64 entries of 16 numbers, 6 bits each at 50 frames a second."""
    recipe = read_recipe("tiny")
    cost = dry_run(recipe)
    assert cost.parameters["quantizer"] == 4 * 64 * 16
    assert cost.parameters["total"] == sum(cost.parameters[part] for part in ("encoder", "quantizer", "decoder"))
    assert (cost.frame_rate, cost.bitrate, cost.discriminators) == (50.0, 1200.0, 0)
    larger = dry_run(dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, batch=16)))
    fixed = 20 * sum(p.numel() for p in Network(recipe.model).parameters())
    assert larger.memory - fixed == 2 * (cost.memory - fixed)
    assert larger.gmacs == cost.gmacs > 50 * 4 * 64 * 16 / 1e9


def test_passes_of_shapes_and_of_numbers_follow_each_other_in_one_process() -> None:
    """ESC's attention once kept a mask of the one for the other: a dry run after a step failed, and a step after it."""
    for _ in range(2):
        with FakeTensorMode():
            assert SwinBlock(4, 2, shift=2)(torch.empty(1, 8, 6, 4)).shape == (1, 8, 6, 4)
        assert SwinBlock(4, 2, shift=2)(torch.ones(1, 8, 6, 4)).isfinite().all()


@pytest.mark.slow
def test_dry_run_prints_one_object_of_numbers() -> None:
    command = [sys.executable, "-m", "codec", "train", "tiny", "--dry-run", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    found = json.loads(done.stdout)
    assert set(found["parameters"]) == {"encoder", "quantizer", "decoder", "total"}
    numbers = [*found.pop("parameters").values(), *found.values()]
    assert all(isinstance(x, int | float) and x >= 0 for x in numbers)
    assert {"frame_rate", "bitrate", "gmacs", "memory"} <= set(found)
    wrong = subprocess.run([*command[:-2], "--json"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert wrong.returncode == 2
    assert "--json belongs to --dry-run" in wrong.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_costed(name: str) -> None:
    cost = dry_run(read_recipe(name))
    assert cost.gmacs > 0
    assert cost.memory > 20 * cost.parameters["decoder"]


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_the_graphs_of_every_recipe_agree_with_torch_at_a_reduced_size(name: str, tmp_path: Path) -> None:
    if not all(getattr(read_recipe(name).model, room).kind in SMALL for room in ("encoder", "bottleneck", "decoder")):
        pytest.skip("tested beside its own family")
    model = small(name).model
    torch.manual_seed(0)
    network = Network(model)
    with torch.no_grad():
        spread = float(network.encoder(batch(model).audio).std())
        for book in network.bottleneck.codebooks:
            book.embed.copy_(spread * torch.randn(book.embed.shape))
    write_folder(tmp_path, name, model, network.state_dict(), licence="CC0-1.0", half=False)
    folder = write_graphs(tmp_path)
    speech = read_speech(folder.info, (ROOT / "tests" / "fixtures" / "demo.flac",), tmp_path).audio
    agreement = compare(folder, speech[: 3 * model.sample_rate])
    assert agreement.codes >= 0.999
    assert agreement.audio_db >= 60
