"""Prove that a folder of tokens is whole and is what its source gives: `codec verify DIR`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codec.api import Model, load
from codec.corpus.plan import Plan, ShardPlan, read_plan
from codec.corpus.reading import Reader
from codec.corpus.rows import open_layout, to_codes, valid
from codec.corpus.run import FAILURES, read_index
from codec.corpus.shard import checksum_of, read_done
from codec.corpus.sinks import read_rows
from codec.corpus.utterance import Utterance
from codec.errors import CodecError, ModelError
from codec.golden import MIN_CODES, codes_agreement
from codec.quality.metrics import mel_distance
from codec.verify import CODES_BAR, EQUAL_BAR, Check, Report

N_SAMPLE = 5  # utterances to encode again, spread over the shards
SHOWN = 3  # bad shards that the table names


def verify_tokens(folder: Path, *, model: str | None = None) -> Report:
    """Check a folder that `codec tokenize` wrote.

    Every shard's checksum and counts, every row's length, that no id is missing or double; some utterances are encoded
    again from their source and decoded.

    Args:
        folder: the folder.
        model: a name or folder to load the model from; the name in the index when None.

    Raises:
        CorpusError: no index or plan, or they are damaged.
    """
    return Report(str(folder), tuple(_check(folder, model)))


@dataclass
class _Counts:
    rows: int = 0
    samples: int = 0


def _check(folder: Path, model_name: str | None) -> Iterator[Check]:
    index, plan = read_index(folder), read_plan(folder)
    named, planned = {shard["name"]: shard for shard in index["shards"]}, [plan.name(shard) for shard in plan.shards]
    missing = [name for name in planned if name not in named]
    yield _row("shards", missing, f"{len(planned)} of {len(planned)}", "are missing; run tokenize again")
    good = [shard for shard in plan.shards if plan.name(shard) in named]
    damaged = [plan.name(s) for s in good if not _is_whole(folder / plan.name(s), named[plan.name(s)])]
    yield _row(
        "checksums", damaged, f"{len(good)} SHA-256", "are damaged; remove their done/ files, run tokenize again"
    )
    whole = [shard for shard in good if plan.name(shard) not in damaged]
    counts, wrong = _Counts(), []
    for shard in whole:
        problem = _check_rows(folder, plan, shard, index, counts)
        wrong += [f"{plan.name(shard)}: {problem}"] if problem else []
    yield _row("rows", wrong, f"{counts.rows} rows, each planned utterance once", "are wrong")
    n_failures = sum(shard["n_failures"] for shard in index["shards"])
    said, found = (index["n_rows"], index["n_samples"], index["n_failures"]), (counts.rows, counts.samples, n_failures)
    lines = _count_lines(folder / FAILURES)
    agrees = (said == found or whole != good) and lines == n_failures
    text = f"{found[0]} rows, {found[1]} samples, {lines} failures"
    yield Check("counts", "pass" if agrees else "miss", text, f"== {said[0]}, {said[1]}, {said[2]}")
    if (share := index.get("agreement")) is not None:
        text = f"{share:.3%} of {index['n_compared']} codes are those of rows run alone"
        yield Check(f"batches of {index['batch']}", "pass" if share >= MIN_CODES else "miss", text, CODES_BAR)
    try:
        model = load(model_name or index["model"])
        if not model.info.knows_codes_of(index["model"], index["weights_hash"]):
            raise ModelError(f"weights {model.info.weights_hash[:12]}, the tokens are of {index['weights_hash'][:12]}")
    except CodecError as error:
        yield Check("model", "miss", str(error), "same weights")
        return
    yield Check("model", "pass", f"{model.info.name}, weights {model.info.weights_hash[:12]}", "same weights")
    yield from _check_sample(folder, plan, whole, model)


def _row(name: str, bad: list[str], good_text: str, what: str) -> Check:
    if not bad:
        return Check(name, "pass", good_text, EQUAL_BAR)
    shown = ", ".join(bad[:SHOWN]) + (f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else "")
    return Check(name, "miss", f"{shown} {what}", EQUAL_BAR)


def _is_whole(path: Path, facts: dict[str, Any]) -> bool:
    return path.exists() and checksum_of(path) == (facts["sha256"], facts["size_bytes"])


def _check_rows(folder: Path, plan: Plan, shard: ShardPlan, index: dict[str, Any], counts: _Counts) -> str:
    """What is wrong with a shard's rows; nothing where they are the planned ones, less the failures."""
    done = read_done(folder, shard.number)
    failed = {failure["id"] for failure in done.failures} if done is not None else set()
    wanted = (valid(item.id) for item in plan.items(shard) if item.id not in failed)
    sizes = np.asarray(index["codebook_sizes"])[:, None]
    try:
        layout = open_layout(index["layout"], index["codebook_sizes"])
        for row in read_rows(plan.settings.output, folder / plan.name(shard)):
            if row["id"] != next(wanted, None):
                return f"{row['id']} is not the planned utterance"
            if row["layout"] != index["layout"]:
                return f"{row['id']}: layout {row['layout']}, the index says {index['layout']}"
            codes = to_codes(row, layout)
            if codes.shape[0] != index["codebooks"] or (codes >= sizes).any():
                return f"{row['id']}: codes out of range"
            if index.get("condition") and len(row.get("condition", ())) != index["condition"]:
                return f"{row['id']}: no condition of {index['condition']} numbers"
            if codes.shape[1] * index["hop_length"] < row["num_samples"]:
                return f"{row['id']}: {codes.shape[1]} frames for {row['num_samples']} samples"
            counts.rows += 1
            counts.samples += row["num_samples"]
    except CodecError as error:
        return str(error)
    left = next(wanted, None)
    return "" if left is None else f"{left} is not there"


