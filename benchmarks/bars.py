"""The bars that the project set itself, each beside what was measured: met, missed or not measured, never hidden."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Row = dict[str, Any]
PRODUCT = "matrix product alone"
LOW = ("int8 product alone, tiled", "bf16 product alone, tiled")
OURS_SEARCH = "ours, table given"


def judge(results: Mapping[str, Any]) -> list[Row]:
    """One row per bar: name, bar, measured (text) and met (None where nothing was measured)."""
    return [
        *_offline(results["offline"]),
        *_steps(results["steps"]),
        *_rows(results["rows"]),
        *_commands(results["commands"], results["lengths"]),
        *(row for entry in results["lookup"] for row in _lookup(entry)),
    ]


def _row(name: str, bar: str, value: float | None, met: bool, text: str) -> Row:
    if value is None:
        return {"name": name, "bar": bar, "measured": "not measured", "met": None}
    return {"name": name, "bar": bar, "measured": text.format(value), "met": met}


def _best(rows: Iterable[Row], value: Any, *, least: bool) -> tuple[float | None, str]:
    """The best of our engines, and which one it was."""
    found = [(value(row), row["codec"]) for row in rows if row["codec"].startswith("ours")]
    return (min if least else max)(found) if found else (None, "")


def _offline(rows: list[Row]) -> Iterable[Row]:
    for part in ("encode", "decode"):
        ours = [r for r in rows if r["part"] == part and r["threads"] == 1 and r["encodec_over_this"]]
        best, who = _best(ours, lambda row: row["encodec_over_this"]["median"], least=False)
        bar = ">= 15 times faster than EnCodec 24 kHz"
        yield _row(f"offline {part}, one thread", bar, best, (best or 0) >= 15, "{:.1f} times (" + who + ")")


def _steps(rows: list[Row]) -> Iterable[Row]:
    for part in ("encode", "decode"):
        onnx = [row for row in rows if row["part"] == part and "onnx" in row["codec"]]
        best, who = _best(onnx, lambda row: row["ms"]["median"], least=True)
        bar = "<= 0.35 ms with onnxruntime, or <= 2.5 times Lyra v2's step"
        beside = [(row["this_over_lyra"]["median"], row["codec"]) for row in onnx if row["this_over_lyra"]]
        times = min(beside)[0] if beside else None
        met = (best or 9) <= 0.35 or (times or 9) <= 2.5
        text = f", {times:.1f} times Lyra's" if times else "; Lyra not measured"
        yield _row(f"feed of one 20 ms frame, {part}", bar, best, met, "{:.2f} ms (" + who + ")" + text)
        ratio, who = _best(
            [row for row in onnx if row["mimi_over_this"]], lambda row: row["mimi_over_this"]["median"], least=False
        )
        bar = ">= 10 times cheaper per second of audio than Mimi's"
        yield _row(f"streaming step, {part}", bar, ratio, (ratio or 0) >= 10, "{:.1f} times (" + who + ")")


def _rows(rows: list[Row]) -> Iterable[Row]:
    for part in ("encode", "decode"):
        wide = [row for row in rows if row["part"] == part and row["rows"] == 32 and "onnx" in row["codec"]]
        best, who = _best(wide, lambda row: row["single_steps"]["median"], least=True)
        text = "{:.1f} single steps (" + who + ")"
        yield _row(
            f"one step of 32 streams in one object, {part}", "<= 12 single steps", best, (best or 99) <= 12, text
        )


def _commands(commands: list[Row], lengths: list[Row]) -> Iterable[Row]:
    onnx = [row for row in commands if "onnx" in row["codec"]]
    wall = min((row["wall"]["median"] for row in onnx), default=None)
    yield _row("codec encode of a 3 s file, cold", "<= 1 s of wall time", wall, (wall or 9) <= 1, "{:.2f} s")
    memory = min((row["memory_bytes"] / 1e6 for row in onnx if row["memory_bytes"]), default=None)
    yield _row("its memory", "<= 150 MB", memory, (memory or 999) <= 150, "{:.0f} MB")
    hour = [row for row in lengths if row["seconds"] == 3600 and row["memory_bytes"]]
    for part in ("encode", "decode"):
        found = min((row["memory_bytes"] / 1e6 for row in hour if row["part"] == part), default=None)
        yield _row(f"one hour of audio, {part}", "< 400 MB", found, (found or 999) < 400, "{:.0f} MB")


def _lookup(entry: Mapping[str, Any]) -> Iterable[Row]:
    searches = entry["searches"]
    ms = {name: row["ms"]["median"] for name, row in searches.items()}
    name = "lookup {} x {} x {}".format(*entry["shape"])
    ours = ms[OURS_SEARCH]
    if entry["shape"][0] == 1:
        norms = "precomputed norms, addmm, argmin"
        ratio = ours / ms[norms]
        yield _row(name, "no slower than precomputed norms", ratio, ratio <= 1, "{:.2f} times their time")
        return
    low = min((ms[key] for key in LOW if key in ms), default=None)
    if low is None or ms[PRODUCT] < 3 * low:
        ratio = searches[OURS_SEARCH]["products"]["median"]
        bar = "within 1.3 times of the fp32 product (no low precision 3 times faster here)"
        yield _row(name, bar, ratio, ratio <= 1.3, "{:.2f} times")
        return
    for peer, least in (("EnCodec's formula", 4), ("faiss IndexFlatL2", 3), ("vector-quantize-pytorch", 3)):
        ratio = ms[peer] / ours if peer in ms else None
        bar = f">= {least} times faster than {peer}"
        yield _row(name, bar, ratio, (ratio or 0) >= least, "{:.1f} times")
    yield _row(name, "within 3 times of the low-precision product", ours / low, ours / low <= 3, "{:.1f} times")
