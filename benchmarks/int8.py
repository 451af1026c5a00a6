"""What 8-bit products cost: agreement of codes and audio with float32, PESQ-WB and STOI of both.

    python benchmarks/int8.py FOLDER_OF_FLAC [--model MODEL] [--files N]

Speed and size stand in RESULTS.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import codec
from codec.golden import codes_agreement, difference_db
from codec.quality.metrics import pesq_wb, stoi


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="default_16k")
    parser.add_argument("--files", type=int, default=8, help="spread evenly over the folder")
    options = parser.parse_args()
    full, low = (codec.load(options.model, engine=name) for name in ("onnx", "onnx-int8"))
    first = slice(0, full.info.prefixes[0])
    paths = sorted(options.folder.glob("*.flac"))
    rows = []
    for path in paths[:: max(1, len(paths) // options.files)][: options.files]:
        audio, sample_rate = codec.read_audio(path)
        ref = audio[0]
        codes, other = (model.encode(ref, sample_rate) for model in (full, low))
        heard, same_codes, all_low = full.decode(codes), low.decode(codes), low.decode(other)
        by_frame = low.encode(ref, sample_rate, mode="frame")
        rows.append(
            {
                "codes equal to float32's": codes_agreement(codes.data, other.data),
                "of the first level": codes_agreement(codes.data[first], other.data[first]),
                "codes of frame equal to block": codes_agreement(by_frame.data, other.data),
                "audio from the same codes, dB": difference_db(heard, same_codes),
                "PESQ-WB, float32": pesq_wb(ref, heard),
                "PESQ-WB, 8 bits": pesq_wb(ref, all_low),
                "STOI, float32": stoi(ref, heard),
                "STOI, 8 bits": stoi(ref, all_low),
            }
        )
    print(f"{len(rows)} files")
    for name in rows[0]:
        print(f"{name:32} {np.mean([row[name] for row in rows]):.4f}")


if __name__ == "__main__":
    main()
