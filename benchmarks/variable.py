"""What `--variable` gains, for files and for streams: quality and bytes at one bitrate.

    python -m benchmarks.variable FOLDER [--bitrate 2000] [--files 16]

Files are taken evenly from the folder. Bit/s count the codes and, where frames differ, their choices; packed is the
same with the model's prior, all blocks without header and trailer. Speeds of packing and unpacking are audio over CPU
time.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from codec import codesfile
from codec.api import Model, load
from codec.audio import fit, read
from codec.codes import Codes, make_header
from codec.codesfile.packed import with_prior
from codec.codesfile.prior import Prior, read_prior
from codec.hub import find_model
from codec.quality.metrics import score

Array = npt.NDArray[np.float32]
SCORES = ("pesq", "stoi", "si_sdr", "mel_distance")


def pack(codes: Codes, prior: Prior) -> tuple[int, float, float]:
    """Bits of the packed blocks, seconds to pack and to unpack."""
    header = make_header(codes.model, codes.mode, codes.codebooks, frame_codebooks=codes.frame_codebooks)
    file = io.BytesIO()
    begin = time.process_time()
    codesfile.write(file, codesfile.CodesFile(with_prior(header, prior), codes.data, codes.n_samples), prior=prior)
    middle = time.process_time()
    found = codesfile.read(io.BytesIO(file.getvalue()), priors=[find_model(codes.model.name)])
    end = time.process_time()
    assert np.array_equal(found.codes, codes.data)
    reader = codesfile.Reader(io.BytesIO(file.getvalue()))
    last = reader.block_offset(-(-codes.n_frames // reader.header.frames_per_block))
    return 8 * (last - reader.block_offset(0)), middle - begin, end - middle


def constant(model: Model, audio: Array, bitrate: float) -> Codes:
    """As many codebooks in every frame as the bitrate pays for."""
    return model.encode(audio, bitrate=bitrate)


def filled(model: Model, audio: Array, bitrate: float) -> Codes:
    """More where speech is loud, all bits of the file given out."""
    return model.encode(audio, bitrate=bitrate, variable=True)


def streamed(model: Model, audio: Array, bitrate: float) -> Codes:
    """The same by a stream, which loses what it has saved when the signal ends."""
    encoder = model.stream_encoder(bitrate=bitrate, variable=True)
    return model.codes(np.concatenate([encoder.feed(audio), encoder.flush()], -1), n_samples=audio.shape[-1])


def measure(
    model: Model, paths: Sequence[Path], bitrate: float, way: Callable[[Model, Array, float], Codes]
) -> dict[str, float]:
    """Means over the files; bit/s and speeds over all seconds."""
    prior = read_prior(find_model(model.info.name))
    seconds = bits = packed = packing = unpacking = 0.0
    scores = []
    for path in paths:
        audio, rate = read(path)
        audio = fit(audio, rate, model.info.sample_rate, channels="mix")[0]
        codes = way(model, audio, bitrate)
        scores.append(score(audio, model.decode(codes), model.info.sample_rate))
        n_bits, there, back = pack(codes, prior)
        seconds += codes.duration
        bits, packed = bits + codes.bitrate * codes.duration, packed + n_bits
        packing, unpacking = packing + there, unpacking + back
    means = {name: float(np.mean([one[name] for one in scores])) for name in SCORES}
    speeds = {"pack": seconds / packing, "unpack": seconds / unpacking}
    return {"bit/s": bits / seconds, "packed": packed / seconds, **means, **speeds}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.variable", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bitrate", type=float, default=2000.0, help="bit/s")
    parser.add_argument("--files", type=int, default=16)
    args = parser.parse_args()
    found = sorted(path for path in args.folder.iterdir() if path.suffix in (".flac", ".wav"))
    paths = found[:: max(1, len(found) // args.files)][: args.files]
    model = load()
    for way in (constant, filled, streamed):
        row = measure(model, paths, args.bitrate, way)
        print(way.__name__, *(f"{name} {value:.4g}" for name, value in row.items()), sep="  ")


if __name__ == "__main__":
    main()
