"""What several test modules share: small real models with random weights, real speech, the real command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from codec.api import Model, load
from codec.audio import read
from codec.config import ModelConfig, Part

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "tests" / "fixtures"

Speech = npt.NDArray[np.float32]
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


def write_tiny(folder: Path, name: str, decoder: Part) -> Path:
    """Write a model folder: spectral encoder, 2 groups of 2 levels of 32 entries, random weights."""
    import torch

    from codec.export.folder import write_folder
    from codec.network import Network

    encoder = Part("spectral", {"dim": 16, "hidden_dim": 24, "n_blocks": 1})
    bottleneck = Part("grouped", {"n_groups": 2, "n_levels": 2, "codebook_size": 32})
    config = ModelConfig(encoder, bottleneck, decoder, latent_dim=8)
    with torch.random.fork_rng():
        torch.manual_seed(20251121)
        network = Network(config)
        for level, book in enumerate(network.bottleneck.codebooks):
            book.embed.normal_(std=0.5 ** (level // 2))  # without entries all codes would be 0
    write_folder(folder, name, config, network.state_dict(), licence="CC0-1.0")
    return folder


@pytest.fixture(scope="session")
def write_model() -> Callable[[Path, str, Part], Path]:
    """As `write_tiny`: the tests are no package, so they cannot import it."""
    return write_tiny


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the spectral family, as a folder."""
    decoder = Part("spectral", {"dim": 16, "hidden_dim": 24, "n_blocks": 1, "n_fine_blocks": 1})
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny", "tiny", decoder)


@pytest.fixture(scope="session")
def tiny(tiny_path: Path) -> Model:
    return load(tiny_path)


@pytest.fixture(scope="session")
def embedded() -> Model:
    """The default model, slow and real."""
    return load()


@pytest.fixture(scope="session")
def speech() -> Speech:
    """Six seconds, (T,) at 16 kHz."""
    samples: Speech = read(FIXTURES / "demo.flac")[0][0]
    return samples


@pytest.fixture(scope="session")
def run() -> Run:
    """Run `codec ...` as a process of its own."""

    def start(*args: str | Path, cwd: Path | None = None, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "codec", *map(str, args)]
        return subprocess.run(
            command, cwd=cwd or ROOT, input=stdin, capture_output=True, timeout=300, env=one_thread(), check=False
        )

    return start


def one_thread() -> dict[str, str]:
    """An environment in which a child process leaves the other cores alone."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