def _count_lines(path: Path) -> int:
    if not path.is_file():
        return -1
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _check_sample(folder: Path, plan: Plan, shards: list[ShardPlan], model: Model) -> Iterator[Check]:
    """Encode some utterances again, decode their codes."""
    if not shards:
        yield Check("sample", "none", "no whole shard")
        return
    reader = Reader(model.info.sample_rate)
    # A shard more than once where there are few of them; then another of its rows.
    for i in range(N_SAMPLE):
        shard = shards[i * len(shards) // N_SAMPLE]
        rows = [shards[j * len(shards) // N_SAMPLE] for j in range(i)].count(shard)
        picked = _pick(folder, plan, shard, rows)
        if picked is None:
            continue
        item, row = picked
        try:
            audio = np.concatenate(list(reader.chunks(item)), axis=1)[0]
        except CodecError as error:
            yield Check(f"source of {item.id}", "none", f"cannot be compared: {error}")
            continue
        yield from _compare(item, row, audio, model, plan)


def _pick(folder: Path, plan: Plan, shard: ShardPlan, at: int) -> tuple[Utterance, dict[str, Any]] | None:
    """Row number `at` of a shard and its utterance."""
    for number, row in enumerate(read_rows(plan.settings.output, folder / plan.name(shard))):
        if number == at:
            return next(item for item in plan.items(shard) if valid(item.id) == row["id"]), row
    return None


def _compare(item: Utterance, row: dict[str, Any], audio: Any, model: Model, plan: Plan) -> Iterator[Check]:
    layout = open_layout(row["layout"], model.info.codebook_sizes[: plan.settings.codebooks])
    codes = to_codes(row, layout).astype(np.int64)
    again = model.encode(audio, codebooks=plan.settings.codebooks, mode=plan.settings.mode)
    same = again.data.shape == codes.shape and again.n_samples == row["num_samples"]
    share = codes_agreement(codes, again.data) if same else 0.0
    yield Check(f"encoded again: {item.id}", "pass" if share >= MIN_CODES else "miss", f"{share:.3%} equal", CODES_BAR)
    mode, condition = plan.settings.mode, row.get("condition")
    sound = model.decode(model.codes(codes, row["num_samples"], mode=mode, condition=condition))
    right = len(sound) == len(audio) and bool(np.isfinite(sound).all())
    distance = mel_distance(audio, sound, model.info.sample_rate) if right else float("nan")
    measured = f"{len(sound)} samples, mel distance {distance:.2f} to the source"
    yield Check(f"decoded: {item.id}", "pass" if right else "miss", measured, f"== {len(audio)} samples")
