"""How many codebooks a request for a number of them, or for a bitrate, means.

>>> info = ModelInfo("m", 16000, 320, 0, (1024,) * 8, (1,) * 8, (2, 4, 6, 8), {}, "")
>>> choose_codebooks(info), choose_codebooks(info, bitrate=2500)
(8, 4)
"""

from __future__ import annotations

from codec.arguments import as_number, as_switch, shown
from codec.config import ModelInfo
from codec.errors import CodesError
from codec.stream.checks import check_codebooks
from codec.stream.variable import RateControl, choose_control


def choose_codebooks(info: ModelInfo, *, codebooks: int | None = None, bitrate: float | None = None) -> int:
    """How many codebooks a request means: a number, or the most that fit into a bitrate (bit/s of one channel).

    Raises:
        CodesError: not a number of codebooks that decodes alone, or a bitrate below the smallest.
    """
    if codebooks is not None and bitrate is not None:
        raise CodesError("codebooks and bitrate: give one of them")
    if codebooks is not None:
        return check_codebooks(codebooks, info)
    rate = _check_bitrate(bitrate)
    if rate is None:
        return info.codebooks
    fitting = [count for count in info.prefixes if info.bitrate_of(count) <= rate * (1 + 1e-6)]
    if not fitting:
        rates = ", ".join(f"{info.bitrate_of(count):g}" for count in info.prefixes)
        raise CodesError(f"bitrate={rate:g}: {info.name} has {rates} bit/s")
    return fitting[-1]


def choose_rate(
    info: ModelInfo, *, codebooks: int | None = None, bitrate: float | None = None, variable: bool = False
) -> tuple[int, RateControl | None]:
    """The most codebooks of a frame that a request means, and what says how many each one gets where that is not all.

    Raises:
        CodesError: as `choose_codebooks`, or a model whose frames cannot differ.
    """
    if not as_switch(variable, "variable"):
        return choose_codebooks(info, codebooks=codebooks, bitrate=bitrate), None
    if codebooks is not None:
        raise CodesError("codebooks and variable: give one of them")
    control = choose_control(info, _check_bitrate(bitrate))
    return control.counts[-1], control


def _check_bitrate(bitrate: float | None) -> float | None:
    rate = None if bitrate is None else as_number(bitrate)
    if bitrate is None or rate is not None:
        return rate
    raise CodesError(f"bitrate={shown(bitrate)}: give bits per second as a number, 2000 for 2 kbit/s")
