"""Other people's codecs as systems of a comparison: Opus and Codec2, by Debian's tools or the package opuscodec.

>>> payload_bits(b"")
0
"""

from __future__ import annotations

import functools
import importlib.util
import math
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from codec.audio import resample
from codec.audiowriter import write
from codec.errors import CodecError, ConfigError
from codec.quality.systems import Coded, Facts, Floats, System, at_most

RATE = 16000  # Hz, at which Opus is run: its wide band, and the models' own rate
OPUS_KBPS = (6, 8, 12, 16, 24)  # set; what comes out is counted
LONG_FRAMES_KBPS = 6  # at this and below opusenc takes frames of 60 ms: fewer headers, better speech
OPUS_LOOKAHEAD = 0.0065  # s; Source: RFC 6716, section 2: 5 ms and 1.5 ms of resampler delay
VOICE = 2  # what opuscodec 0.1.3 calls OPUS_SIGNAL_VOICE
CODEC2_RATE = 8000  # Hz
CODEC2_DELAY = 0.02  # s, of all modes; where STOI is best on real speech, within 2.5 ms
CODEC2_MODES = {"3200": 0.02, "2400": 0.02, "1600": 0.04, "1200": 0.04}  # bit/s: seconds of a frame; codec2.h


def opus(up_to: float = math.inf) -> System:
    """Return the best Opus here: opusenc and opusdec on PATH, else the package opuscodec; at most at `up_to` kbit/s.

    The package carries a newer libopus, but sets neither frames of 60 ms nor a bound on the rate; at equal bits the
    programs score higher (compare both: --peers opus-tools,opus-package).

    Raises:
        CodecError: neither is there.
    """
    if shutil.which("opusenc") and shutil.which("opusdec"):
        return opus_of_tools(up_to)
    if importlib.util.find_spec("opuscodec") is None:
        raise CodecError("the peer opus needs opusenc and opusdec: apt install opus-tools, or pip install opuscodec")
    return opus_of_package(up_to)


def opus_of_tools(up_to: float = math.inf) -> System:
    """Return Opus by the programs opusenc and opusdec. Raises: CodecError: not on PATH; ConfigError: no such rate."""
    _need_tools("opusenc", "opusdec", package="opus-tools", peer="opus")
    version = _run(["opusenc", "--version"]).decode(errors="replace").partition("libopus ")[2].split(")")[0]
    return System(
        Facts(
            name=f"Opus {version} (opusenc)",
            sample_rate=RATE,
            frame_rate=50.0,
            latency=0.02 + OPUS_LOOKAHEAD,
            is_streaming=True,
            note="opusenc --speech --comp 10; frames of 60 ms at 6 kbit/s (16.7 a second, 67 ms of latency)",
        ),
        functools.partial(_code_all, [functools.partial(_code_opus, kbps) for kbps in at_most(up_to, OPUS_KBPS)]),
    )


def opus_of_package(up_to: float = math.inf) -> System:
    """Return Opus by the Python package opuscodec. Raises: CodecError: not installed; ConfigError: no such rate."""
    try:
        import opuscodec
    except ImportError as missing:
        raise CodecError("the peer opus-package needs the package opuscodec: pip install opuscodec") from missing
    version = str(opuscodec.opus_version()).split()[-1]
    return System(
        Facts(
            name=f"Opus {version}",
            sample_rate=RATE,
            frame_rate=50.0,
            latency=0.02 + OPUS_LOOKAHEAD,
            is_streaming=True,
            note="opuscodec: voice, complexity 10, QEXT off, frames of 20 ms",
        ),
        functools.partial(
            _code_all, [functools.partial(_code_opuscodec, opuscodec, kbps) for kbps in at_most(up_to, OPUS_KBPS)]
        ),
    )


def codec2(up_to: float = math.inf) -> System:
    """Return Codec2 by the programs c2enc and c2dec. Raises: CodecError: not on PATH; ConfigError: no such rate."""
    _need_tools("c2enc", "c2dec", package="codec2", peer="codec2")
    modes = {int(mode) / 1000: mode for mode in CODEC2_MODES}
    return System(
        Facts(
            name="Codec2",
            sample_rate=CODEC2_RATE,
            frame_rate=50.0,
            latency=0.04,
            is_streaming=True,
            note="c2enc and c2dec, 8 kHz; 25 frames a second and 80 ms of latency at 1600 bit/s and below",
        ),
        functools.partial(
            _code_all, [functools.partial(_code_codec2, modes[kbps]) for kbps in at_most(up_to, tuple(modes))]
        ),
    )


PEERS: dict[str, Callable[[float], System]] = {
    "opus": opus,
    "opus-tools": opus_of_tools,
    "opus-package": opus_of_package,
    "codec2": codec2,
}


def open_peers(names: Sequence[str], *, up_to: float = math.inf) -> tuple[System, ...]:
    """Return the systems of these names in `PEERS`, set to at most `up_to` kbit/s.

    Raises:
        ConfigError: an unknown name, or a peer without so low a rate.
        CodecError: a program or package is not there.
    """
    for name in names:
        if name not in PEERS:
            raise ConfigError(f"peer {name or 'without a name'}: unknown; there are {', '.join(PEERS)}")
    return tuple(PEERS[name](up_to) for name in names)


