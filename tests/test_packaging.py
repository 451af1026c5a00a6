"""The wheel holds what the checkout holds (STYLE, how train/ and export/ become codec.train and codec.export)."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import codec

ROOT = Path(__file__).parent.parent


def test_every_package_folder_is_listed() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {p.parent for p in ROOT.glob("codec/**/__init__.py")} | {ROOT / n for n in ("train", "export", "recipes")}
    found = {".".join(f.relative_to(ROOT).parts) for f in folders}
    found = {f"codec.{name}" if name in ("train", "export", "recipes") else name for name in found}
    assert listed == found


@pytest.mark.parametrize("room", ["train", "export", "recipes"])
def test_the_rooms_outside_codec_are_linked_into_it(room: str) -> None:
    assert (ROOT / "codec" / room).resolve() == ROOT / room


def test_the_public_names_are_there_and_sorted() -> None:
    assert codec.__all__ == sorted(codec.__all__)
    assert [name for name in codec.__all__ if not hasattr(codec, name)] == []


@pytest.mark.slow
def test_a_wheel_holds_the_recipes_the_embedded_model_and_all_packages(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for needed in (
        "codec/py.typed",
        "codec/hub/registry.json",
        "codec/train/trainer.py",
        "codec/export/folder.py",
        "codec/recipes/default_16k.yaml",
        "codec/models/default_16k/model.json",
        "codec/models/default_16k/weights.safetensors",
    ):
        assert needed in names
    assert wheel.stat().st_size < 20 * 2**20
