"""What a recipe says: one frozen dataclass per section, read from YAML, with `key=value` overrides.

>>> overrides = ["optim.steps=10", "data=speech/", "run=runs/x"]
>>> recipe = parse_recipe({"name": "x", "model": MINIMAL}, overrides, where="x.yaml")
>>> recipe.optim.steps, recipe.data.path, recipe.run.path
(10, ('speech/',), 'runs/x')
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

from codec.config import ModelConfig, from_dict
from codec.errors import ConfigError
from codec.quantize.learn import LearnConfig
from codec.train.limits import (
    AT_LEAST_0,
    AT_LEAST_1,
    BELOW_ONE,
    MANY,
    SHARE,
    check_batch,
    check_levels,
    check_numbers,
    check_parts,
    check_rising,
)

Number = TypeVar("Number", int, float)
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
    filter_share: float = 0.0  # share of crops filtered as if recorded another way (train/filters.py)
    held_out: float = 0.02  # share of the files that only measure, chosen by the hash of their name
    cache: str = ""  # folder of the decoded int16 cache; the run's folder when empty

    def __post_init__(self) -> None:
        """Check values."""
        decibels = (-200.0, 200.0)
        limits = {"crop": (0.0, 3600.0), "gain_db": decibels, "noise_snr_db": decibels}
        check_numbers("data", self, limits | {"noise_share": SHARE, "filter_share": SHARE, "held_out": SHARE})
        check_rising("data.gain_db", self.gain_db)
        check_rising("data.noise_snr_db", self.noise_snr_db)


@dataclass(frozen=True)
class LossConfig:
    """Weight of each term of `losses.LOSSES`; a term with weight 0 is not computed."""

    mel: float = 10.0
    complex: float = 8.0
    loudness: float = 0.0
    disturbance: float = 0.0
    cosine: float = 0.0
    phase: float = 0.0
    waveform: float = 0.0
    power: float = 0.0  # of real and imaginary parts to the power 0.3, as ESC has it
    commitment: float = 0.5
    distill: float = 0.0  # of the quantized latent to the teacher's; needs distill.teacher
    adversarial: float = 1.0  # from adversary.start_step on
    feature_matching: float = 2.0
    balance: bool = False  # weigh by gradient norm (EnCodec's balancer) instead of by value

    def __post_init__(self) -> None:
        """Check weights."""
        check_numbers("loss", self, {name: AT_LEAST_0 for name in self.__annotations__ if name != "balance"})

    def heard(self, *, adversary: bool) -> bool:
        """Whether a term looks at the sound or at the latent; those of the `adversary` count where it is there."""
        late = ("adversarial", "feature_matching")
        names = [name for name in self.__annotations__ if name not in ("commitment", "balance")]
        return any(getattr(self, name) for name in names if adversary or name not in late)


@dataclass(frozen=True)
class MelsConfig:
    """How a published system compares mel spectra: the term is a sum over windows; without windows it is `losses.mel`.

    A list has one value for each window, or one for all of them.
    """

    windows: tuple[int, ...] = ()  # samples
    hops: tuple[int, ...] = (0,)  # samples; 0 is a quarter of the window
    n_ffts: tuple[int, ...] = (0,)  # samples, at least the window; 0 is the window
    n_mels: tuple[int, ...] = (80,)  # bands
    log: tuple[float, ...] = (1.0,)  # weight of the L1 distance of logarithms
    linear: tuple[float, ...] = (0.0,)  # weight of the L1 distance of magnitudes
    square: tuple[float, ...] = (0.0,)  # weight of a frame's L2 distance of logarithms, root of the mean over bands
    decimal: bool = False  # logarithms to the base 10 instead of e
    floor: float = 1e-5  # magnitude below which nothing counts
    scale: str = "slaney"  # slaney (librosa) or htk (torchaudio)
    normalized: bool = False  # magnitudes over the root of the window's energy

    def __post_init__(self) -> None:
        """Check lengths and sizes."""
        for name in ("hops", "n_ffts", "n_mels", "log", "linear", "square"):
            if self.windows and len(getattr(self, name)) not in (1, len(self.windows)):
                raise ConfigError(f"mels.{name}: expected 1 or {len(self.windows)} values, as many as mels.windows")
        check_numbers("mels", self, {"windows": (4, 65536), "n_mels": (1, 4096), "floor": (1e-12, 1)})
        if self.scale not in ("slaney", "htk"):
            raise ConfigError(f"mels.scale: expected slaney or htk, found {self.scale!r}")
        for i, window in enumerate(self.windows):
            if 0 < self.of(self.n_ffts, i) < window or not 0 <= self.of(self.hops, i) <= window:
                raise ConfigError(f"mels.n_ffts, mels.hops: wrong for a window of {window}; n_fft >= window >= hop")

    @staticmethod
    def of(values: tuple[Number, ...], i: int) -> Number:
        """Value of window i, of a list of one for each or one for all."""
        return values[i if len(values) > 1 else 0]


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
    accumulate: int = 1  # equal parts of each batch that go through one after another: the same step in less memory
    precision: str = "auto"  # float32, bfloat16, or auto: bfloat16 where the machine has units for it
    compile: str = "auto"  # always, never, or auto: on a GPU (on and off are booleans to YAML)
    freeze: tuple[str, ...] = ()  # parts that do not learn: encoder, bottleneck, decoder

    def __post_init__(self) -> None:
        """Check values."""
        shares = {"decay_share": SHARE, "final_rate": SHARE, "betas": BELOW_ONE, "ema": BELOW_ONE}
        check_numbers("optim", self, shares | {"weight_decay": AT_LEAST_0, "clip": (1e-9, MANY)})
        check_numbers("optim", self, {"warmup": AT_LEAST_0, "max_skips": AT_LEAST_0, "accumulate": AT_LEAST_1})
        check_levels(self.levels)
        check_parts("optim.freeze", self.freeze)


@dataclass(frozen=True)
class AdversaryConfig:
    """Discriminators."""

    start_step: int = -1  # from this step on; -1 is never
    kinds: tuple[str, ...] = ("stft",)  # stft, period, scale, band, mel
    windows: tuple[int, ...] = (2048, 1024, 512, 256)  # of stft, band and mel, samples
    periods: tuple[int, ...] = (2, 3, 5, 7, 11)  # of the multi-period ones, samples
    scales: tuple[int, ...] = (1, 2, 4)  # of the multi-scale ones: how much the waveform is averaged
    edges: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)  # of the bands, shares of the bins
    channels: int = 16  # 32 in all published systems here
    loss: str = "hinge"  # hinge, least_squares
    total: str = "mean"  # of discriminators: mean, sum, or family: the sum over kinds of the mean in each
    matching: str = "relative"  # of features: relative (EnCodec), mean or sum over layers; see adversarial.py
    peak: float = 0.0  # to which audio is scaled before they hear it, its mean taken off; 0 leaves it
    rate: float = 3e-4
    betas: tuple[float, float] = (0.8, 0.99)  # little memory: the generator changes under it (HiFi-GAN, section 3)
    every: int = 1  # steps between updates of the discriminators
    crop: float = 0.0  # seconds of each crop, at a random place, that the discriminators hear; 0 is all of it
    warmup: int = 500  # steps in which their weight in the generator's loss grows

    def __post_init__(self) -> None:
        """Check words and sizes."""
        words = {
            "loss": ("hinge", "least_squares"),
            "total": ("mean", "sum", "family"),
            "matching": ("relative", "mean", "sum"),
        }
        for name, known in words.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"adversary.{name}: expected {', '.join(known)}, found {getattr(self, name)!r}")
        if not self.kinds or set(self.kinds) - {"stft", "period", "scale", "band", "mel"}:
            raise ConfigError(f"adversary.kinds: expected stft, period, scale, band, mel, found {list(self.kinds)}")
        if any(factor < 1 or factor & (factor - 1) for factor in self.scales):
            raise ConfigError(f"adversary.scales: expected powers of two, found {list(self.scales)}")
        edges = self.edges
        if len(edges) < 2 or edges[0] < 0 or edges[-1] > 1 or any(a >= b for a, b in itertools.pairwise(edges)):
            raise ConfigError(f"adversary.edges: expected rising shares from 0 to 1, found {list(edges)}")
        shortest = 16 if "mel" in self.kinds else 4  # a mel band needs so many samples
        check_numbers("adversary", self, {"windows": (shortest, 65536), "periods": (1, 65536), "betas": BELOW_ONE})
        check_numbers("adversary", self, {"rate": (0, 100), "peak": SHARE, "warmup": AT_LEAST_0})
        check_numbers("adversary", self, {"start_step": (-1, MANY)})
        if self.every < 1 or self.channels < 1:
            raise ConfigError("adversary.every, adversary.channels: at least 1")
        if self.crop < 0:
            raise ConfigError(f"adversary.crop: at least 0 seconds, found {self.crop}")


@dataclass(frozen=True)
class DistillConfig:
    """A teacher: a model whose weights a new run begins with, part by part, and whose latents it may follow."""

    teacher: str = ""  # a model's name or folder; none when empty
    parts: tuple[str, ...] = ("encoder", "decoder")  # that begin with its weights; the others begin at random

    def __post_init__(self) -> None:
        """Check parts."""
        check_parts("distill.parts", self.parts)


@dataclass(frozen=True)
class HeadsConfig:
    """Weights of the heads that say what the parts of the bottleneck `attributes` are for; 0 is none."""

    pitch: float = 0.0  # F0 and voicing of prosody
    phones: float = 0.0  # of content
    content_pitch: float = 0.0  # this one and those below are reversed: what a part shall not tell
    prosody_phones: float = 0.0
    residual_pitch: float = 0.0
    residual_phones: float = 0.0
    speaker: float = 0.0  # of the sum of all parts
    channels: int = 128  # inside a head
    speaker_column: str = "speaker"  # of the manifest: who speaks
    phones_column: str = "phones"  # of the manifest: a file of lines BEGIN END PHONE, in seconds

    def __post_init__(self) -> None:
        """Check weights and sizes."""
        if self.channels < 1 or min(getattr(self, name) for name in self._weights) < 0:
            raise ConfigError("heads: weights must be at least 0, channels at least 1")

    @property
    def wanted(self) -> tuple[str, ...]:
        """Heads with a weight."""
        return tuple(name for name in self._weights if getattr(self, name) > 0)

    @property
    def _weights(self) -> tuple[str, ...]:
        return tuple(name for name, kind in self.__annotations__.items() if kind == "float")


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

    def __post_init__(self) -> None:
        """Check values."""
        check_numbers("run", self, dict.fromkeys(("log_every", "measure_every", "keep"), AT_LEAST_1))
        check_numbers("run", self, {"seed": AT_LEAST_0, "save_seconds": AT_LEAST_0, "threads": (0, 1024)})


@dataclass(frozen=True)
class Recipe:
    """A whole recipe."""

    name: str
    model: ModelConfig
    licence: str = "Apache-2.0"  # of the weights
    data: DataConfig = field(default_factory=DataConfig)
    learn: LearnConfig = field(default_factory=LearnConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    mels: MelsConfig = field(default_factory=MelsConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        """Check what belongs together."""
        if self.model.segments is not None:
            raise ConfigError("model.segments: such a model is converted, not trained: crops are mono and whole here")
        if self.optim.precision not in ("auto", "float32", "bfloat16"):
            raise ConfigError(f"optim.precision: expected auto, float32 or bfloat16, found {self.optim.precision!r}")
        if self.optim.compile not in ("auto", "always", "never"):
            raise ConfigError(f"optim.compile: expected auto, always or never, found {self.optim.compile!r}")
        if self.heads.wanted and self.model.bottleneck.kind != "attributes":
            raise ConfigError(f"heads: need the bottleneck attributes, found {self.model.bottleneck.kind}")
        if self.data.crop * self.model.sample_rate < 2 * self.model.hop_length:
            raise ConfigError(f"data.crop: {self.data.crop} s is shorter than two frames")
        if not 0 < self.optim.rate < 100:
            raise ConfigError(f"optim.rate: must be above 0, found {self.optim.rate}")
        if self.data.noise_share and not self.data.noise:
            raise ConfigError("data.noise_share: needs data.noise, a folder or files of noise")
        if not self.loss.heard(adversary=self.adversary.start_step == 0) and not self.heads.wanted:
            raise ConfigError("loss: no weight for what is heard; give one, for example loss.mel=10")
        if self.optim.steps < 1 or self.data.batch < 1:
            raise ConfigError(f"optim.steps, data.batch: at least 1, found {self.optim.steps}, {self.data.batch}")
        check_batch(self.data.batch, self.optim.accumulate)


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
    try:
        return from_dict(Recipe, tree, where=where)
    except ConfigError as error:
        raise _with_hint(error, overrides) from None


def _with_hint(error: ConfigError, overrides: Sequence[str]) -> ConfigError:
    """The same, and for an override whose section was left out the sections that have such a key.

    >>> str(_with_hint(ConfigError("unknown key 'steps'"), ["steps=5"]))
    "unknown key 'steps'; is optim.steps meant?"
    """
    for key in (override.partition("=")[0] for override in overrides):
        if f"unknown key {key!r}" not in str(error):
            continue
        hints = {name: kind for name, kind in get_type_hints(Recipe).items() if is_dataclass(kind)}
        meant = [f"{name}.{key}" for name, kind in hints.items() if key in kind.__dataclass_fields__]
        if meant:
            return ConfigError(f"{error}; is {' or '.join(meant)} meant?")
    return error


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
