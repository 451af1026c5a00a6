"""How well speech is coded that came another way: quiet, loud, dull, thin, by telephone, out of a lossy file.

    python -m benchmarks.conditions FOLDER [--files 16] [--model M ...] [--codebooks 4,8] [--lyra FOLDER]

Each file is changed first; what a codec makes of that is judged against the changed file, not the clean one. The first
five seconds of each, PESQ-WB and STOI.
"""

from __future__ import annotations

import argparse
import io
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import butter, firwin, lfilter, sosfilt

from benchmarks.voice import pick
from codec.api import load
from codec.audio import fit, read
from codec.quality.compare import model_system
from codec.quality.lyra import lyra
from codec.quality.metrics import align, pesq_wb, stoi
from codec.quality.systems import Floats, System

RATE = 16000  # Hz
SECONDS = 5


def _low_pass(hz: float) -> Callable[[Floats], Floats]:
    taps = firwin(255, hz, fs=RATE)
    return lambda x: np.asarray(lfilter(taps, 1, x), np.float32)


def _high_pass(x: Floats, hz: float) -> Floats:
    return np.asarray(sosfilt(butter(4, hz, "high", fs=RATE, output="sos"), x), np.float32)


def _tilt(zero: float) -> Callable[[Floats], Floats]:
    return lambda x: np.asarray(0.7 * lfilter([1, zero], 1, x), np.float32)


def _mp3(x: Floats) -> Floats:
    coded = io.BytesIO()
    soundfile.write(coded, x, RATE, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.9)
    coded.seek(0)
    return np.asarray(soundfile.read(coded, dtype="float32")[0][: len(x)])


CONDITIONS: Mapping[str, Callable[[Floats], Floats]] = {
    "as recorded": lambda x: x,
    "20 dB quieter": lambda x: x * np.float32(0.1),
    "peak at full scale": lambda x: x / np.abs(x).max(),
    "nothing above 6 kHz": _low_pass(6000),
    "nothing above 4 kHz": _low_pass(4000),
    "telephone, 300 to 3400 Hz": lambda x: _high_pass(_low_pass(3400)(x), 300),
    "nothing below 200 Hz": lambda x: _high_pass(x, 200),
    "bright": _tilt(-0.6),
    "dark": _tilt(0.8),
    "from MP3": _mp3,
    "8 bit": lambda x: np.round(x * 128) / np.float32(128),
}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conditions", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, default=16)
    parser.add_argument("--model", nargs="+", default=["default_16k"])
    parser.add_argument("--codebooks", default="4,8")
    parser.add_argument("--lyra", type=Path)
    args = parser.parse_args()
    paths = pick(parser, args.folder, args.files)
    counts = [int(n) for n in args.codebooks.split(",")]
    systems: list[System] = [model_system(load(name), counts) for name in args.model]
    systems += [lyra(args.lyra, up_to=6)] if args.lyra else []
    speech = [fit(*read(path), RATE, channels="mix")[0][: SECONDS * RATE] for path in paths]
    for i, (condition, change) in enumerate(CONDITIONS.items()):
        scores: Mapping[str, list[tuple[float, float]]] = defaultdict(list)
        for ref in map(change, speech):
            for system in systems:
                for coded in system.code(ref, RATE):
                    deg = align(ref, fit(coded.audio[None], coded.sample_rate, RATE, channels="mix")[0])[0]
                    scores[f"{system.facts.name}, {coded.label}"].append((pesq_wb(ref, deg), stoi(ref, deg)))
        if i == 0:
            print(f"| PESQ-WB / STOI | {' | '.join(scores)} |")
            print("|---" * (len(scores) + 1) + "|")
        means = (np.nanmean(both, axis=0) for both in scores.values())
        print(f"| {condition} | {' | '.join(f'{a:.2f} / {b:.3f}' for a, b in means)} |", flush=True)


if __name__ == "__main__":
    main()
