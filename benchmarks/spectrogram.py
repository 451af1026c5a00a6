"""Draw docs/pictures/spectrogram.png: a recording, and what fewer and fewer codebooks leave of it.

python benchmarks/spectrogram.py tests/fixtures/talk.flac docs/pictures/spectrogram.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import codec
from codec.quality.spectrogram import loudness_db, magma, png

GAP, HEIGHT = 6, 2  # rows of white between the panels; rows of the picture for one of the spectrogram
RANGE_DB = 70.0  # from black to the brightest point of the recording


def main(source: str, target: str) -> None:
    """Original on top, then all codebooks, a half, a quarter."""
    model = codec.load()
    audio, sample_rate = codec.read_audio(source)
    original = audio[0]
    counts = [n for n in (8, 4, 2) if n in model.info.prefixes]
    versions = [original, *(model.decode(model.encode(original, sample_rate, codebooks=n)) for n in counts)]
    panels = [loudness_db(version, model.info.sample_rate) for version in versions]
    top = panels[0].max()
    shades = [np.clip((p[::-1] - top + RANGE_DB) / RANGE_DB * 254, 0, 254).astype(np.uint8) for p in panels]
    white = np.full((GAP, shades[0].shape[1]), 255, np.uint8)
    rows = [row for shade in shades for row in (shade.repeat(HEIGHT, 0), white)][:-1]
    palette = magma().copy()
    palette[255] = 255
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_bytes(png(np.concatenate(rows), palette))


if __name__ == "__main__":
    main(*sys.argv[1:])
