"""What is left of a voice, band by band: its phase, level, pulses and formants; and what hums beside it.

    python -m benchmarks.voice FOLDER [--files 12] [--codebooks 4,8] [--lyra FOLDER]

Coherence is the length of the mean of X conj(Y) over the root of their powers, of spectra of 64 ms: 1 where the
waveform is there, near 0 where only its spectrum is. Level is in dB of the recording's. Pulses are how deep the
envelope of a band swings at the pitch of the recording, over its voiced frames: 0 is breathed. Hum is how like 80 ms of
a band are to what comes one frame of the codec later, 20 ms for the recording: speech is not, on average. Contrast is
the deviation in dB of levels in 400 Hz and 50 ms from those in 1000 Hz about them, in the louder half of the frames:
how far formants stand out.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.api import load
from codec.audio import fit, read
from codec.quality.compare import model_system
from codec.quality.lyra import lyra
from codec.quality.metrics import align
from codec.quality.pitch import track
from codec.quality.systems import Floats, System

RATE = 16000  # Hz
BANDS = ((80, 500), (500, 800), (800, 1000), (1000, 1500), (1500, 2000), (2000, 3000))  # Hz, of coherence and level
PULSED = ((1000, 2000), (2000, 4000), (4000, 7600))  # Hz
HUMMED = ((80, 500), (500, 850), (850, 1200), (1200, 2000), (2000, 4000), (4000, 7600))  # Hz
FORMED = ((850, 1500), (1500, 2500), (2500, 4000), (4000, 6000), (6000, 7800))  # Hz, of contrast
NARROW, WIDE, LONG = 17, 41, 5  # bins of 25 Hz, and steps, over which contrast is taken
HEARD, HEARD_STEP, SILENCE = 1280, 640, 1e-5  # samples of which hum is measured, between them, and power not measured
WINDOW, HOP = 1024, 256  # samples, of coherence
FRAME, STEP = 640, 160  # samples, of pulses and contrast; a step is the pitch tracker's
Complex = npt.NDArray[np.complexfloating[Any, Any]]


def measure(ref: Floats, deg: Floats, frame: int) -> dict[str, float]:
    """Coherence, level, pulses, hum and contrast of bands, of two signals (T,) in step; a frame is in samples."""
    freqs = np.fft.rfftfreq(WINDOW, 1 / RATE)
    x, y = (_spectra(signal, WINDOW, HOP) for signal in (ref, deg))
    found: dict[str, float] = {}
    for low, high in BANDS:
        bins = (freqs >= low) & (freqs < high)
        a, b = x[:, bins], y[:, bins]
        powers = [float(np.square(np.abs(part)).sum()) + 1e-12 for part in (a, b)]
        found[f"coherence {low}-{high}"] = float(np.abs((a * b.conj()).sum())) / (powers[0] * powers[1]) ** 0.5
        found[f"level {low}-{high}"] = 10 * float(np.log10(powers[1] / powers[0]))
    return found | pulses(deg, track(ref, RATE)) | hum(ref, deg, frame) | contrast(ref, deg)


def pulses(signal: Floats, pitch: npt.NDArray[np.float64]) -> dict[str, float]:
    """Depth of the swing at the pitch (F,), Hz, in each band: twice its amplitude over the envelope's mean."""
    found = {}
    window = np.hanning(FRAME)
    for low, high in PULSED:
        envelope = np.abs(_analytic(signal, low, high))
        frames = np.lib.stride_tricks.sliding_window_view(envelope, FRAME)[::STEP]
        depths = []
        for i, frame in enumerate(frames):
            middle = i + FRAME // STEP // 2
            near = pitch[middle - 2 : middle + 3]
            level = float((frame * window).sum() / window.sum())
            if len(near) < 5 or not near.all() or level < 1e-4:
                continue
            turn = np.exp(-2j * np.pi * near[2] / RATE * np.arange(FRAME))
            depths.append(2 * abs(((frame - level) * window * turn).sum()) / window.sum() / level)
        found[f"pulses {low}-{high}"] = float(np.mean(depths)) if depths else float("nan")
    return found


def hum(ref: Floats, deg: Floats, frame: int) -> dict[str, float]:
    """Mean correlation of each band of `deg` with itself a frame later, where `ref` is not silent."""
    found = {}
    starts = range(0, len(deg) - HEARD - frame, HEARD_STEP)
    loud = [start for start in starts if np.square(ref[start : start + HEARD], dtype=np.float64).mean() > SILENCE]
    for low, high in HUMMED:
        band = _analytic(deg, low, high).real
        pairs = [(band[start : start + HEARD], band[start + frame : start + frame + HEARD]) for start in loud]
        likeness = [float(a @ b) / (float(a @ a) * float(b @ b) + 1e-24) ** 0.5 for a, b in pairs]
        found[f"hum {low}-{high}"] = float(np.mean(likeness)) if likeness else float("nan")
    return found


