"""Writes docs/systems.md, docs/pictures/families.svg and the recipes' lines of cost from benchmarks/systems.json.

    python -m benchmarks.systems [--check] [--root FOLDER]

The numbers come from `python -m benchmarks.recipes` and `python -m benchmarks.families`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from html import escape
from pathlib import Path
from typing import Any

from codec.quality.curve import COLOURS

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "systems.json"
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml") if path.stem not in ("default_16k", "tiny"))
WIDTH, HEIGHT, COLUMNS = 240, 150, 4  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 40, 10, 28, 26
KEY = ("up: mel distance, less is better", "to the right: seconds of learning", "broken line: discriminators begin")


def read_results() -> dict[str, Any]:
    """What was measured so far."""
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return found


def write_results(results: dict[str, Any]) -> None:
    """Take the place of what was measured before."""
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


def main() -> None:
    """Write the documents; with --check say which are out of date, and fail."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--root", type=Path, default=ROOT)
    args = parser.parse_args()
    results = json.loads((args.root / "benchmarks" / "systems.json").read_text())
    old = []
    for name, text in documents(results, args.root).items():
        path = args.root / name
        if path.exists() and path.read_text() == text:
            continue
        old.append(name)
        if not args.check:
            path.write_text(text)
    if args.check and old:
        print(f"{', '.join(old)}: not what systems.json says; run python -m benchmarks.systems", file=sys.stderr)
        sys.exit(1)


def documents(results: dict[str, Any], root: Path) -> dict[str, str]:
    """File name to text."""
    template = (ROOT / "benchmarks" / "systems.template.md").read_text()
    crops, batches = results.get("crops", {}), results.get("batches", {})
    steps = crops | batches
    page = template.replace("{{steps}}", steps_table(steps))
    ratios = [batches[name]["seconds"] / batch_seconds(crops[name]) for name in batches.keys() & crops.keys()]
    page = page.replace("{{low}}", f"{min(ratios):.1f}").replace("{{high}}", f"{max(ratios):.1f}")
    page = page.replace("{{trainings}}", trainings_table(results["trainings"]))
    seconds = min(row["curve"][-1][0] for row in results["trainings"].values())
    page = page.replace("{{seconds}}", f"{round(seconds / 5) * 5}")
    texts = {"docs/systems.md": page, "docs/pictures/families.svg": picture(results["trainings"])}
    for name, row in steps.items():
        path = f"recipes/{name}.yaml"
        texts[path] = with_cost((root / path).read_text(), cost_line(row))
    return texts


def steps_table(steps: dict[str, Any]) -> str:
    """One row per recipe; what was computed and not measured stands in brackets."""
    lines = ["| recipe | published batch, s | in parts | seconds | memory, GiB | memory in one part, GiB |"]
    lines += ["|---|---|---|---|---|---|"]
    for name in sorted(steps):
        row = steps[name]
        seconds, memory, whole = digits(batch_seconds(row)), gib(row["memory_bytes"]), gib(row["batch_memory_bytes"])
        measured = f"- | [{seconds}] | - | [{whole}]"
        if is_published(row):
            measured = f"{row['parts']} | {seconds} | {memory} | {memory if row['parts'] == 1 else f'[{whole}]'}"
        lines.append(f"| `{name}` | {row['batch']} x {published_crop(row):g} | {measured} |")
    return "\n".join(lines)


