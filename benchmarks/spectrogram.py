"""Draw docs/pictures/spectrogram.svg: a recording, and what fewer and fewer codebooks leave of it.

python -m benchmarks.spectrogram tests/fixtures/talk.flac docs/pictures/spectrogram.svg
"""

from __future__ import annotations

import base64
import sys
from pathlib import Path

import codec
from codec.quality.spectrogram import loudness_db, mel_place, picture

WIDTH, HEIGHT, GAP = 720, 132, 26  # of a panel, and above it for its name
LEFT, RIGHT, BOTTOM = 46, 10, 44
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#3d3a45}.head{font-weight:600;font-size:13px}.tick{stroke:#8888}"
    "@media(prefers-color-scheme:dark){text{fill:#d6d3de}}"
)
TICKS = (0, 500, 1000, 2000, 4000, 8000)  # Hz


def main(source: str, target: str) -> None:
    """Recording on top, then all codebooks, a half, a quarter."""
    model = codec.load()
    audio, sample_rate = codec.read_audio(source)
    original, rate = audio[0], model.info.sample_rate
    versions = [("the recording", original)]
    for n in (n for n in (8, 4, 2) if n in model.info.prefixes):
        codes = model.encode(original, sample_rate, codebooks=n)
        versions.append((f"{n} codebooks, {codes.bitrate / 1000:g} kbit/s", model.decode(codes)))
    top = float(loudness_db(original, rate).max())
    seconds = len(original) / sample_rate
    height = len(versions) * (GAP + HEIGHT) + BOTTOM
    title = f"Spectrograms of {', '.join(name for name, _ in versions)}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + RIGHT} {height}" '
        f'width="{LEFT + WIDTH + RIGHT}" height="{height}" role="img" aria-label="{title}">',
        f"<title>{title}</title><style>{STYLE}</style>",
    ]
    for i, (name, version) in enumerate(versions):
        data = base64.b64encode(picture(version, rate, top_db=top)).decode("ascii")
        y = i * (GAP + HEIGHT) + GAP
        parts.append(f'<text class="head" x="{LEFT}" y="{y - 8}">{name}</text>')
        parts.append(
            f'<image x="{LEFT}" y="{y}" width="{WIDTH}" height="{HEIGHT}" preserveAspectRatio="none" '
            f'href="data:image/png;base64,{data}"/>'
        )
        for hertz in (hertz for hertz in TICKS if hertz <= rate / 2):
            place = y + HEIGHT * (1 - mel_place(hertz, rate))
            parts.append(f'<path class="tick" d="M{LEFT - 5} {place:.1f}h5"/>')
            parts.append(f'<text x="{LEFT - 8}" y="{place + 4:.1f}" text-anchor="end">{hertz / 1000:g}</text>')
    y = height - BOTTOM
    parts.append(f'<text x="{LEFT - 8}" y="{GAP - 8}" text-anchor="end">kHz</text>')
    for second in range(int(seconds) + 1):
        x = LEFT + WIDTH * second / seconds
        parts.append(f'<path class="tick" d="M{x:.1f} {y}v5"/>')
        parts.append(f'<text x="{x:.1f}" y="{y + 18}" text-anchor="middle">{second}</text>')
    parts.append(f'<text x="{LEFT + WIDTH / 2:g}" y="{y + 36}" text-anchor="middle">time, s; brighter is louder</text>')
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text("\n".join([*parts, "</svg>", ""]), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
