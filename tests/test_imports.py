"""Starting is quick: what is heavy is imported where it is used, and nowhere before."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "onnxruntime", "librosa", "pesq", "pystoi", "huggingface_hub", "tensorboard", "torchaudio"}
GOLDEN = ROOT / "tests" / "golden" / "one_channel_short_last_block.codes"
COMMANDS = [
    "encode",
    "tokenize",
    "decode",
    "info",
    "models",
    "download",
    "push",
    "train",
    "export",
    "convert",
    "eval",
    "compare",
    "verify",
    "bench",
]

REPORT = """
import contextlib, io, json, sys
out = io.StringIO()
with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
    {code}
print(json.dumps([sorted(name for name in sys.modules if "." not in name), out.getvalue()]))
"""


def modules_after(code: str) -> tuple[set[str], str]:
    """Top-level modules that a fresh interpreter holds after some code, and what the code printed."""
    program = REPORT.format(code=code)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    names, printed = json.loads(done.stdout)
    return set(names), printed


def command(args: Sequence[str]) -> str:
    """Code that runs `codec` with some arguments."""
    return f"import codec.cli; sys.argv = ['codec', *{list(args)!r}]; codec.cli.main()"


def test_import_codec_loads_nothing_heavy() -> None:
    loaded, _ = modules_after("import codec; codec.list_models()")
    assert "codec" in loaded
    assert not loaded & (HEAVY | {"typer", "rich"})


@pytest.mark.parametrize("args", [["--help"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_loads_nothing_heavy_and_says_how_to_use_it(args: list[str]) -> None:
    loaded, printed = modules_after(command(args))
    assert printed.startswith("Usage: codec")
    assert not loaded & HEAVY
    if args == ["--help"]:
        assert all(f"  {name} " in printed for name in COMMANDS)


def test_info_of_a_codes_file_loads_nothing_heavy() -> None:
    loaded, printed = modules_after(command(["info", str(GOLDEN)]))
    assert "codebook_sizes" in printed
    assert not loaded & HEAVY


def test_the_list_of_models_loads_nothing_heavy() -> None:
    loaded, printed = modules_after(command(["models"]))
    assert "default_16k" in printed
    assert not loaded & HEAVY