def trainings_table(trainings: dict[str, Any]) -> str:
    """One row per family."""
    lines = ["| recipe | parameters | steps | s a step | loss | mel distance | discriminator | STOI |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for name in sorted(trainings):
        row = trainings[name]
        judged = "none" if row["discriminator"] is None else " → ".join(digits(x) for x in row["discriminator"])
        lines.append(
            f"| `{name}` | {row['parameters'] / 1e6:.2f} M | {row['steps']} | {row['step_seconds']:.2f} "
            f"| {' → '.join(digits(x) for x in row['loss'])} | {row['curve'][0][1]:.2f} → {row['curve'][-1][1]:.2f} "
            f"| {judged} | {row['stoi']:.2f} |"
        )
    return "\n".join(lines)


def cost_line(row: dict[str, Any]) -> str:
    """What stands in a recipe."""
    took = f"took {digits(row['seconds'])} s and {gib(row['memory_bytes'])} GiB on one CPU core"
    source = "(python -m benchmarks.recipes)"
    whole = gib(row["batch_memory_bytes"])
    if not is_published(row):
        crops = "a crop" if row["crops"] == 1 else f"{row['crops']} crops"
        each = "" if published_crop(row) == row["crop"] else f" of crops of {published_crop(row):g} s"
        return (
            f"# A step of {crops} of {row['crop']:g} s {took} {source};\n"
            f"# computed from it, the published batch of {row['batch']}{each} takes {digits(batch_seconds(row))} s and "
            f"{whole} GiB there.\n"
        )
    batch = f"# A step of the published batch, {row['batch']} crops of {row['crop']:g} s"
    if row["parts"] == 1:
        return f"{batch}, {took}\n# {source}.\n"
    return (
        f"{batch}, in {row['parts']} parts (optim.accumulate={row['parts']})\n"
        f"# {took} {source}; in one part it would take {whole} GiB, computed.\n"
    )


def is_published(row: dict[str, Any]) -> bool:
    """Whether the published batch was measured."""
    return bool(row["crops"] == row["batch"] and row["crop"] == published_crop(row))


def published_crop(row: dict[str, Any]) -> float:
    """Seconds of a crop of the published batch; what was measured may be shorter."""
    return float(row.get("batch_crop", row["crop"]))


def batch_seconds(row: dict[str, Any]) -> float:
    """What the published batch takes, computed from what was measured."""
    one = row["seconds"] / row["crops"]
    return float(one * row["batch"] * published_crop(row) / row["crop"])


def with_cost(text: str, line: str) -> str:
    """The recipe's text with these lines behind those of its source, in the place of older ones."""
    text = re.sub(r"# A step of [^\n]*\n# (?:computed from it|took|\(python -m)[^\n]*\n", "", text)
    place = text.index("# What differs")
    return text[:place] + line + text[place:]


def digits(value: float) -> str:
    """A number for people: two digits and more.

    >>> digits(0.0421), digits(3.456), digits(1234.5)
    ('0.042', '3.5', '1234')
    """
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}"


def gib(size_bytes: float) -> str:
    """Bytes as GiB."""
    return digits(size_bytes / 2**30)


def picture(trainings: dict[str, Any]) -> str:
    """Mel distance against seconds of learning, a panel for each family, all at one scale."""
    names = sorted(trainings)
    top = max(value for name in names for _, value in trainings[name]["curve"])
    end = max(seconds for name in names for seconds, _ in trainings[name]["curve"])
    width, height = WIDTH * COLUMNS, HEIGHT * (len(names) // COLUMNS + 1)  # the place behind the last one is the key's
    title = "Mel distance on held-out speech against seconds of learning, a panel for each family"
    (light, dark) = COLOURS[0]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{title}">',
        f"<title>{title}</title>",
        "<style>text{font:11px system-ui,sans-serif;fill:#3d3a45}.head{font-weight:600}.grid{stroke:#8883}"
        f".line{{fill:none;stroke:{light};stroke-width:2}}.late{{stroke:#888c;stroke-dasharray:3 3}}"
        f"@media(prefers-color-scheme:dark){{text{{fill:#d6d3de}}.line{{stroke:{dark}}}}}</style>",
    ]
    for i, name in enumerate(names):
        x, y = i % COLUMNS * WIDTH, i // COLUMNS * HEIGHT
        parts.append(f'<g transform="translate({x} {y})">{panel(name, trainings[name], end, top)}</g>')
    x, y = len(names) % COLUMNS * WIDTH + LEFT, (len(names) // COLUMNS) * HEIGHT + 46
    for i, line in enumerate(KEY):
        parts.append(f'<text x="{x}" y="{y + 18 * i}">{line}</text>')
    return "\n".join([*parts, "</svg>", ""])


def panel(name: str, row: dict[str, Any], end: float, top: float) -> str:
    """One family: its curve, and a broken line where the discriminators begin."""

    def at(seconds: float, value: float) -> tuple[float, float]:
        return (
            LEFT + seconds / end * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM),
        )

    parts = [f'<text class="head" x="{LEFT}" y="18">{escape(name)}</text>']
    step = 0.5 if top > 1 else 0.25
    for k in range(int(top / step) + 1):
        _, y = at(0, k * step)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{k * step:g}</text>')
    for seconds in (0, 20, 40, 60, 80):
        if seconds <= end:
            x, _ = at(seconds, 0)
            parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 10}" text-anchor="middle">{seconds}</text>')
    if row["opposed_steps"]:
        x, _ = at(0.75 * row["curve"][-1][0], 0)
        parts.append(f'<path class="late" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
    points = "L".join("{:.1f} {:.1f}".format(*at(*point)) for point in row["curve"])
    return "".join([*parts, f'<path class="line" d="M{points}"/>'])


if __name__ == "__main__":
    main()
