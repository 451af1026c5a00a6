"""Train the prior of a model: how likely each code is after the codes before it (`codec encode --entropy`).

    python -m codec.train.prior MODEL DATA OUT [--cache CODES.npz] [--epochs 6]

MODEL is a name or folder, DATA a folder of speech, OUT a file, or a model folder: then its model.json gets the prior's
checksum. The prior is learned in float and then rounded to small integers; `codec.codesfile.prior` runs those
alone.
"""

from __future__ import annotations

import hashlib
import json
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
import typer
from torch import Tensor, nn
from torch.nn import functional

from codec.api import Model, load
from codec.audio import AudioReader
from codec.codesfile.prior import ACTIVATION_BITS, FILE_NAME, FORMAT, SLOW_BITS, SLOW_SHIFT
from codec.config import ModelInfo
from codec.containers import AUDIO_SUFFIXES
from codec.ending import one_line
from codec.errors import TrainError
from codec.files import atomic_path
from codec.hub import find_model
from codec.modelfolder import read_model, write_model
from codec.network import Network

Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PriorConfig:
    """How large a prior is and how it learns."""

    dim: int = 24  # D, length of an embedding
    n_context: int = 128  # H, numbers that the frames before are told in
    n_hidden: int = 96  # H2, of the layer before each codebook
    epochs: int = 6
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    batch: int = 8  # sequences
    n_frames: int = 100  # of a sequence: a block of a file, as the coder starts anew in each
    drop: float = 0.1  # how often an embedding of an earlier frame is left out
    spread: float = 0.5  # standard deviation of the embeddings at the start
    seed: int = 0


