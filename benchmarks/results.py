"""RESULTS.md, docs/performance.md and the speeds in README.md, all from results.json. Standard library alone.

python -m benchmarks.results            # write them from benchmarks/results.json
python -m benchmarks.results --check    # exit 1 where one of them disagrees with it
python -m benchmarks.results --root DIR # of another checkout
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MARKS = {True: "met", False: "**missed**", None: "not measured"}


def table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = [list(headings), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"


def spread(value: Mapping[str, float] | None, digits: int = 3) -> str:
    """Median and quartiles."""
    if value is None:
        return "-"
    return f"{value['median']:.{digits}g} ({value['low']:.{digits}g} to {value['high']:.{digits}g})"


def megabytes(value: float | None) -> str:
    """Bytes as MB."""
    return "-" if value is None else f"{value / 1e6:.0f}"


def machine(about: Mapping[str, Any]) -> str:
    """Where and when."""
    quick = " **A quick run: fewer rounds, no long files; not the figures to quote.**" if about["quick"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    busy = f"load average {about['load'][0]} at the start, {about['load'][1]} at the end"
    return (
        f"{about['date']}, {about['machine']}, {about['capability']}; {busy}. {versions}. "
        f"Model {about['model']}, weights {about['weights']}. `{about['command']}` took {about['minutes']} minutes."
        f"{quick}\n\n"
    )


def bars(data: Mapping[str, Any]) -> str:
    """What was asked for, beside what was measured."""
    rows = [[row["name"], row["bar"], row["measured"], MARKS[row["met"]]] for row in data["bars"]]
    return table(("what", "bar", "measured", "result"), rows)


def offline(data: Mapping[str, Any]) -> str:
    """Real-time factors."""
    rows = [
        [r["codec"], r["part"], str(r["threads"]), spread(r["rtf"]), spread(r["encodec_over_this"])]
        for r in sorted(data["offline"], key=lambda r: (r["threads"], r["part"] != "encode"))
    ]
    headings = ("codec", "part", "threads", "real-time factor", "EnCodec 24 kHz takes so many times longer")
    return table(headings, rows)


def streaming(data: Mapping[str, Any]) -> str:
    """Single steps."""
    rows = [
        [
            r["codec"],
            r["part"],
            f"{r['frame_ms']:.0f}",
            spread(r["ms"]),
            f"{r['ms']['p99']:.3g}",
            f"{r['live_streams']:.1f}",
            spread(r["mimi_over_this"]),
            spread(r["this_over_lyra"]),
        ]
        for r in data["steps"]
    ]
    headings = ("codec", "part", "frame, ms", "step, ms", "p99, ms", "live streams, one core")
    return table((*headings, "Mimi costs so many times more per second", "times Lyra v2's step"), rows)


def many(data: Mapping[str, Any]) -> str:
    """Batched steps."""
    rows = [
        [r["codec"], r["part"], str(r["rows"]), spread(r["ms"]), spread(r["single_steps"]), f"{r['live_streams']:.0f}"]
        for r in data["rows"]
    ]
    return table(
        ("codec", "part", "streams in one object", "step of all, ms", "single steps", "live streams, one core"), rows
    )


def batches(data: Mapping[str, Any]) -> str:
    """Offline batches."""
    rows = [[r["codec"], r["part"], str(r["batch"]), spread(r["rtf"])] for r in data["batches"]]
    return table(("codec", "part", "batch", "seconds per second of audio"), rows)


def processes(data: Mapping[str, Any]) -> str:
    """Memory and starts."""
    rows = [
        [r["codec"], f"{r['first_codes']:.2f}" if "first_codes" in r else r["error"], megabytes(r.get("memory_bytes"))]
        for r in data["processes"]
    ]
    commands = [
        [r["codec"], spread(r["first_byte"]), spread(r["wall"]), megabytes(r["memory_bytes"])] for r in data["commands"]
    ]
    return table(
        ("Python process: load, encode and decode 3 s", "start to first codes, s", "most memory, MB"), rows
    ) + table(("command line, 3 s file", "start to first byte, s", "to its end, s", "most memory, MB"), commands)


def lengths(data: Mapping[str, Any]) -> str:
    """Cost against length."""
    rows = [
        [
            r["part"],
            f"{r['seconds']}",
            f"{r['wall']:.2f}",
            f"{r['wall'] / r['seconds']:.4f}",
            megabytes(r["memory_bytes"]),
        ]
        for r in data["lengths"]
    ]
    return table(("part", "length, s", "wall, s", "wall per second of audio", "most memory, MB"), rows)


def roofline(data: Mapping[str, Any]) -> str:
    """What the machine allows."""
    limits = data["limits"]
    text = (
        f"Measured with torch, one thread: {limits['far_bandwidth'] / 1e9:.1f} GB/s from memory, "
        f"{limits['near_bandwidth'] / 1e9:.1f} GB/s from {limits['near_bytes'] / 1e6:.0f} MB (half of our weights), "
        f"{limits['flops'] / 1e9:.0f} GFLOP/s in fp32 products.\n\n"
    )
    rows = [
        [
            r["codec"],
            r["part"],
            f"{r['weight_bytes'] / 1e6:.1f}",
            f"{r['ms_by_bytes']:.3f}",
            f"{r['ms_by_flops']:.3f}" if r["ms_by_flops"] is not None else "-",
            f"{r['ms']:.2f}",
            f"{r['times_floor']:.1f}",
        ]
        for r in data["floors"]
    ]
    headings = (
        "codec",
        "part",
        "weights, MB",
        "floor by bytes, ms",
        "floor by FLOPs, ms",
        "a step takes, ms",
        "times floor",
    )
    counted = [[r["codec"], r["part"], f"{r['flop_per_second'] / 1e9:.2f}"] for r in data["operations"]]
    return text + table(headings, rows) + table(("codec", "part", "GFLOP per second of audio"), counted)


def lookup(data: Mapping[str, Any]) -> str:
    """Nearest-entry search."""
    text = ""
    for entry in data["lookup"]:
        text += "{} vectors, {} entries, {} dimensions:\n\n".format(*entry["shape"])
        rows = [[name, spread(r["ms"]), spread(r["products"])] for name, r in entry["searches"].items()]
        text += table(("search", "ms of CPU time", "times the matrix product alone"), rows)
    return text


SECTIONS = {
    "Bars": bars,
    "Offline": offline,
    "Streaming: one step": streaming,
    "Streaming: many streams": many,
    "Batches, offline": batches,
    "Memory and cold start": processes,
    "Cost against length": lengths,
    "Roofline": roofline,
    "Codebook search": lookup,
}


def results_page(data: Mapping[str, Any]) -> str:
    """RESULTS.md: everything."""
    text = "# Results\n\nMade of `results.json` by `make bench`; do not edit. " + machine(data["about"])
    text += "Figures are medians (first to third quartile), taken as [here](../docs/performance.md).\n\n"
    for heading, section in SECTIONS.items():
        text += f"## {heading}\n\n" + section(data)
    text += "## Left out\n\n"
    text += "".join(f"- {name}: {why}\n" for name, why in data["missing"].items()) or "Nothing.\n"
    return text


def performance_page(data: Mapping[str, Any]) -> str:
    """docs/performance.md: the text beside this file, with the tables that it names."""
    text = (ROOT / "benchmarks" / "performance.template.md").read_text()
    for heading, section in SECTIONS.items():
        text = text.replace("{{" + heading + "}}\n", section(data).rstrip("\n") + "\n")
    notes = "".join(f"- {name}: {note}\n" for name, note in data["notes"].items() if note)
    return text.replace("{{machine}}\n", machine(data["about"]).rstrip("\n") + "\n").replace("{{notes}}\n", notes)


# First cell of a row of README's table -> the codec in results.json.
README_ROWS = {
    "**`default_16k`**": "ours, onnx",
    "the same, `onnx-int8`": "ours, onnx int8",
    "Lyra v2": "Lyra v2 (LiteRT)",
    "EnCodec 24 kHz": "encodec 24 kHz",
    "Mimi": "Mimi (transformers)",
    "SNAC 24 kHz": "SNAC 24 kHz",
    "DAC 16 kHz": "DAC 16 kHz (transformers)",
}


def short(value: float) -> str:
    """A speed in two digits or more."""
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"


def speeds(data: Mapping[str, Any], codec: str) -> list[str]:
    """The last three cells of a row of README's table: encode, decode, live streams of one core."""
    offline = {r["part"]: r["rtf"]["median"] for r in data["offline"] if (r["codec"], r["threads"]) == (codec, 1)}
    live = {r["part"]: r["live_streams"] for r in data["steps"] if r["codec"] == codec}
    cells = [short(1 / offline[part]) if part in offline else "-" for part in ("encode", "decode")]
    return [*cells, f"{short(live['encode'])} / {short(live['decode'])}" if live else "-"]


