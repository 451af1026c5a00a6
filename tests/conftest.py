"""What several test modules share: small real models with random weights, real speech, the real command."""

from __future__ import annotations

import gc
import hashlib
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from codec.api import Model, load
from codec.audio import read
from codec.config import ModelConfig, Part
from support.hub import COMMIT, REPO, make_model

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "tests" / "fixtures"

Speech = npt.NDArray[np.float32]
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]
Call = Callable[..., tuple[int, str, str]]


def pytest_configure() -> None:
    """No collector until all test modules are imported: half a million objects, looked at again and again."""
    gc.disable()


def pytest_collection_finish() -> None:
    """What was imported stays: the tests need not look at it either."""
    gc.freeze()
    gc.enable()


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


@pytest.fixture(scope="session", autouse=True)
def listening() -> None:
    """A shell that starts the tests in the background has them ignore Ctrl-C, and all their children with them."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def write_model() -> Callable[[Path, str, Part], Path]:
    """As `write_tiny`: the tests are no package, so they cannot import it."""
    return write_tiny


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the spectral family, as a folder."""
    options = {
        "dim": 16,
        "hidden_dim": 24,
        "n_blocks": 1,
        "n_fine_blocks": 1,
        "noise_bins": [40, 60],
        "noise_period": 7,
    }
    decoder = Part("spectral", options)
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
def coded(tiny: Model, speech: Speech, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds in codes of `tiny`."""
    path = tmp_path_factory.mktemp("coded") / "talk.codes"
    tiny.encode(speech[:48000]).save(path)
    return path


@pytest.fixture(scope="session")
def run() -> Run:
    """Run `codec ...` as a process of its own."""

    def start(*args: str | Path, cwd: Path | None = None, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "codec", *map(str, args)]
        return subprocess.run(
            command, cwd=cwd or ROOT, input=stdin, capture_output=True, timeout=300, env=one_thread(), check=False
        )

    return start


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """The command in this process: its exit code, stdout and stderr."""
    from codec.cli import main

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    def start(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["codec", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capfd.readouterr()

    yield start
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder for downloads, no token of this machine, and no long pauses between tries."""
    from codec.hub import fetch

    monkeypatch.setenv("CODEC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(fetch, "PAUSE", 0.001)
    return tmp_path / "home"


def one_thread() -> dict[str, str]:
    """An environment in which a child process leaves the other cores alone."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


class Web(ThreadingHTTPServer):
    """A web server of this process: what it serves, how it misbehaves, and what it was asked.

    Attributes:
        files: path to content; served with an ETag, and in parts when asked.
        headers: path to further headers of its answer.
        redirects: path to a place elsewhere.
        faults: path to a function that answers instead, as often as it stands there.
        posts: path to a function that answers a POST's body with JSON.
        log: path and headers of every request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.redirects: dict[str, str] = {}
        self.faults: dict[str, Callable[[BaseHTTPRequestHandler, bytes], None]] = {}
        self.posts: dict[str, Callable[[bytes], Any]] = {}
        self.log: list[tuple[str, dict[str, str]]] = []

    @property
    def url(self) -> str:
        """Without a slash at the end."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""

    def serve_folder(self, folder: Path) -> str:
        """Lay a model folder out as a plain server does; its address with the hash."""
        for path in folder.iterdir():
            self.files[f"/m/{path.name}"] = path.read_bytes()
        return f"{self.url}/m/model.json#sha256={hashlib.sha256(self.files['/m/model.json']).hexdigest()}"

    def serve_hub(self, repo: str, revision: str, commit: str, folder: Path) -> None:
        """Lay a folder out as the Hugging Face hub does: small files from itself, weights from another host."""
        for path in sorted(folder.iterdir()):
            blob = f"/cdn/{commit}/{path.name}"
            self.files[blob] = path.read_bytes()
            for name in (revision.replace("/", "%2F"), commit):
                address = f"/{repo}/resolve/{name}/{path.name}"
                self.headers[address] = {"X-Repo-Commit": commit}
                if path.suffix == ".safetensors":
                    self.redirects[address] = f"http://localhost:{self.server_port}{blob}"
                else:
                    self.redirects[address] = blob


class _Answer(BaseHTTPRequestHandler):
    server: Web

    def do_GET(self) -> None:
        web = self.server
        web.log.append((self.path, {name.title(): value for name, value in self.headers.items()}))
        body = web.files.get(self.path, b"")
        if self.path in web.faults:
            web.faults[self.path](self, body)
        elif self.path in web.redirects:
            self.answer(307, b"", {"Location": web.redirects[self.path]})
        elif self.path in web.files:
            self.serve(body)
        else:
            self.answer(404, b"nothing here", {})

    def do_POST(self) -> None:
        self.server.log.append((self.path, {name.title(): value for name, value in self.headers.items()}))
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = self.server.posts.get(self.path)
        data = json.dumps({"error": "no such place"} if answer is None else answer(body)).encode()
        self.answer(404 if answer is None else 200, data, {"Content-Type": "application/json"})

    def serve(self, body: bytes) -> None:
        """All of it, or the rest where the client has the same beginning."""
        tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        if start and self.headers.get("If-Range", tag) == tag:
            place = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
            self.answer(206 if start < len(body) else 416, body[start:], place | {"ETag": tag})
        else:
            self.answer(200, body, {"ETag": tag})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        defaults = {"Content-Type": "application/octet-stream", "Content-Length": str(len(body))}
        for name, value in (defaults | self.server.headers.get(self.path, {}) | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (its name there)
        """Nothing on stderr."""


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A web server that runs for one test, and an environment without proxies and tokens."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "hf_token", "hf_hub_offline", "hf_endpoint"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with Web() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A model folder with weights that no network was ever built of."""
    return make_model(tmp_path / "small")


@pytest.fixture
def the_hub(web: Web, small: Path, monkeypatch: pytest.MonkeyPatch) -> Web:
    """The hub's layout with one model, at the branch main and the tag v1."""
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    web.serve_hub(REPO, "main", COMMIT, small)
    web.serve_hub(REPO, "v1", COMMIT, small)
    return web


@pytest.fixture
def vocos(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """Modules of the package vocos, and EnCodec; what they want of torchaudio is not called here."""
    if not all(importlib.util.find_spec(name) for name in ("vocos", "encodec", "einops", "scipy")):
        pytest.skip("the encodec or vocos package (extras dev, bench) is not installed")
    for name in ("torchaudio", "torchaudio.functional", "torchaudio.functional.functional"):
        module = types.ModuleType(name)
        module._hz_to_mel = module._mel_to_hz = None  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    importlib.import_module("encodec.model")
    names = ("heads", "models", "spectral_ops")
    modules = {name: importlib.import_module(f"vocos.{name}") for name in names}
    return types.SimpleNamespace(**modules, encodec=importlib.import_module("encodec"))
