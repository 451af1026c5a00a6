"""Starting is quick: what is heavy is imported where it is used, and nowhere before."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

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

HELPS = """
import contextlib, io, json, sys
import codec.cli
found = []
for args in json.loads(sys.argv[1]):
    sys.argv = ["codec", *args]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        codec.cli.main()
    found.append((args, sorted(name for name in sys.modules if "." not in name), out.getvalue()))
print(json.dumps(found))
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


def test_coding_leaves_nothing_in_the_users_home(tmp_path: Path) -> None:
    """Else onnxruntime keeps an id of the machine there, and sends it away with what it knows of each model."""
    program = "import codec; assert codec.load().encode([0.0] * 16000).data.shape[0] == 8"
    home = {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], env=home, cwd=ROOT, check=True)
    assert list(tmp_path.rglob("*")) == []


def test_import_codec_alone_loads_none_of_what_it_needs_to_code() -> None:
    """So the command line has a say, and an ear for Ctrl-C, before numpy comes in."""
    loaded, _ = modules_after("import codec")
    assert not loaded & (HEAVY | {"numpy", "soundfile", "soxr"})


def test_help_loads_nothing_heavy_and_says_how_to_use_it() -> None:
    """All in one interpreter: what the help of one command loads stays, and is named with that command."""
    calls = [["--help"], *([name, "--help"] for name in COMMANDS)]
    found = helps(calls)
    assert [args for args, _, _ in found] == calls
    for args, loaded, printed in found:
        assert printed.startswith("Usage: codec"), args
        assert not set(loaded) & (HEAVY | {"numpy"}), args
    assert all(f"  {name} " in found[0][2] for name in COMMANDS)


def helps(calls: list[list[str]]) -> list[tuple[list[str], list[str], str]]:
    """Each call, the top-level modules that the interpreter holds after it, and what it printed."""
    done = subprocess.run([sys.executable, "-c", HELPS, json.dumps(calls)], capture_output=True, cwd=ROOT, check=True)
    return [(args, loaded, printed) for args, loaded, printed in json.loads(done.stdout)]


def test_info_of_a_codes_file_loads_nothing_heavy() -> None:
    loaded, printed = modules_after(command(["info", str(GOLDEN)]))
    assert "codebook_sizes" in printed
    assert not loaded & HEAVY


def test_the_list_of_models_loads_nothing_heavy() -> None:
    loaded, printed = modules_after(command(["models"]))
    assert "default_16k" in printed
    assert not loaded & HEAVY
