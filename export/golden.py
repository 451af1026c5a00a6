"""Write a model folder's golden vectors: `python -m codec.export.golden FOLDER CLIP`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from codec.api import Model
from codec.audio import fit, read
from codec.ending import one_line
from codec.engine import Audio, engines_of, open_engine
from codec.errors import ModelError
from codec.golden import GOLDEN, ExactHash, Golden, Key, hash_of, machine_facts, write_file
from codec.modelfolder import ModelFolder, read_facts, read_model, write_model
from codec.stream import MODES

CLIP_SECONDS = 3.0


def write_golden(path: Path, clip: Path, *, source: str = "", licence: str = "") -> Golden:
    """Run the beginning of a clip through every engine and mode, and keep the results in the model's folder.

    Args:
        path: the model folder; its model.json then carries the new file's checksum.
        clip: an audio file; its first 3 seconds are used.
        source: of the clip; what the table in the README.md beside it says when empty.
        licence: of the clip; the same.

    Raises:
        ModelError: a folder that cannot be read, or a clip without source and licence.
    """
    _forget_golden(path)
    folder = read_model(path)
    if not source or not licence:
        source, licence = describe_clip(clip)
    audio, sample_rate = read(clip)
    rows = fit(audio[:, : round(CLIP_SECONDS * sample_rate)], sample_rate, folder.info.sample_rate, channels="mix")
    samples = np.clip(np.round(rows[0] * 32768), -32768, 32767).astype(np.int16)
    facts = {"source": source, "licence": licence, "file": clip.name, "sample_rate": folder.info.sample_rate}
    golden = Golden(samples, facts | {"sha256": hash_of(samples)}, folder.info.weights_hash, {}, {})
    golden = _run(folder, golden)
    write_file(path / GOLDEN, golden)
    write_model(path, folder.info, folder.config)
    return golden


def describe_clip(clip: Path) -> tuple[str, str]:
    """Source and licence of a clip, from the table in the README.md beside it.

    Raises:
        ModelError: no such row.
    """
    table = clip.parent / "README.md"
    lines = table.read_text().splitlines() if table.is_file() else []
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] == f"`{clip.name}`":
            return f"{cells[-2]} (speaker {cells[-3]})", cells[-1]
    raise ModelError(f"{clip}: no row in {table} says its source and licence; pass both")


def _run(folder: ModelFolder, golden: Golden) -> Golden:
    """The same golden vectors with codes, audio and hashes."""
    models = {name: Model(folder.info, open_engine(folder, engine=name)) for name in engines_of(folder)}
    codes = {
        (name, mode): model.encode(golden.samples, mode=mode).data for name, model in models.items() for mode in MODES
    }
    reference = next(iter(codes.values()))
    audio: dict[Key, Audio] = {
        (name, mode): models[name].decode(models[name].codes(reference, len(golden.clip), mode=mode))
        for name, mode in codes
    }
    exact = tuple(
        ExactHash(name, mode, machine_facts(name), hash_of(codes[name, mode]), hash_of(audio[name, mode]))
        for name, mode in codes
    )
    return Golden(golden.clip, golden.about, golden.weights_hash, codes, audio, exact)


def _forget_golden(path: Path) -> None:
    """Take old golden vectors out of model.json, so that damaged ones do not stand in the way of new ones."""
    _, files = read_facts(path)
    if files.pop(GOLDEN, None) is not None:
        file = path / "model.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"files": files}, indent=1) + "\n")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m codec.export.golden", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--source", default="")
    parser.add_argument("--licence", default="")
    args = parser.parse_args()
    golden = write_golden(args.folder, args.clip, source=args.source, licence=args.licence)
    size = (args.folder / GOLDEN).stat().st_size
    print(f"{args.folder / GOLDEN}: {', '.join(' '.join(key) for key in golden.codes)}; {size} bytes")  # noqa: T201


if __name__ == "__main__":
    with one_line():
        main()
