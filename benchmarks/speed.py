"""Time to encode and decode beside EnCodec 24 kHz, one thread, in one run: real-time factors and their ratio.

    OMP_NUM_THREADS=1 python benchmarks/speed.py tests/fixtures/talk.flac

EnCodec has its published architecture with random weights (its speed does not depend on them); `pip install --no-deps
encodec` and einops. The engines take turns, so that a machine whose speed drifts slows all of them.
"""

from __future__ import annotations

import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import torch

import codec
from codec.audio import resample

ROUNDS = 7
ENCODEC_KBPS = 6.0  # 8 codebooks


def main(path: str) -> None:
    """Print a table."""
    torch.set_num_threads(1)
    audio, rate = codec.read_audio(Path(path))
    seconds = audio.shape[-1] / rate
    jobs = {**ours("onnx", audio[0], rate), **ours("torch", audio[0], rate), **encodec(audio, rate)}
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for job in jobs.values():
        job()  # warm
    for _ in range(ROUNDS):
        for name, job in jobs.items():
            begin = time.perf_counter()
            job()
            times[name].append((time.perf_counter() - begin) / seconds)
    print(f"{'':20} {'RTF median':>10} {'least':>8} {'most':>8}   EnCodec / this, median of rounds")
    for name, values in times.items():
        peer = times[f"encodec {name.split()[-1]}"]
        ratio = statistics.median(p / v for p, v in zip(peer, values, strict=True))
        print(f"{name:20} {statistics.median(values):10.4f} {min(values):8.4f} {max(values):8.4f}   {ratio:.1f}")


def ours(engine: str, audio: object, rate: int) -> dict[str, Callable[[], object]]:
    """The embedded model, all codebooks."""
    model = codec.load(engine=engine)
    codes = model.encode(audio, rate)
    return {f"{engine} encode": lambda: model.encode(audio, rate), f"{engine} decode": lambda: model.decode(codes)}


def encodec(audio: object, rate: int) -> dict[str, Callable[[], object]]:
    """EnCodec 24 kHz; its package imports torchaudio at its top and does not need it here."""
    sys.modules.setdefault("torchaudio", types.ModuleType("torchaudio"))
    from encodec import EncodecModel

    model = EncodecModel.encodec_model_24khz(pretrained=False).eval()
    model.set_target_bandwidth(ENCODEC_KBPS)
    x = torch.from_numpy(resample(audio, rate, 24000))[None]  # type: ignore[arg-type]
    with torch.inference_mode():
        frames = model.encode(x)

    def run(job: Callable[[], object]) -> Callable[[], object]:
        def timed() -> object:
            with torch.inference_mode():
                return job()

        return timed

    return {"encodec encode": run(lambda: model.encode(x)), "encodec decode": run(lambda: model.decode(frames))}


if __name__ == "__main__":
    main(sys.argv[1])