def contrast(ref: Floats, deg: Floats) -> dict[str, float]:
    """Deviation in dB of levels in narrow bands from those in wide ones, where `ref` is louder than at its median."""
    loud, power = (np.square(np.abs(_spectra(signal, FRAME, STEP))) for signal in (ref, deg))
    energy = loud.sum(1)
    narrow, wide = (10 * np.log10(_smooth(_smooth(power, LONG, 0), size, 1) + 1e-6) for size in (NARROW, WIDE))
    stands = (narrow - wide)[energy > np.median(energy)]
    freqs = np.fft.rfftfreq(FRAME, 1 / RATE)
    return {f"contrast {low}-{high}": float(stands[:, (freqs >= low) & (freqs < high)].std()) for low, high in FORMED}


def _smooth(power: npt.NDArray[np.float64], size: int, axis: int) -> npt.NDArray[np.float64]:
    """Mean over an odd number of neighbours, at the ends over those that are there."""
    sums = np.insert(power.cumsum(axis), 0, 0.0, axis)
    at = np.arange(power.shape[axis])
    first, last = np.maximum(at - size // 2, 0), np.minimum(at + size // 2 + 1, len(at))
    shape = [-1 if i == axis else 1 for i in range(power.ndim)]
    return (sums.take(last, axis) - sums.take(first, axis)) / (last - first).reshape(shape)


def _spectra(signal: Floats, window: int, hop: int) -> Complex:
    frames = np.lib.stride_tricks.sliding_window_view(signal.astype(np.float64), window)[::hop]
    return np.fft.rfft(frames * np.hanning(window))


def _analytic(signal: Floats, low: float, high: float) -> Complex:
    """The part of a signal between two frequencies, without its mirror image."""
    spectrum = np.fft.fft(signal.astype(np.float64))
    freqs = np.fft.fftfreq(len(signal), 1 / RATE)
    return np.fft.ifft(np.where((freqs >= low) & (freqs < high), 2 * spectrum, 0))


def pick(parser: argparse.ArgumentParser, folder: Path, count: int) -> list[Path]:
    """So many of a folder's files, evenly spread; ends the command where there are none."""
    if count < 1:
        parser.error(f"--files: at least 1, found {count}")
    found = sorted(path for path in folder.glob("*") if path.suffix in (".flac", ".wav"))
    if not found:
        parser.error(f"{folder}: no .flac or .wav there")
    return found[:: max(1, len(found) // count)][:count]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.voice", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, default=12)
    parser.add_argument("--model", default="default_16k")
    parser.add_argument("--codebooks", default="4,8")
    parser.add_argument("--lyra", type=Path)
    args = parser.parse_args()
    paths = pick(parser, args.folder, args.files)
    model = load(args.model)
    systems: list[System] = [model_system(model, [int(n) for n in args.codebooks.split(",")])]
    systems += [lyra(args.lyra)] if args.lyra else []
    rows: Mapping[str, list[dict[str, float]]] = defaultdict(list)
    for path in paths:
        audio, rate = read(path)
        ref = fit(audio, rate, RATE, channels="mix")[0]
        rows["recording"].append(measure(ref, ref, RATE // 50))
        for system in systems:
            for coded in system.code(ref, RATE):
                deg = fit(coded.audio[None], coded.sample_rate, RATE, channels="mix")[0]
                frame = round(RATE / (system.facts.frame_rate or 50))
                rows[f"{system.facts.name}, {coded.label}"].append(measure(ref, align(ref, deg)[0], frame))
    for kind, digits in (("coherence", 2), ("level", 1), ("pulses", 2), ("hum", 2), ("contrast", 1)):
        keys = [key for key in rows["recording"][0] if key.startswith(kind)]
        print(f"| {kind}, Hz | {' | '.join(key.split()[1] for key in keys)} |")
        print("|---" * (len(keys) + 1) + "|")
        for name, measured in rows.items():
            means = (float(np.nanmean([one[key] for one in measured])) for key in keys)
            print(f"| {name} | {' | '.join(f'{mean:.{digits}f}' for mean in means)} |")


if __name__ == "__main__":
    main()
