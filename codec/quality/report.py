"""An evaluation as files: scores.csv (one row per file), report.json (means), report.html (means, players, pictures).

Floor 4: takes what `codec eval` measured, looks at no model and no clock.

>>> import tempfile
>>> result = EvalResult("tiny", "0123abcd", "2026-11-21", "dev", rows=(), use=())
>>> [path.name for path in write_report(tempfile.mkdtemp(), result)]
['scores.csv', 'report.json', 'report.html']
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codec.errors import CodecError
from codec.files import atomic_path, describe_os_error
from codec.quality.reportpage import page
from codec.quality.scores import (
    CLEAN,
    HEADINGS,
    WEIGHTS,
    Decoded,
    EvalResult,
    Example,
    FileScore,
    Mean,
    interval,
    number,
    score_names,
    summarize,
)

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Decoded", "EvalResult", "Example", "FileScore", "as_json", "summarize", "table", "write_report"]


def write_report(folder: str | os.PathLike[str], result: EvalResult) -> tuple[Path, ...]:
    """Write scores.csv, report.json and report.html into `folder`, which is made if missing; older ones are replaced.

    Returns:
        The three paths.

    Raises:
        CodecError: the folder cannot be made or written.
    """
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        raise CodecError(f"{place}: cannot be made a folder: {describe_os_error(failure)}") from failure
    with atomic_path(place / "scores.csv", overwrite=True) as temporary:
        _write_csv(temporary, result.rows)
    with atomic_path(place / "report.json", overwrite=True) as temporary:
        # allow_nan=False: NaN is no JSON, and many readers refuse it.
        text = json.dumps(_without_nan(as_json(result)), indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8", errors="replace")
    with atomic_path(place / "report.html", overwrite=True) as temporary:
        temporary.write_text(page(result, summarize(result.rows)), encoding="utf-8", errors="replace")
    return place / "scores.csv", place / "report.json", place / "report.html"


def as_json(result: EvalResult) -> dict[str, Any]:
    """Give the content of report.json as plain data, without the rows and the examples; unknown numbers are nan."""
    told = ("model", "weights_hash", "date", "data", "condition", "command", "machine")
    return {name: getattr(result, name) for name in told} | {
        "summaries": [dataclasses.asdict(summary) for summary in summarize(result.rows)],
        "groups": {
            name: [dataclasses.asdict(summary) for summary in summarize(rows)]
            for name, rows in result.grouped().items()
        },
        "codebook_use": [dataclasses.asdict(use) for use in result.use],
        "skipped": dict(result.skipped),
    }


def table(result: EvalResult, *, group: str | None = None) -> Table:
    """Give the means as a table for the terminal, of one group where that is named; print it with rich."""
    from rich.table import Table

    rows = result.rows if group is None else result.grouped()[group]
    about = [result.data if group is None else group, f"{len({row.file for row in rows})} files"]
    about += [] if result.condition == CLEAN else [result.condition]
    shown = Table(title=f"{result.model}  ({', '.join(about)})")
    names = score_names([row.scores for row in rows])
    headings = ["codebooks", "kbit/s", *(HEADINGS[name][0] for name in names), "RTF encode", "RTF decode"]
    for heading in headings:
        shown.add_column(heading, justify="right")
    for summary in summarize(rows):
        scores = [_cell(name, summary.means[name]) for name in names]
        rtf = [number(summary.rtf_encode, 4), number(summary.rtf_decode, 4)]
        shown.add_row(str(summary.codebooks), number(summary.bitrate / 1000, 2), *scores, *rtf)
    return shown


def _cell(name: str, mean: Mean) -> str:
    """The mean; of what is counted in words also the interval and the number of words: without them it says little."""
    value = number(mean.value, HEADINGS[name][2])
    return f"{value}\n({interval(name, mean)})" if name in WEIGHTS else value


def _write_csv(path: Path, rows: Sequence[FileScore]) -> None:
    """One row per file and number of codebooks; an unknown score is an empty cell."""
    facts = [field.name for field in dataclasses.fields(FileScore) if field.name != "scores"]
    scores = [row.scores for row in rows]
    names = [*score_names(scores), *(name for name in WEIGHTS.values() if any(name in one for one in scores))]
    with open(path, "w", encoding="utf-8", errors="replace", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*facts, *names])
        for row in rows:
            cells = [*(getattr(row, name) for name in facts), *(row.scores.get(name, math.nan) for name in names)]
            writer.writerow("" if isinstance(cell, float) and math.isnan(cell) else cell for cell in cells)


def _without_nan(data: Any) -> Any:
    """Replace nan by None, which JSON calls null."""
    if isinstance(data, dict):
        return {key: _without_nan(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_without_nan(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
