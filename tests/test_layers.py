"""The house has floors: an import goes down, never up, nor sideways between train and export (CONTRIBUTING)."""

from __future__ import annotations

import ast
import functools
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# module or package -> floor; the longest matching name counts. A module may import its own floor, but train and export.
FLOORS = {
    "codec.arguments": 0,
    "codec.config": 0,
    "codec.containers": 0,
    "codec.ending": 0,
    "codec.errors": 0,
    "codec.files": 0,
    "codec.segments": 0,
    "codec.timing": 0,
    "codec.arrays": 1,
    "codec.audio": 1,
    "codec.audiowriter": 1,
    "codec.codesfile": 1,
    "codec.engine": 1,
    "codec.golden": 1,
    "codec.hub": 1,
    "codec.modelfolder": 1,
    "codec.quality": 1,
    "codec.quantize.lookup": 1,
    "codec.resampling": 1,
    "codec.tokens": 1,
    "codec.cost": 2,
    "codec.network": 2,
    "codec.nn": 2,
    "codec.quality.speaker": 2,
    "codec.quantize": 2,
    "codec.engine.hf_engine": 3,
    "codec.engine.onnx_engine": 3,
    "codec.engine.torch_engine": 3,
    "codec.quality.mos": 3,
    "codec": 4,
    "codec.api": 4,
    "codec.bench": 4,
    "codec.codes": 4,
    "codec.quality.compare": 4,
    "codec.quality.comparereport": 4,
    "codec.quality.evaluate": 4,
    "codec.quality.judges": 4,
    "codec.quality.report": 4,
    "codec.quality.reportpage": 4,
    "codec.rate": 4,
    "codec.stream": 4,
    "codec.transcode": 4,
    "codec.verify": 4,
    "codec.convert": 5,
    "codec.corpus": 5,
    "codec.export": 5,
    "codec.lm": 5,
    "codec.recipes": 5,
    "codec.train": 5,
    "codec.__main__": 6,
    "codec.cli": 6,
}
# Imports inside a function are allowed where a package is heavy (STYLE, rooms and floors).
LATE = {
    *(("codec.engine", f"codec.engine.{name}_engine") for name in ("hf", "onnx", "torch")),
    ("codec.hub.published", "codec.convert.run"),
}
TORCH_ROOMS = (
    "codec.nn",
    "codec.quantize",
    "codec.cost",
    "codec.network",
    "codec.quality.speaker",
    "codec.engine.hf_engine",
    "codec.engine.torch_engine",
    "codec.convert",
    "codec.lm",
    "codec.train",
    "codec.export",
)
ONNX_ROOMS = ("codec.engine.onnx_engine", "codec.quality.mos", "codec.export")


def name_of(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] in ("train", "export", "recipes"):
        parts.insert(0, "codec")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor_of(module: str) -> int:
    while module not in FLOORS:
        module = module.rpartition(".")[0]
    return FLOORS[module]


@functools.cache
def imports_of(path: Path) -> set[str]:
    """All names imported anywhere in a file, and `from a import b` as a.b where that is a module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
            found.add(node.module)
    return found


@functools.cache
def sources() -> list[Path]:
    files = [p for folder in ("codec", "train", "export") for p in sorted((ROOT / folder).rglob("*.py"))]
    links = [ROOT / "codec" / name for name in ("train", "export", "recipes")]
    return [p for p in files if not any(link in p.parents for link in links)]


MODULES = {name_of(path) for path in sources()}


def faults_of(path: Path) -> list[str]:
    """What a file imports that it may not."""
    module, found = name_of(path), []
    for imported in sorted(imports_of(path) & MODULES):
        if imported == "codec" or (module, imported) in LATE:
            continue
        if floor_of(imported) > floor_of(module):
            found.append(f"{module} imports {imported}, which is above it")
        rooms = {name.split(".")[1] for name in (module, imported) if "." in name}
        if rooms == {"train", "export"}:
            found.append(f"{module} imports {imported}: train and export do not know each other")
    roots = {name.partition(".")[0] for name in imports_of(path)}
    if "torch" in roots and not module.startswith(TORCH_ROOMS):
        found.append(f"{module} imports torch")
    if "onnxruntime" in roots and not module.startswith(ONNX_ROOMS):
        found.append(f"{module} imports onnxruntime")
    return found


def test_an_import_goes_down_and_torch_and_onnxruntime_stay_where_they_belong() -> None:
    assert [fault for path in sources() for fault in faults_of(path)] == []


def test_an_import_that_goes_up_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    for place, text, fault in (
        ("codec/errors.py", "import codec.api", "codec.api, which is above it"),
        ("codec/audio.py", "def f() -> None:\n    from codec.stream import Stream", "codec.stream, which is above it"),
        ("train/data.py", "from codec.export import graphs", "do not know each other"),
        ("codec/api.py", "import torch.nn", "codec.api imports torch"),
        ("codec/nn/layers.py", "import onnxruntime", "imports onnxruntime"),
    ):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        assert [found for found in faults_of(path) if fault in found], place


def test_every_module_has_a_floor() -> None:
    top = {".".join(name_of(path).split(".")[:2]) for path in sources()}
    assert top - set(FLOORS) == set()