def payload_bits(ogg: bytes) -> int:
    """Count the bits of the packets in an Ogg Opus stream, without pages' headers and the two header packets.

    Source: RFC 3533, section 6 (pages); RFC 7845, section 3 (the first two packets have pages of their own).
    """
    at, n_pages, n_bytes = 0, 0, 0
    while at + 27 <= len(ogg) and ogg[at : at + 4] == b"OggS":
        n_segments = ogg[at + 26]
        size = sum(ogg[at + 27 : at + 27 + n_segments])
        n_pages += 1
        if n_pages > 2:
            n_bytes += size
        at += 27 + n_segments + size
    return 8 * n_bytes


def _code_all(points: Sequence[Callable[[Floats, int], Coded]], audio: Floats, sample_rate: int) -> tuple[Coded, ...]:
    return tuple(point(audio, sample_rate) for point in points)


def _code_opus(kbps: float, audio: Floats, sample_rate: int) -> Coded:
    frame = "60" if kbps <= LONG_FRAMES_KBPS else "20"
    options = ["--quiet", "--bitrate", f"{kbps:g}", "--speech", "--framesize", frame, "--comp", "10"]
    with tempfile.TemporaryDirectory() as folder:
        wav, ogg, again = (str(Path(folder) / name) for name in ("in.wav", "coded.opus", "out.wav"))
        write(wav, resample(audio[None], sample_rate, RATE), RATE)
        _, encode_seconds = _timed(lambda: _run(["opusenc", *options, wav, ogg]))
        _, decode_seconds = _timed(lambda: _run(["opusdec", "--quiet", "--rate", str(RATE), ogg, again]))
        n_bits = payload_bits(Path(ogg).read_bytes())
        decoded = _read_wav(again)
    return Coded(f"set to {kbps:g} kbit/s", decoded, RATE, n_bits, encode_seconds, decode_seconds)


def _code_opuscodec(opuscodec: Any, kbps: float, audio: Floats, sample_rate: int) -> Coded:
    samples = _to_int16(resample(audio[None], sample_rate, RATE)[0])

    def encode() -> bytes:
        encoder = opuscodec.OpusBufferedEncoder(
            RATE, 1, bitrate=round(1000 * kbps), signal_type=VOICE, encoder_complexity=10, qext=False
        )
        stream: bytes = encoder.write(samples[:, None]) + encoder.flush()
        return stream

    stream, encode_seconds = _timed(encode)
    pcm, decode_seconds = _timed(lambda: opuscodec.OpusBufferedDecoder().decode(stream))
    wide: Floats = np.asarray(pcm, np.float32).reshape(len(pcm), -1)[:, 0] * np.float32(
        2**-15
    )  # 48 kHz, as Opus always decodes
    decoded = resample(wide[None], 48000, RATE)[0]
    return Coded(f"set to {kbps:g} kbit/s", decoded, RATE, payload_bits(stream), encode_seconds, decode_seconds)


def _code_codec2(mode: str, audio: Floats, sample_rate: int) -> Coded:
    narrow = _to_int16(resample(audio[None], sample_rate, CODEC2_RATE)[0])
    with tempfile.TemporaryDirectory() as folder:
        raw, coded, again = (str(Path(folder) / name) for name in ("in.raw", "coded.c2", "out.raw"))
        size = round(CODEC2_MODES[mode] * CODEC2_RATE)
        narrow = np.pad(narrow, (0, -len(narrow) % size))  # c2enc drops a last frame that is not full
        Path(raw).write_bytes(narrow.astype("<i2").tobytes())
        _, encode_seconds = _timed(lambda: _run(["c2enc", mode, raw, coded]))
        _, decode_seconds = _timed(lambda: _run(["c2dec", mode, coded, again]))
        n_bytes = Path(coded).stat().st_size
        header = Path(coded).read_bytes()[:3] == b"\xc0\xde\xc2"
        pcm = np.frombuffer(Path(again).read_bytes(), "<i2")
    n_bits = 8 * (n_bytes - 7 * header)
    # A vocoder keeps no phase: where its waveform correlates best says nothing, its known delay does.
    decoded = pcm[round(CODEC2_DELAY * CODEC2_RATE) :].astype(np.float32) * np.float32(2**-15)
    label, work = f"{mode} bit/s", (encode_seconds, decode_seconds)
    return Coded(label, decoded, CODEC2_RATE, n_bits, *work, max_shift=0.0)


def _to_int16(audio: Floats) -> np.ndarray[Any, np.dtype[np.int16]]:
    return np.rint(np.clip(audio * 32768, -32768, 32767)).astype(np.int16)


def _read_wav(path: str) -> Floats:
    from codec.audio import read

    audio, _ = read(path)
    return np.asarray(audio[0], np.float32)


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.perf_counter()
    result = work()
    return result, time.perf_counter() - begin


def _need_tools(*tools: str, package: str, peer: str) -> None:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        raise CodecError(f"the peer {peer} needs the program {missing[0]} on PATH: apt install {package}")


def _run(command: Sequence[str]) -> bytes:
    """Run a program: its stdout. Raises: CodecError, with the last line that it said."""
    done = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise CodecError(f"{command[0]}: ended with {done.returncode}: {lines[-1]}")
    return done.stdout