class PriorNetwork(nn.Module):
    """The prior with float weights; what `codec.codesfile.prior.Prior` computes in integers.

    Args:
        books: entries of each codebook, (K, any), from which the embeddings start.
        config: sizes.
    """

    def __init__(self, books: Sequence[Tensor], config: PriorConfig) -> None:
        super().__init__()
        self.config = config
        n, dim = len(books), config.dim
        self.embeddings = nn.ParameterList(nn.Parameter(_start(book.float(), config)) for book in books)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(len(book))) for book in books)
        self.frame = nn.Linear(3 * n * dim, config.n_context)
        self.hidden = nn.ModuleList(nn.Linear(config.n_context + q * dim, config.n_hidden) for q in range(n))
        self.query = nn.ModuleList(nn.Linear(config.n_hidden, dim) for _ in range(n))

    def forward(self, codes: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Mean bits of a code of each codebook, (Q',), of codes (B, Q', F), Q' at most Q.

        Args:
            codes: int64.
            generator: where dropping is drawn from; None drops nothing.
        """
        n_used = codes.shape[1]
        embedded = torch.stack([self.embeddings[q][codes[:, q]] for q in range(n_used)], 2)  # (B, F, Q', D)
        context = torch.relu(self.frame(self._past(embedded, generator)))
        lower = embedded.flatten(2)
        losses = []
        for q in range(n_used):
            hidden = torch.relu(self.hidden[q](torch.cat([context, lower[..., : q * self.config.dim]], -1)))
            logits = self.query[q](hidden) @ self.embeddings[q].T + self.biases[q]
            losses.append(functional.cross_entropy(logits.flatten(0, 1), codes[:, q].flatten()))
        return torch.stack(losses) / float(np.log(2))

    def _past(self, embedded: Tensor, generator: torch.Generator | None) -> Tensor:
        """Last frame, the one before, slow average: (B, F, 3 * Q * D) of embeddings (B, F, Q', D)."""
        if generator is not None:
            kept = torch.rand((*embedded.shape[:3], 1), generator=generator) >= self.config.drop
            embedded = embedded * kept
        frames = functional.pad(embedded.flatten(2), (0, (len(self.embeddings) - embedded.shape[2]) * self.config.dim))
        last = functional.pad(frames, (0, 0, 1, 0))[:, :-1]
        before = functional.pad(frames, (0, 0, 2, 0))[:, :-2]
        # The average as one product: frame t of the past counts rate * (1 - rate)^(age), as the steps would give.
        rate, steps = 0.5**SLOW_SHIFT, torch.arange(last.shape[1])
        age = steps[:, None] - steps
        slow = torch.where(age >= 0, rate * (1 - rate) ** age.clamp_min(0), 0.0) @ last
        return torch.cat([last, before, slow], -1)


def _start(book: Tensor, config: PriorConfig) -> Tensor:
    """Embeddings (K, D): the main axes of a codebook's entries, so that codes that sound alike start alike."""
    centred = book - book.mean(0)
    axes = torch.linalg.svd(centred, full_matrices=False).Vh[: config.dim]
    short = functional.pad(centred @ axes.T, (0, config.dim - len(axes)))
    return short / short.std().clamp_min(1e-6) * config.spread


def collect_codes(model: Model, data: Path, say: bool = False) -> list[Codes]:
    """The codes (Q, F) of every audio file under a folder, all codebooks, in block mode.

    Raises: TrainError where there is none; AudioError for a file that cannot be read.
    """
    files = _find_files(data)
    found, begin = [], time.perf_counter()
    for i, path in enumerate(files):
        encoder = model.stream_encoder(mode="block", channels=1)
        with AudioReader(path, sample_rate=model.info.sample_rate, channels="mix") as reader:
            parts = [encoder.feed(chunk) for chunk in reader]
        found.append(np.concatenate([*parts, encoder.flush()], axis=-1)[0].astype(np.int64))
        if say and i % 100 == 0:
            typer.echo(f"encoded {i + 1} of {len(files)} files, {time.perf_counter() - begin:.0f} s", err=True)
    return found


def _find_files(data: Path) -> list[Path]:
    files = sorted(path for path in data.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    if not files:
        raise TrainError(f"{data}: no audio file there; give a folder of speech")
    return files


def sequences(codes: Sequence[Codes], n_frames: int, rng: np.random.Generator) -> Codes:
    """Pieces (N, Q, n_frames) of all files, each cut from a random place on, in random order.

    Raises: TrainError where no file is long enough.
    """
    pieces = []
    for item in codes:
        first = int(rng.integers(0, min(n_frames, max(1, item.shape[1] - n_frames + 1))))
        pieces += [item[:, at : at + n_frames] for at in range(first, item.shape[1] - n_frames + 1, n_frames)]
    if not pieces:
        raise TrainError(f"no file has {n_frames} frames; give longer recordings")
    return np.stack(pieces)[rng.permutation(len(pieces))]


def train_prior(
    codes: Sequence[Codes], books: Sequence[Tensor], prefixes: Sequence[int], config: PriorConfig
) -> Iterator[tuple[PriorNetwork, npt.NDArray[np.float64]]]:
    """Learn; after each epoch the network and the mean bits of a code of each codebook while learning.

    Args:
        codes: of each file, (Q, F).
        books: entries of each codebook, (K, any).
        prefixes: how many codebooks files of this model use: each step draws one.
        config: sizes and speed.
    """
    rng, generator = np.random.default_rng(config.seed), torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = PriorNetwork(books, config)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    for epoch in range(config.epochs):
        pieces = sequences(codes, config.n_frames, rng)
        starts = range(0, len(pieces), config.batch)
        total, seen = np.zeros(len(books)), np.zeros(len(books))
        for i, first in enumerate(starts):
            done = (epoch + i / len(starts)) / config.epochs
            rate = config.learning_rate * min(1.0, (epoch * len(starts) + i + 1) / 100) * max(0.02, 1 - done)
            for group in optimiser.param_groups:
                group["lr"] = rate
            n_used = int(rng.choice(list(prefixes)))
            bits = network(torch.from_numpy(pieces[first : first + config.batch, :n_used]), generator)
            optimiser.zero_grad()
            bits.sum().backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            total[:n_used] += bits.detach().numpy()
            seen[:n_used] += 1
        yield network, total / np.maximum(seen, 1)


def save_prior(network: PriorNetwork, path: Path, weights_hash: str) -> None:
    """Round the weights to integers and write the file that `codec.codesfile.prior.read_prior` reads."""
    from safetensors.numpy import save

    arrays: dict[str, npt.NDArray[np.integer]] = {}
    shifts: dict[str, int] = {}
    bits = min(_bits_of(table, ACTIVATION_BITS) for table in network.embeddings)
    for q, table in enumerate(network.embeddings):
        arrays[f"embedding.{q}"] = _rounded(table, bits, np.int8)
        arrays[f"bias.{q}"] = _rounded(network.biases[q], bits + ACTIVATION_BITS, np.int32)
    # The frame layer reads embeddings with SLOW_BITS more; the others read activations.
    layers: dict[str, tuple[nn.Module, int]] = {"frame": (network.frame, bits + SLOW_BITS)}
    for q, (hidden, query) in enumerate(zip(network.hidden, network.query, strict=True)):
        layers |= {f"hidden.{q}": (hidden, ACTIVATION_BITS), f"query.{q}": (query, ACTIVATION_BITS)}
    for name, (layer, bits_in) in layers.items():
        assert isinstance(layer, nn.Linear)
        bits_of_weight = _bits_of(layer.weight, 12)
        arrays[f"{name}.weight"] = _rounded(layer.weight, bits_of_weight, np.int8)
        arrays[f"{name}.bias"] = _rounded(layer.bias, bits_of_weight + bits_in, np.int32)
        shifts[name] = bits_of_weight + bits_in - ACTIVATION_BITS
    facts = {
        "format": FORMAT,
        "weights_hash": weights_hash,
        "codebooks": len(network.embeddings),
        "embedding_bits": bits,
        "shifts": shifts,
    }
    # One key: the library writes several in an order of its own, and the file's hash is the prior's name.
    with atomic_path(path, overwrite=True, error=TrainError) as temporary:
        temporary.write_bytes(save(arrays, metadata={"prior": json.dumps(facts)}))


def _bits_of(values: Tensor, most: int) -> int:
    """How many bits behind the point an 8-bit integer has room for."""
    largest = float(values.detach().abs().max())
    bits = most
    while bits > 0 and largest * 2**bits > 127.49:
        bits -= 1
    return bits


def _rounded(values: Tensor, bits: int, kind: type[np.integer]) -> npt.NDArray[np.integer]:
    limits = np.iinfo(kind)
    scaled = np.round(values.detach().double().numpy() * 2.0**bits)
    return np.clip(scaled, limits.min + 1, limits.max).astype(kind)


def main(
    model: Annotated[str, typer.Argument(help="A model's name or folder.")],
    data: Annotated[Path, typer.Argument(help="A folder of speech that the prior learns from.")],
    out: Annotated[Path, typer.Argument(help="The prior's file, or a model folder to put it in.")],
    cache: Annotated[Path | None, typer.Option(help="Keep the data's codes here (.npz) for the next time.")] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = PriorConfig.epochs,
) -> None:
    """Train the prior of a model."""
    folder = read_model(find_model(model))
    codes = _cached_codes(model, folder.info, data, cache)
    codec_network = _with_weights(Network(folder.config), folder.weights_path)
    books = [book.embed.detach() for book in codec_network.bottleneck.codebooks]
    config = PriorConfig(epochs=epochs)
    begin, learned = time.perf_counter(), None
    for epoch, (network, bits) in enumerate(train_prior(codes, books, folder.info.prefixes, config), 1):
        learned = network
        line = " ".join(f"{value:.3f}" for value in bits)
        typer.echo(f"epoch {epoch} of {epochs}: bits a code {line}, {time.perf_counter() - begin:.0f} s", err=True)
    if learned is None:
        raise TrainError(f"--epochs {epochs}: nothing to learn in; give 1 or more")
    target = out / FILE_NAME if out.is_dir() else out
    save_prior(learned, target, folder.info.weights_hash)
    if (target.parent / "model.json").is_file() and target.name == FILE_NAME:
        write_model(target.parent, folder.info, folder.config)
    typer.echo(f"{target}: {target.stat().st_size} bytes", err=True)


def _with_weights(network: Network, path: Path) -> Network:
    from safetensors.torch import load_file

    network.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return network


def _cached_codes(model: str, info: ModelInfo, data: Path, cache: Path | None) -> list[Codes]:
    speech = fingerprint(data)
    if cache is not None and cache.is_file():
        made_by, heard, codes = read_cache(cache)
        if info.knows_codes_of(info.name, made_by) and heard == speech:
            return codes
    codes = collect_codes(load(model), data, say=True)
    if cache is not None:
        write_cache(cache, info.weights_hash, speech, codes)
    return codes


def fingerprint(data: Path) -> str:
    """SHA-256, hex, of the names and sizes of a folder's audio files. Raises: TrainError where there is none."""
    files = [(path.relative_to(data).as_posix(), path.stat().st_size) for path in _find_files(data)]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def write_cache(path: Path, weights_hash: str, speech: str, codes: Sequence[Codes]) -> None:
    """Keep the codes (Q, F) of each file, the weights that made them and the speech: `.npz`, whole or not at all."""
    joined, lengths = np.concatenate(codes, axis=1).astype(np.int32), [item.shape[1] for item in codes]
    with atomic_path(path, overwrite=True, error=TrainError) as temporary, temporary.open("wb") as file:
        np.savez(file, codes=joined, lengths=lengths, weights_hash=weights_hash, speech=speech)


def read_cache(path: Path) -> tuple[str, str, list[Codes]]:
    """Hash of the weights that made the codes, of the speech, and the codes (Q, F) of each file.

    Raises: TrainError where it is damaged, or of an earlier version.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            made_by, speech = str(file["weights_hash"]), str(file["speech"])
            lengths, joined = file["lengths"], file["codes"]
        if joined.ndim != 2 or lengths.ndim != 1 or lengths.sum() != joined.shape[1] or lengths.min() < 0:
            raise ValueError("codes and lengths do not fit")
        return made_by, speech, [part.astype(np.int64) for part in np.split(joined, np.cumsum(lengths)[:-1], axis=1)]
    except (AttributeError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else "cut short"
        raise TrainError(f"{path}: not codes that --cache kept ({reason}); delete it to make them again") from None


if __name__ == "__main__":
    with one_line():
        typer.run(main)
