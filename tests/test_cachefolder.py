"""Where downloads lie, and what the environment says of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from codec.hub.cachefolder import cache_home, is_offline, key_of
from codec.hub.downloadview import progress_bar
from codec.hub.modelsource import parse_source


def test_codec_home_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CODEC_HOME", str(tmp_path))
    assert cache_home() == tmp_path
    monkeypatch.setenv("CODEC_HOME", "~/models")
    assert cache_home() == Path.home() / "models"


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="the rule of another platform")
def test_the_cache_folder_is_the_one_of_the_xdg_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path in XDG_CACHE_HOME is ignored, as the specification says."""
    monkeypatch.delenv("CODEC_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_home() == Path("/caches/neural-codec")
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_home() == Path.home() / ".cache" / "neural-codec"


@pytest.mark.parametrize(("value", "offline"), [("1", True), ("ON", True), ("true", True), ("0", False), ("", False)])
def test_offline_is_read_as_the_hub_reads_it(monkeypatch: pytest.MonkeyPatch, value: str, offline: bool) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert is_offline() is offline


def test_two_sources_never_share_a_folder() -> None:
    texts = ["https://h/a/b/", "https://h/a--b/", "https://h/a%2fb/", "https://h:1/a/b/", "hf://h/a--b", "hf://a/b"]
    texts += [f"https://h/a/b/#sha256={'0' * 64}", f"https://h/a/b/#sha256={'1' * 64}"]
    assert len({parse_source(text).key for text in texts}) == len(texts)
    assert key_of("refs/pr/1 ?") == "refs--pr--1%20%3f"


def test_the_bar_shows_each_file_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(is_wanted=True) as step:
        step("weights.safetensors", 500, 1000)
        step("weights.safetensors", 1000, 1000)
    out, err = capsys.readouterr()
    assert out == ""
    assert "weights.safetensors" in err
    assert "1.0/1.0 kB" in err
