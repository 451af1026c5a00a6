"""Whatever is given for one argument: what it means, or one line that names it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import codec
from codec.api import Model
from codec.arguments import as_list, as_number, as_switch, as_whole, check_path, shown
from codec.errors import CodecError

HUGE = 10**400
WRONG = (
    "no such", Path("no such"), b"ab", 2.5, -1, float("nan"), float("-inf"), HUGE, 1 + 2j, object(), int, lambda: 8,
    [2000], (1, 2), {"a": 1}, [None, 1], [[1], [1, 2]], range(3),
    np.zeros((2, 2, 2)), np.array("8"), np.array(None), torch.zeros(2, 2, 2),
)  # fmt: skip


def coders(model: Model) -> dict[str, Callable[[Any], Any]]:
    """Every public call with one argument left open, by that argument's name; nothing in `WRONG` fits it."""
    audio, codes = np.zeros((1, 1, 640), np.float32), np.zeros((4, 3), np.int64)
    encoder, decoder = model.stream_encoder(), model.stream_decoder()
    encoders, decoders = model.stream_encoders(rows=2), model.stream_decoders(rows=2)
    some = model.codes(codes)
    calls: dict[str, Callable[[Any], Any]] = {
        "load": codec.load,
        "engine": lambda x: codec.load(engine=x),
        "device": lambda x: codec.load(device=x),
        "open": codec.open,
        "read_audio": codec.read_audio,
        "partial": lambda x: codec.open("x.codes", partial=x),
        "overwrite": lambda x: some.save("x.codes", overwrite=x),
        "prefix": some.prefix,
        "codes": lambda x: decoder.copy().feed(x),
        "chunk of a row": lambda x: encoders.feed({0: x}),
        "codes of a row": lambda x: decoders.feed({0: x}),
        "chunks of rows": encoders.feed,
        "codes of rows": decoders.feed,
        "rows to end": encoders.flush,
        "row to end": lambda x: decoders.flush([x]),
        "row to remove": encoders.remove,
        "row to reset": encoders.reset,
        "row to save": decoders.state,
        "row to load": lambda x: decoders.load_state(x, b""),
        "state of a row": lambda x: encoders.load_state(0, x),
        "state": encoder.load_state,
        "start": lambda x: decoder.trim(start=x),
        "end": lambda x: decoder.trim(end=x),
        "decode": model.decode,
        "decode a list": lambda x: model.decode([some, x]),
        "rate of decode": lambda x: model.decode(some, x),
        "array": model.codes,
        "n_codebooks": lambda x: codec.StreamEncoder(model.engine, model.info, n_codebooks=x),
        "chunks": lambda x: asyncio.run(drain(model.stream_encoder().stream(x))),
    }
    kinds: dict[str, tuple[Callable[..., Any], str]] = {
        "encode": (model.encode, "sample_rate codebooks bitrate variable mode channels lengths"),
        "stream_encoder": (model.stream_encoder, "codebooks bitrate variable mode sample_rate channels whole"),
        "stream_decoder": (model.stream_decoder, "mode sample_rate channels whole condition"),
        "stream_encoders": (model.stream_encoders, "rows codebooks bitrate variable mode sample_rate"),
        "stream_decoders": (model.stream_decoders, "rows mode sample_rate"),
        "model.codes": (model.codes, "n_samples mode condition"),
    }
    first = {"encode": (audio,), "model.codes": (codes,)}
    for call, (function, names) in kinds.items():
        begun = functools.partial(function, *first.get(call, ()))
        calls |= {f"{name} of {call}": functools.partial(give, begun, name) for name in names.split()}
    return calls


def give(call: Callable[..., Any], name: str, x: Any) -> Any:
    return call(**{name: x})


async def drain(results: Any) -> list[Any]:
    return [result async for result in results]


def test_a_wrong_argument_of_any_public_call_is_one_line_that_shows_it(tiny: Model) -> None:
    for name, call in coders(tiny).items():
        for wrong in WRONG:
            if name in ("start", "end") and wrong is HUGE:
                continue  # far behind the end, where nothing is
            try:
                call(wrong)
            except CodecError as error:
                text = str(error)
            except TypeError as error:
                text = str(error)
                assert "use True or False" in text or text.startswith("chunks="), f"{name}, {wrong!r}: {text}"
            else:
                raise AssertionError(f"{name} took {wrong!r}")
            assert len(text.splitlines()) == 1, f"{name}, {wrong!r}: {text}"
            assert len(text) < 400, f"{name}, {wrong!r}: {text}"


def test_numbers_of_any_type_mean_what_they_say() -> None:
    assert [as_whole(x) for x in (4, 4.0, np.int64(4), np.float32(4), torch.tensor(4))] == [4] * 5
    assert [as_number(x) for x in (2, 2.5, np.float32(2.5), np.array(2.5))] == [2, 2.5, 2.5, 2.5]
    assert as_number(float("inf")) == float("inf")
    assert [as_switch(x, "whole") for x in (True, 0, np.bool_(True), 1.0)] == [True, False, True, True]
    assert (as_list(iter([1])), as_list(1)) == ([1], None)


def test_what_is_shown_stays_one_short_line() -> None:
    assert len(shown(np.zeros((1000, 3)))) < 80
    assert "\n" not in shown(np.zeros((1000, 3)))
    assert shown(44100.5) == "44100.5"


def test_a_name_that_no_file_can_have_is_refused() -> None:
    for wrong in ("a\0b", b"a.codes", None, 3):
        with pytest.raises(CodecError, match="give"):
            check_path(wrong, CodecError)
    check_path(Path("a.codes"), CodecError)
