"""What the documents show runs, and what they name exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def python_blocks() -> list[tuple[str, str]]:
    found = []
    for document in DOCUMENTS:
        blocks = re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL)
        found += [(f"{document.name} {i}", block) for i, block in enumerate(blocks)]
    return found


@pytest.mark.parametrize("block", [pytest.param(text, id=name) for name, text in python_blocks()])
def test_the_python_of_the_documents_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    block = block.replace("tests/fixtures", str(ROOT / "tests" / "fixtures"))
    exec(compile(block, "the document", "exec"), {"__name__": "__main__"})  # as a script, but for the process


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
        assert (document.parent / target).exists(), f"{document.name} points to {target}"


def test_every_command_is_in_the_readme() -> None:
    done = subprocess.run([sys.executable, "-m", "codec", "--help"], capture_output=True, text=True, check=True)
    commands = re.findall(r"^  (\w+)  ", done.stdout.partition("Commands:")[2], re.MULTILINE)
    readme = (ROOT / "README.md").read_text()
    assert commands
    assert [name for name in commands if f"codec {name}" not in readme] == []


def test_the_scores_of_the_readme_are_those_of_the_card() -> None:
    readme = (ROOT / "README.md").read_text()
    card = (ROOT / "codec" / "models" / "default_16k" / "README.md").read_text()
    for name, start in (("**`default_16k`**", r"\d+"), ("Lyra v2", "Lyra v2"), ("Opus 1.3.1", "Opus 1.3.1")):
        (row,) = (line for line in readme.splitlines() if line.startswith(f"| {name} |"))
        scores = list(zip(*(cell.split(", ") for cell in row.split(" | ")[2:5]), strict=True))
        assert scores
        for bitrate, pesq, stoi in scores:
            figures = rf"\| {start} \| {bitrate} \| {pesq} (\([^|]*\) )?\| {stoi} "
            assert re.search(figures, card), f"README.md says {name} {bitrate} {pesq} {stoi}; its card does not"
