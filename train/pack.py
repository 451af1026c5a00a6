"""Runs travel: a folder of limited size from which a run goes on, on another machine and back.

A pack holds `pack.json` (step, counts, the SHA-256 of every other file, and its own), `recipe.yaml`, the weights in
half precision in `weights-000.safetensors` ... (each under 16 MiB) and, in `data/`, a slice of the speech. Nothing in
it is executed. Optimisers do not travel: they begin afresh, with a new warm-up.

>>> parse_size("32MiB"), parse_size("500kB")
(33554432, 500000)
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from codec.config import replace
from codec.errors import ConfigError, TrainError
from codec.files import atomic_path
from codec.modelfolder import checksum
from codec.train import checkpoint, speechpack
from codec.train.config import Recipe, parse_recipe
from codec.train.data import find_audio, load_corpus
from codec.train.optim import Average
from codec.train.run import DATA, RECIPE, Say, read_run, read_yaml, speech_sources, write_recipe
from codec.train.trainer import Trainer

FORMAT = 1
MANIFEST = "pack.json"
SHARD_BYTES = 16 * 2**20 - 2**16  # the header of a file of a few hundred tensors takes less than 64 KiB
RESERVE = 2**15  # for recipe and manifest
UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def pack(run: Path, out: Path, *, size_bytes: int, data: tuple[str, ...] | None = None, say: Say) -> None:
    """Write a run's newest weights and a slice of its speech to a new folder.

    Args:
        run: a run folder with a checkpoint.
        out: must not exist, or be empty.
        size_bytes: of the whole folder, at most.
        data: folders, files or manifests of speech; the run's own when None; no speech when empty.
        say: gets a line for each part.

    Raises:
        TrainError: no run there, a target that is in use, or a size that the weights alone exceed.
    """
    recipe, latest = read_run(run)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise TrainError(f"{out}: exists and is not empty; name a new folder")
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        state = checkpoint.load(latest)
        used = _write_weights(part, state, size_bytes - RESERVE)
        say(f"weights of step {state['step']}: {used / 2**20:.1f} MiB")
        if data is None or data:
            sources = speech_sources(recipe, run) if data is None else data
            say(_write_speech(part / DATA, sources, recipe, run, size_bytes - RESERVE - used))
        section = replace(recipe.data, path=(), noise=(), cache="")
        write_recipe(part, replace(recipe, data=section, run=replace(recipe.run, path="")))
        _write_manifest(part, state)
        if out.exists():
            out.rmdir()
        part.rename(out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    total = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    assert total <= size_bytes, (total, size_bytes)
    say(f"{out}: {total / 2**20:.2f} MiB")


def unpack(source: Path, run: Path, *, say: Say) -> None:
    """Make a run folder of a pack: `codec train` with `run=` this folder goes on from it.

    Raises:
        TrainError: not a pack, a damaged one, or a folder that holds a run already.
    """
    manifest = read_manifest(source)
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise TrainError(f"{run}: exists and is not empty; name a new folder")
    recipe = parse_recipe(read_yaml(source / RECIPE), (f"run={run}",), where=str(source / RECIPE))
    tensors: dict[str, Tensor] = {}
    for name in sorted(manifest["files"]):
        if name.endswith(".safetensors"):
            tensors |= _read_shard(source / name)
    trainer = _warm_trainer(recipe, manifest, _join(tensors), source)
    run.mkdir(parents=True, exist_ok=True)
    if (source / DATA).is_dir():
        shutil.copytree(source / DATA, run / DATA)
    write_recipe(run, recipe)
    # The checkpoint is last: without it the folder is no run.
    checkpoint.save_latest(run, trainer.state_dict(), step=trainer.step, keep=recipe.run.keep)
    say(
        f"{run}: ready at step {trainer.step} of {recipe.optim.steps}; go on with: codec train {run / RECIPE} run={run}"
    )


def read_manifest(source: Path) -> dict[str, Any]:
    """The manifest of a pack, itself and all files checked. Raises: TrainError."""
    path = source / MANIFEST
    try:
        data = json.loads(path.read_text())
        if data["format"] != FORMAT:
            raise TrainError(f"{path}: pack format {data['format']!r}, this build reads {FORMAT}; upgrade codec")
        stated = data.pop("checksum")
        files = dict(data["files"])
        for key in ("step", "skipped", "n_started", "average_steps"):
            if not isinstance(data[key], int) or data[key] < 0:
                raise ValueError(f"{key} is no count")
    except FileNotFoundError:
        raise TrainError(f"{source}: not a pack, it has no {MANIFEST}; name the folder that --pack wrote") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainError(f"{path}: damaged ({error}); copy the pack again") from None
    if stated != _digest(data):
        raise TrainError(f"{path}: damaged: its checksum is wrong; copy the pack again")
    for name, expected in files.items():
        file = source / name
        if ".." in Path(name).parts or Path(name).is_absolute() or not file.is_file() or checksum(file) != expected:
            raise TrainError(f"{file}: missing or damaged; copy the pack again")
    return dict(data)


def parse_size(text: str) -> int:
    """Bytes of `32MiB`, `20 MB` or `1000000`. Raises: ConfigError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.lower())
    if match is None or match[2] not in UNITS:
        raise ConfigError(f"size {text!r}: expected a number and a unit, for example 32MiB")
    return int(float(match[1]) * UNITS[match[2]])


