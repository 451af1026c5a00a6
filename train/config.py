"""What a recipe says: one frozen dataclass per section, read from YAML, with `key=value` overrides.

>>> overrides = ["optim.steps=10", "data=speech/", "run=runs/x"]
>>> recipe = parse_recipe({"name": "x", "model": MINIMAL}, overrides, where="x.yaml")
>>> recipe.optim.steps, recipe.data.path, recipe.run.path
(10, ('speech/',), 'runs/x')
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from codec.config import ModelConfig, from_dict
from codec.errors import ConfigError
from codec.quantize.learn import LearnConfig

MINIMAL: dict[str, Any] = {
    "encoder": {"kind": "spectral"},
    "bottleneck": {"kind": "grouped"},
    "decoder": {"kind": "spectral"},
}


@dataclass(frozen=True)
class DataConfig:
    """Speech to learn from."""

    path: tuple[
        str, ...
    ] = ()  # folders, files or manifests (.csv, .tsv, .jsonl, .txt), comma-separated on the command line
    crop: float = 1.0  # seconds of one training crop
    batch: int = 16  # crops a step
    gain_db: tuple[float, float] = (-12.0, 6.0)  # random level change of a crop; never beyond full scale
    noise: tuple[str, ...] = ()  # folders or files of noise, mixed into input and target
    noise_share: float = 0.0  # share of crops with noise
    noise_snr_db: tuple[float, float] = (5.0, 30.0)  # signal-to-noise ratio of those
    held_out: float = 0.02  # share of the files that only measure, chosen by the hash of their name
    cache: str = ""  # folder of the decoded int16 cache; the run's folder when empty


@dataclass(frozen=True)
class LossConfig:
    """Weight of each term of `losses.LOSSES`; a term with weight 0 is not computed."""

    mel: float = 10.0
    complex: float = 8.0
    phase: float = 0.0
    waveform: float = 0.0
    commitment: float = 0.5
    distill: float = 0.0  # of the quantized latent to the teacher's; needs distill.teacher
    adversarial: float = 1.0  # from adversary.start_step on
    feature_matching: float = 2.0
    balance: bool = False  # weigh by gradient norm (EnCodec's balancer) instead of by value


@dataclass(frozen=True)
class OptimConfig:
    """AdamW, warm-up, constant rate, cosine to the end."""

    steps: int = 10000
    rate: float = 1e-3  # peak learning rate
    warmup: int = 200  # steps
    decay_share: float = 0.4  # last share of the steps in which the rate falls by a cosine; 1 is a plain cosine
    final_rate: float = 0.02  # of the peak
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    clip: float = 5.0  # norm of the gradient
    ema: float = 0.999  # decay of the averaged weights
    max_skips: int = 20  # steps in a row with a gradient that is not finite, before the run stops
    levels: dict[str, float] = field(default_factory=dict)  # codebooks in use: share of the crops; all when empty
    precision: str = "auto"  # float32, bfloat16, or auto: bfloat16 where the machine has units for it
    compile: str = "auto"  # always, never, or auto: on a GPU (on and off are booleans to YAML)
    freeze: tuple[str, ...] = ()  # parts that do not learn: encoder, bottleneck, decoder


@dataclass(frozen=True)
class AdversaryConfig:
    """Discriminators."""

    start_step: int = -1  # from this step on; -1 is never
    kinds: tuple[str, ...] = ("stft",)  # stft, period
    windows: tuple[int, ...] = (2048, 1024, 512, 256)  # of the complex STFT discriminators, samples
    periods: tuple[int, ...] = (2, 3, 5, 7, 11)  # of the multi-period ones, samples
    channels: int = 16
    rate: float = 3e-4
    every: int = 1  # steps between updates of the discriminators
    warmup: int = 500  # steps in which their weight in the generator's loss grows


@dataclass(frozen=True)
class DistillConfig:
    """A teacher: a model whose weights a new run begins with, part by part, and whose latents it may follow."""

    teacher: str = ""  # a model's name or folder; none when empty
    parts: tuple[str, ...] = ("encoder", "decoder")  # that begin with its weights; the others begin at random

    def __post_init__(self) -> None:
        """Check parts."""
        wrong = sorted(set(self.parts) - {"encoder", "bottleneck", "decoder"})
        if wrong:
            raise ConfigError(f"distill.parts: unknown {wrong[0]!r}; known are encoder, bottleneck, decoder")


@dataclass(frozen=True)
class RunConfig:
    """Where a run lives and how often it writes."""

    path: str = ""  # the run's folder
    seed: int = 0
    init: str = ""  # model whose weights a new run begins with: an embedded one's name or a model folder
    log_every: int = 50  # steps between text lines
    measure_every: int = 500  # steps between measures on held-out speech
    save_seconds: float = 120.0  # between checkpoints
    keep: int = 2  # last checkpoints kept; the best one beside them
    device: str = "auto"  # cpu, cuda, mps or auto
    threads: int = 0  # of a CPU run; 0 leaves the machine's choice


@dataclass(frozen=True)
class Recipe:
    """A whole recipe."""

    name: str
    model: ModelConfig
    licence: str = "Apache-2.0"  # of the weights
    data: DataConfig = field(default_factory=DataConfig)
    learn: LearnConfig = field(default_factory=LearnConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        """Check what belongs together."""
        if self.optim.precision not in ("auto", "float32", "bfloat16"):
            raise ConfigError(f"optim.precision: expected auto, float32 or bfloat16, found {self.optim.precision!r}")
        if self.optim.compile not in ("auto", "always", "never"):
            raise ConfigError(f"optim.compile: expected auto, always or never, found {self.optim.compile!r}")
        if self.adversary.every < 1 or self.adversary.channels < 1:
            raise ConfigError("adversary.every, adversary.channels: at least 1")
        if self.data.crop * self.model.sample_rate < 2 * self.model.hop_length:
            raise ConfigError(f"data.crop: {self.data.crop} s is shorter than two frames")
        if not 0 < self.optim.rate < 100:
            raise ConfigError(f"optim.rate: must be above 0, found {self.optim.rate}")
        if self.optim.steps < 1 or self.data.batch < 1:
            raise ConfigError(f"optim.steps, data.batch: at least 1, found {self.optim.steps}, {self.data.batch}")


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file; a bare name is one of the package's own recipes.

    Args:
        path: `recipes/default_16k.yaml`, or `default_16k`.
        overrides: `section.key=value`; `data=` and `run=` alone are their paths.

    Raises:
        ConfigError: a missing file, broken YAML, an unknown key or a wrong value.
    """
    file = Path(path)
    if not file.suffix and not file.exists():
        file = Path(__file__).parent.parent / "recipes" / f"{path}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(p.stem for p in (Path(__file__).parent.parent / "recipes").glob("*.yaml")))
        raise ConfigError(f"{path}: no such recipe; give a YAML file or one of {known}")
    try:
        data = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not YAML: {str(error).splitlines()[0]}") from None
    return parse_recipe(data, overrides, where=str(file))


def parse_recipe(data: Any, overrides: Sequence[str], *, where: str) -> Recipe:
    """Plain data and overrides to a recipe. Raises: ConfigError."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: expected keys and values at the top")
    tree = _copy(data)
    for override in overrides:
        _override(tree, override)
    return from_dict(Recipe, tree, where=where)


def _copy(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in data.items()}


def _override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{override}: expected key=value, for example data=speech/ or optim.steps=2000")
    *sections, name = ("data", "path") if key == "data" else ("run", "path") if key == "run" else key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{override}: {section} is a value, not a section")
    listed = name in ("path", "noise", "freeze", "kinds", "parts") and sections != ["run"]
    try:
        tree[name] = text.split(",") if listed else yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"{override}: the value is not YAML") from None
    if sections == ["run"] and name == "path":
        tree[name] = text