def readme_page(data: Mapping[str, Any], text: str) -> str:
    """README.md with the speeds of its table as results.json has them; as it is after a quick run, not to be quoted.

    Raises:
        SystemExit: a codec of `README_ROWS` has no row, or more than one.
    """
    if data["about"]["quick"]:
        return text
    lines = text.split("\n")
    for name, codec in README_ROWS.items():
        rows = [i for i, line in enumerate(lines) if line.startswith(f"| {name} | ")]
        if len(rows) != 1:
            raise SystemExit(f"README.md: {len(rows)} rows begin with {name}; its table needs one")
        lines[rows[0]] = " | ".join([*lines[rows[0]].split(" | ")[:-3], *speeds(data, codec)]) + " |"
    return "\n".join(lines)


def pages(root: Path) -> dict[Path, str]:
    """The documents of a checkout."""
    data = json.loads((root / "benchmarks" / "results.json").read_text())
    return {
        root / "README.md": readme_page(data, (root / "README.md").read_text()),
        root / "benchmarks" / "RESULTS.md": results_page(data),
        root / "docs" / "performance.md": performance_page(data),
    }


def main() -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(description="documents of results.json")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--root", type=Path, default=ROOT)
    options = parser.parse_args()
    stale = 0
    for path, text in pages(options.root).items():
        if not options.check:
            path.write_text(text)
        elif not path.is_file() or path.read_text() != text:
            print(f"{path}: not what results.json says; run python -m benchmarks.results", file=sys.stderr)
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main())
