"""Many streams in one object against single ones: agreement of codes and audio on all speech of the tests.

OMP_NUM_THREADS=1 python benchmarks/row_agreement.py [onnx|torch] [rows]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

import codec
from codec.audio import resample

FIXTURES = Path(__file__).resolve().parents[1] / "tests" / "fixtures"
N_SAMPLES = 24000  # of each row


def speech() -> Any:
    """All real speech of the tests, (T,) at 16 kHz."""
    parts = [codec.read_audio(path) for path in sorted(FIXTURES.glob("*.flac"))]
    return np.concatenate([resample(audio[0], rate, 16000) for audio, rate in parts])


def agreement(model: codec.Model, n_rows: int) -> None:
    """Rows fed at random against streams of their own."""
    audio, rng = speech(), np.random.default_rng(1)
    rows = [audio[start:][:N_SAMPLES] for start in np.linspace(0, len(audio) - N_SAMPLES, n_rows).astype(int)]
    encoders, at = model.stream_encoders(rows=n_rows), [0] * n_rows
    parts: list[list[Any]] = [[] for _ in rows]
    while min(at) < N_SAMPLES:
        chunks = {}
        for row in np.flatnonzero(rng.random(n_rows) < 0.7).tolist():
            size = int(rng.integers(1, 900))
            chunks[row] = rows[row][at[row] :][:size]
            at[row] += size
        for row, codes in encoders.feed(chunks).items():
            parts[row].append(codes)
    for row, codes in encoders.flush(range(n_rows)).items():
        parts[row].append(codes)
    wanted = [model.encode(row, mode="frame").data for row in rows]
    same = np.concatenate([np.concatenate(mine, 1) == its for mine, its in zip(parts, wanted, strict=True)], 1)
    print(f"codes agree: {same.mean():.4%} of {same.size}")
    heard = model.stream_decoders(rows=n_rows).feed(dict(enumerate(wanted)))
    alone = np.stack([model.stream_decoder().feed(codes) for codes in wanted])
    noise = np.square(alone - np.stack(list(heard.values()))).sum()
    print(f"audio agrees: {10 * np.log10(np.square(alone).sum() / noise):.0f} dB" if noise else "audio is equal")


if __name__ == "__main__":
    chosen = codec.load(engine=sys.argv[1] if len(sys.argv) > 1 else "auto")
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 32
    print(f"{chosen.info.name}, {chosen.engine.name}, {size} rows")
    agreement(chosen, size)
