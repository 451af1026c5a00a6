"""A short training of every family on real speech, each from its recipe with fewer channels.

    python -m benchmarks.families DATA HELD_OUT [--seconds 60] [--only NAME]

DATA is a folder of speech to learn from, HELD_OUT one of other speakers. Each family learns for so many seconds of one
processor core, the last quarter of them against its recipe's discriminators (made small too). What it scores on
held-out speech goes into benchmarks/systems.json: the mel distance of `codec.train.losses.mel`, one yardstick for all
whatever they learn by, at several moments, and STOI at the end. `python -m benchmarks.systems` writes the table and the
picture of the curves from it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pystoi import stoi

from benchmarks.systems import read_results, write_results
from codec.config import replace
from codec.train import losses
from codec.train.config import Recipe, read_recipe
from codec.train.data import find_audio
from codec.train.run import make_batches
from codec.train.trainer import Trainer

N_FILES = 40  # of each folder, evenly: enough speech for a minute of learning, and soon decoded
N_MEASURES = 5
ADVERSARY_FROM = 0.75  # share of the time
COMMON = (
    "data.crop=0.48", "data.batch=4", "learn.start_step=0", "learn.pool=1024", "learn.iterations=8", "optim.rate=1e-3",
    "optim.warmup=10", "optim.decay_share=0.0", "optim.ema=0.98", "optim.levels={}", "optim.steps=100000",
    "optim.precision=float32", "run.device=cpu", "adversary.start_step=-1", "adversary.channels=4",
    "adversary.warmup=20", "model.bottleneck.options.codebook_size=256",
)  # fmt: skip
CONV = ("model.latent_dim=64", "model.encoder.options.n_filters=8", "model.decoder.options.n_filters=8")
BOOKS = ("model.bottleneck.options.n_codebooks=8",)
HIFI = (
    "model.latent_dim=128", "model.encoder.options.n_filters=8", "model.decoder.options.width=64", "data.batch=2"
)  # fmt: skip
MIMI = "{dim: 128, n_filters: 8, n_blocks: 2, n_heads: 4, hidden_dim: 256}"
ESC = "widths: [18, 24, 36, 48], n_heads: [3, 6, 6], n_blocks: 1"
VOCOS = "model.decoder.options={dim: 128, hidden_dim: 384, n_blocks: 6, n_fft: 1280}"
# recipe -> what makes it small; kinds, strides, losses and kinds of discriminators stay
FAMILIES: dict[str, tuple[str, ...]] = {
    "encodec_24k": (*CONV, *BOOKS),
    "soundstream_16k": (*CONV, *BOOKS),
    "hificodec_16k_320d": HIFI,
    "languagecodec_24k": (*CONV[:2], VOCOS),
    "dac_16k": (*CONV[:2], "model.decoder.options.width=128", *BOOKS),
    "snac_24k": ("model.latent_dim=192", "model.encoder.options.n_filters=12", "model.decoder.options.width=128"),
    "mimi_24k": (
        "model.latent_dim=128", f"model.encoder.options={MIMI}", f"model.decoder.options={MIMI}", "data.crop=0.96",
        "data.batch=2",
    ),
    "speechtokenizer_16k": CONV,
    "distilcodec_24k": (
        "model.latent_dim=192", "model.decoder.options.width=128", "model.bottleneck.options.codebook_dim=128",
        "model.encoder.options.depths=[2, 2, 3, 2]", "model.encoder.options.dims=[64, 96, 128, 192]",
    ),
    "facodec_16k": (
        "model.latent_dim=64", "model.decoder.options.width=128", "model.bottleneck.options.n_passed=32",
        "model.encoder.options={n_filters: 8, strides: [2, 4, 5, 5], n_layers: 2, n_heads: 2, hidden_dim: 128}",
    ),
    "esc_16k": (
        f"model.encoder.options={{{ESC}}}", f"model.decoder.options={{{ESC}}}", "model.latent_dim=3456", "optim.clip=5",
        f"model.bottleneck.options={{{ESC}, n_groups: 3, codebook_size: 256, codebook_dims: [8, 8, 8, 8]}}",
    ),
}  # fmt: skip


def main() -> None:
    """Train the families one after another; each is written when it is done."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("held_out")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--only", choices=FAMILIES)
    args = parser.parse_args()
    torch.set_num_threads(1)
    files = find_audio([args.data])
    files = files[:: max(1, len(files) // N_FILES)]
    with tempfile.TemporaryDirectory() as folder:
        for name in [args.only] if args.only else FAMILIES:
            row = train(small(name, tuple(map(str, files)), folder), args.held_out, args.seconds)
            results = read_results()
            results["trainings"] = {**results.get("trainings", {}), name: row}
            write_results(results)
            print(name, {key: x for key, x in row.items() if key != "curve"}, flush=True)


def small(name: str, files: tuple[str, ...], folder: str) -> Recipe:
    """The recipe with fewer channels."""
    recipe = read_recipe(name, (*COMMON, *FAMILIES[name], f"run={folder}"))
    return replace(recipe, data=replace(recipe.data, path=files, held_out=0.0))


def train(recipe: Recipe, held_out: str, seconds: float) -> dict[str, Any]:
    """Learn for so many seconds of the processor; what came out."""
    folder = Path(recipe.run.path)
    batches = make_batches(recipe, folder, torch.device("cpu"), print)
    others = make_batches(
        replace(recipe, data=replace(recipe.data, path=(held_out,), held_out=1.0)), folder, torch.device("cpu"), print
    )
    rate = recipe.model.sample_rate
    audio = others.held_out(4, 1.92)
    audio = audio[..., : audio.shape[-1] // recipe.model.hop_length * recipe.model.hop_length]
    trainer = Trainer(recipe, torch.device("cpu"))
    terms: list[dict[str, float]] = []
    opposed: list[dict[str, float]] = []
    curve = [[0.0, measure(trainer, audio)[0]]]
    spent = 0.0
    while spent < seconds:
        if spent > ADVERSARY_FROM * seconds and read_recipe(recipe.name).adversary.start_step >= 0 and not opposed:
            trainer.recipe = replace(recipe, adversary=replace(recipe.adversary, start_step=trainer.step))
        begin = time.process_time()
        report = trainer.run_step(batches(trainer.step))
        spent += time.process_time() - begin
        (terms if trainer.adversary is None else opposed).append({k: float(x) for k, x in report.values.items()})
        if spent >= seconds * len(curve) / N_MEASURES:
            curve.append([round(spent, 1), measure(trainer, audio)[0]])
    weights = trainer.weights
    first, last = (sum(mean(part, k) * weights[k] for k in part[0]) for part in (terms[:3], terms[-20:]))
    _, audio_hat = measure(trainer, audio)
    target = audio[:, 0, : audio_hat.shape[-1]].numpy()
    return {
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
        "steps": trainer.step,
        "opposed_steps": len(opposed),
        "step_seconds": spent / trainer.step,
        "loss": [first, last],
        "discriminator": [mean(opposed[:5], "discriminator"), mean(opposed[-5:], "discriminator")] if opposed else None,
        "stoi": float(np.mean([stoi(a, b, rate) for a, b in zip(target, audio_hat.numpy(), strict=True)])),
        "curve": curve,
    }


def measure(trainer: Trainer, audio: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Mel distance of the averaged weights on audio (B, 1, T), and audio_hat (B, T - delay)."""
    _, audio_hat = trainer.measure(audio)
    delay = audio.shape[-1] - audio_hat.shape[-1]
    target = audio[:, 0, : audio.shape[-1] - delay]
    rate = trainer.recipe.model.sample_rate
    return float(losses.terms(target, audio_hat, {"mel": 1.0}, rate)["mel"]), audio_hat


def mean(rows: list[dict[str, float]], name: str) -> float:
    """Of one term."""
    return sum(row[name] for row in rows) / len(rows)


if __name__ == "__main__":
    main()
