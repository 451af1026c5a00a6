"""Which numbers go into the products of a graph: it runs on speech in float32 and is watched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import soxr

from codec import audio as audio_io
from codec.config import ModelInfo
from codec.engine import Audio
from codec.export.int8 import Seen
from codec.golden import read_golden, shaped_noise

BLOCK = 64  # frames of a step
CLIP_SECONDS = 3.0  # of each clip
NOISE_SECONDS = 0.5  # more of it says no more
N_ROWS = 512  # kept of each product, evenly spread
VERSIONS = ((1.0, 1.0), (0.25, 1.0), (1.4, 0.8), (1.4, 1.25))  # gain, speed: soft and loud, low and high voices
TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}


def read_clips(info: ModelInfo, paths: Sequence[Path], golden: Path) -> Audio:
    """What to calibrate on, (1, 1, T) at the model's rate: the clips in four versions each, in whole blocks.

    Without paths: the clip of the golden vectors in a model folder `golden`; where there are none, shaped noise.

    Raises:
        AudioError: a file that cannot be read.
        ModelError: damaged golden vectors.
    """
    rate = info.sample_rate
    clips = []
    for path in paths:
        audio, sample_rate = audio_io.read(path)
        start = audio[:, : round(CLIP_SECONDS * sample_rate)]
        clips.append(audio_io.fit(start, sample_rate, rate, channels="mix")[0])
    if not clips:
        vectors = read_golden(golden)
        clips = [vectors.samples if vectors else shaped_noise(rate, NOISE_SECONDS)]
    parts = [
        np.clip(gain * (clip if speed == 1 else soxr.resample(clip, speed, 1.0)), -1, 1)
        for clip in clips
        for gain, speed in VERSIONS
    ]
    signal = np.concatenate(parts).astype(np.float32)
    return np.pad(signal, (0, -len(signal) % (BLOCK * info.hop_length)))[None, None]


def observe(path: Path, n_products: int, x: npt.NDArray[Any], block: int) -> tuple[npt.NDArray[Any], list[Seen]]:
    """Run a graph with the outputs `rows_i` and `weight_i`.

    Args:
        path: the graph.
        n_products: how many it observes.
        x: its input, (1, rows, T).
        block: length of a step along the last axis.

    Returns:
        Its first output, and what was seen of each product.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    first, *states = session.get_inputs()
    feeds = {s.name: np.zeros((1, *s.shape[1:]), TYPES[s.type]) for s in states}
    names = [session.get_outputs()[0].name, *(f"next_{s.name}" for s in states)]
    rows = [f"rows_{i}" for i in range(n_products)]
    weights = session.run([f"weight_{i}" for i in range(n_products)], {first.name: x[..., :block], **feeds})
    seen: list[list[Seen]] = [[] for _ in rows]
    made = []
    n_blocks = x.shape[-1] // block
    for start in range(0, n_blocks * block, block):
        found = session.run([*names, *rows], {first.name: x[..., start : start + block], **feeds})
        made.append(found[0])
        feeds = {s.name: state for s, state in zip(states, found[1 : len(names)], strict=True)}
        for i, value in enumerate(found[len(names) :]):
            flat = value.reshape(-1, value.shape[-1])
            some = flat[:: max(1, len(flat) * n_blocks // N_ROWS)].copy()
            seen[i].append(Seen(some, flat.min(0), flat.max(0), weights[i]))
    return np.concatenate(made, -1), [Seen.joined(parts) for parts in seen]