def _write_weights(folder: Path, state: dict[str, Any], limit: int) -> int:
    """Averaged weights, raw codebooks with their counts, discriminators; the bytes written."""
    named = {f"average/{key}": x for key, x in state["average"]["weights"].items()}
    named |= {f"raw/{key}": x for key, x in state["network"].items() if key.startswith("bottleneck.")}
    if "adversary" in state:
        named |= {f"adversary/{key}": x for key, x in state["adversary"]["discriminators"].items()}
    tensors = checkpoint.to_half(named)
    broken = [key for key, x in tensors.items() if x.is_floating_point() and not bool(torch.isfinite(x).all())]
    if broken:
        raise TrainError(f"{broken[0]}: not finite in half precision; this run cannot be packed")
    # Counts stay as they are: they are few, and half precision would round them.
    tensors |= {f"hits/{i}": x["cluster_size"] for i, x in enumerate(state["learner"]["averages"])}
    total = sum(x.nbytes for x in tensors.values())
    if total > limit:
        raise TrainError(f"the weights alone take {total / 2**20:.1f} MiB; allow more with --size")
    for i, shard in enumerate(_shards(tensors)):
        with atomic_path(folder / f"weights-{i:03d}.safetensors", error=TrainError) as temporary:
            save_file(shard, temporary)
    return sum(path.stat().st_size for path in folder.iterdir())


def _shards(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Tensors in files of at most `SHARD_BYTES`; one that is larger is cut along its first axis: name#0, name#1, ..."""
    shard: dict[str, Tensor] = {}
    used = 0
    for key, whole in tensors.items():
        pieces = -(-whole.nbytes // SHARD_BYTES)
        for i, x in enumerate(whole.chunk(pieces) if pieces > 1 else (whole,)):
            if shard and used + x.nbytes > SHARD_BYTES:
                yield shard
                shard, used = {}, 0
            shard[f"{key}#{i}"] = x.contiguous().clone()
            used += x.nbytes
    yield shard


def _read_shard(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise TrainError(f"{path}: not a weights file ({error}); copy the pack again") from None


def _join(pieces: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors again, floats in single precision."""
    found: dict[str, list[tuple[int, Tensor]]] = {}
    for name, x in pieces.items():
        key, _, i = name.rpartition("#")
        found.setdefault(key, []).append((int(i), x.float() if x.is_floating_point() else x))
    parts = {key: [x for _, x in sorted(some, key=lambda pair: pair[0])] for key, some in found.items()}
    return {key: torch.cat(some) if len(some) > 1 else some[0] for key, some in parts.items()}


def _write_speech(folder: Path, sources: tuple[str, ...], recipe: Recipe, run: Path, limit: int) -> str:
    """Files in a seeded random order up to the size; speech that is packed already is copied, not coded twice."""
    files = find_audio(sources)
    if len(files) == 1 and files[0].name == speechpack.INDEX:
        size = sum(path.stat().st_size for path in files[0].parent.iterdir())
        if size <= limit:
            shutil.copytree(files[0].parent, folder)
            return f"speech: copied, {size / 2**20:.1f} MiB"
    rate = recipe.model.sample_rate
    cache = Path(recipe.data.cache) if recipe.data.cache else run
    corpus, _ = load_corpus(files, cache, sample_rate=rate, held_out=recipe.data.held_out)
    order = torch.randperm(len(corpus.names), generator=torch.Generator().manual_seed(recipe.run.seed)).tolist()
    utterances = (speechpack.Utterance(corpus.names[i], corpus.samples(i)) for i in order)
    count = speechpack.write(folder, utterances, sample_rate=rate, size_bytes=limit)
    hours = sum(int(corpus.lengths[i]) for i in order[:count]) / rate / 3600
    return f"speech: {count} of {len(order)} files, {hours:.2f} h"


def _write_manifest(folder: Path, state: dict[str, Any]) -> None:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    data = {
        "format": FORMAT,
        "step": state["step"],
        "skipped": state["skipped"],
        "n_started": state["learner"]["n_started"],
        "average_steps": state["average"]["steps"],
        "adversary_begin": state["adversary"]["begin"] if "adversary" in state else None,
        "files": {path.relative_to(folder).as_posix(): checksum(path) for path in paths},
    }
    (folder / MANIFEST).write_text(json.dumps(data | {"checksum": _digest(data)}, indent=1) + "\n")


def _digest(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _warm_trainer(recipe: Recipe, manifest: dict[str, Any], tensors: Mapping[str, Tensor], source: Path) -> Trainer:
    """A trainer with the weights of a pack and fresh optimisers."""
    trainer = Trainer(recipe, torch.device("cpu"))

    def part(name: str) -> dict[str, Tensor]:
        return {key.removeprefix(name): x for key, x in tensors.items() if key.startswith(name)}

    try:
        trainer.network.load_state_dict(part("average/"))
        trainer.average = Average(trainer.network, recipe.optim.ema)
        trainer.average.steps = manifest["average_steps"]
        trainer.network.load_state_dict(part("average/") | part("raw/"))
        hits = part("hits/")
        books = trainer.network.bottleneck.codebooks
        averages = [
            {"cluster_size": hits[str(i)], "embed_avg": book.embed.detach() * hits[str(i)][:, None]}
            for i, book in enumerate(books)
        ]
        pools: list[list[Tensor]] = [[] for _ in books]
        trainer.learner.load_state_dict({"n_started": manifest["n_started"], "averages": averages, "pools": pools})
        trainer.step = trainer.begin = manifest["step"]
        trainer.skips.total = manifest["skipped"]
        if manifest["adversary_begin"] is not None and recipe.adversary.start_step >= 0:
            trainer.adversary = trainer.make_adversary()
            trainer.adversary.discriminators.load_state_dict(part("adversary/"))
            trainer.adversary.begin = int(manifest["adversary_begin"])
    except (RuntimeError, KeyError, IndexError, TypeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise TrainError(f"{source}: its weights do not fit its recipe ({reason}); pack the run again") from None
    return trainer
