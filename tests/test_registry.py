"""The list of known models states what is known, and nothing else."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

import codec
from codec.convert.build import CONVERTERS
from codec.errors import ModelError
from codec.hub import is_here, list_models
from codec.hub.modelsource import parse_source
from codec.hub.registry import IN_PACKAGE, PACKAGED, known_models, read_registry


def write(path: Path, *entries: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"format": 1, "models": entries}))
    return path


def test_every_model_of_the_package_is_listed_and_every_listed_one_is_there() -> None:
    assert [entry.name for entry in read_registry(PACKAGED) if entry.is_packaged] == list_models()


def test_every_other_listed_model_has_an_address_that_is_one() -> None:
    for entry in read_registry(PACKAGED):
        assert entry.by_hand or entry.source == IN_PACKAGE or parse_source(entry.address).sha256 == entry.sha256


def test_every_published_system_that_converts_is_listed() -> None:
    systems = {entry.system for entry in read_registry(PACKAGED)}
    # Mimi is listed as what it is, a transformers folder; Vocos needs EnCodec's file beside it, from another place.
    assert systems == {"codec", "hf", *CONVERTERS} - {"mimi", "vocos"}


def test_a_published_model_has_the_licence_that_its_converter_writes() -> None:
    stated = [entry for entry in read_registry(PACKAGED) if entry.licence and entry.system in {*CONVERTERS} - {"hf"}]
    assert {entry.system for entry in stated}.issuperset(("dac", "distilcodec", "encodec", "facodec", "snac"))
    for entry in stated:
        assert entry.licence == importlib.import_module(f"codec.convert.{entry.system}").LICENCE


def test_what_only_a_browser_gets_says_where_and_what_then(home: Path) -> None:
    entries = [entry for entry in known_models().values() if entry.by_hand]
    assert {entry.system for entry in entries} == {"esc", "languagecodec"}
    for entry in entries:
        assert not is_here(entry)
        with pytest.raises(ModelError) as caught:
            codec.load(entry.name)
        assert f"save it from {entry.source} with a browser" in str(caught.value)
        assert str(caught.value).endswith(f"`codec convert FILE FOLDER --from {entry.system}`")


def test_an_own_registry_adds_names_and_changes_none(tmp_path: Path) -> None:
    own = write(tmp_path / "r.json", {"name": "ours", "source": "hf://org/ours", "revision": "v2", "sha256": "1f" * 32})
    known = known_models(own)
    assert set(known) == {*known_models(), "ours"}
    assert known["ours"].address == f"hf://org/ours@v2#sha256={'1f' * 32}"
    write(own, {"name": "default_16k", "source": "hf://org/evil"})
    with pytest.raises(ModelError, match="default_16k is the name of another model already"):
        known_models(own)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"name": "x", "source": "hf://a/b", "code": "x.py"}, "unknown key 'code'"),
    "no source": ({"name": "x"}, "source"),
    "a path as name": ({"name": "../x", "source": "hf://a/b"}, "use letters"),
    "half a hash": ({"name": "x", "source": "hf://a/b", "sha256": "12345678"}, "not 64 hexadecimal digits"),
    "files of ours": ({"name": "x", "source": "hf://a/b", "files": {}}, "a model folder lists its own"),
    "no files of another system": ({"name": "x", "source": "hf://a/b", "system": "dac"}, "files are listed"),
    "a hash of all files beside theirs": (
        {"name": "x", "source": "hf://a/b", "system": "dac", "files": {"w.pth": None}, "sha256": "1f" * 32},
        "files are listed",
    ),
    "a file elsewhere": (
        {"name": "x", "source": "hf://a/b", "system": "dac", "files": {"a/../w.pth": None}},
        "no plain path of a file",
    ),
    "seven digits of a hash": (
        {"name": "x", "source": "hf://a/b", "system": "dac", "files": {"w.pth": "1234567"}},
        "not 8 to 64 hexadecimal digits",
    ),
    "a page, but no system": ({"name": "x", "source": "https://a/b", "by_hand": True}, "by_hand goes with"),
    "a hub by hand": ({"name": "x", "source": "hf://a/b", "system": "esc", "by_hand": True}, "by_hand goes with"),
    "files by hand": (
        {"name": "x", "source": "https://a/b", "system": "esc", "by_hand": True, "files": {"w.pth": None}},
        "files are listed",
    ),
    "settings alone": (
        {"name": "x", "source": "hf://a/b", "system": "snac", "files": {"config.json": None}},
        "files without weights",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_entry_is_one_clear_error_with_its_place(tmp_path: Path, case: str) -> None:
    entry, reason = WRONG[case]
    path = write(tmp_path / "r.json", entry)
    with pytest.raises(ModelError) as caught:
        known_models(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert reason in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2, "models": []}', '{"format": 1}'])
def test_what_is_no_registry_is_one_clear_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(ModelError, match=r"r\.json: .*mend or remove it"):
        read_registry(path)
