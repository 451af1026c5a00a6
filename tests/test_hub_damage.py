"""A download that is damaged, incomplete or something else: one clear error, and nothing of it is left."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import codec
from codec.errors import ModelError
from support.hub import COMMIT, REPO, WEIGHTS, models_of

Web = Any
pytestmark = pytest.mark.usefixtures("home")


def damaged_json(change: Callable[[dict[str, Any]], None]) -> Callable[[Web], None]:
    def damage(web: Web) -> None:
        data = json.loads(web.files[f"/cdn/{COMMIT}/model.json"])
        change(data)
        web.files[f"/cdn/{COMMIT}/model.json"] = json.dumps(data).encode()

    return damage


def other_weights(web: Web) -> None:
    body = web.files[f"/cdn/{COMMIT}/{WEIGHTS}"]
    web.files[f"/cdn/{COMMIT}/{WEIGHTS}"] = body[:-1] + bytes([body[-1] ^ 1])


def truncated_weights(web: Web) -> None:
    def fault(handler: Any, body: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[:5000])

    web.faults[f"/cdn/{COMMIT}/{WEIGHTS}"] = fault


def a_login_page(path: str) -> Callable[[Web], None]:
    def damage(web: Web) -> None:
        web.files[path] = b"<!doctype html><title>Log in</title>"
        web.headers[path] = {"Content-Type": "text/html"}

    return damage


def no_safetensors(web: Web) -> None:
    """A pickle under the right name, and a model.json with its right hash."""
    pickle = b"\x80\x04\x95cos\nsystem\n" * 50
    digest = hashlib.sha256(pickle).hexdigest()
    web.files[f"/cdn/{COMMIT}/{WEIGHTS}"] = pickle

    def claim(data: dict[str, Any]) -> None:
        data["files"][WEIGHTS] = data["info"]["weights_hash"] = digest

    damaged_json(claim)(web)


def refuse_revision(web: Web) -> None:
    def fault(handler: Any, body: bytes) -> None:
        handler.send_response(404)
        handler.send_header("X-Error-Code", "RevisionNotFound")
        handler.end_headers()

    web.faults[f"/{REPO}/resolve/v1/model.json"] = fault


FAULTS: dict[str, tuple[Callable[[Web], None], str]] = {
    "other weights of the same length": (other_weights, "wrong content: SHA-256"),
    "truncated weights": (truncated_weights, "truncated: 5000 of"),
    "a login page for model.json": (a_login_page(f"/cdn/{COMMIT}/model.json"), "a web page, not the file"),
    "a login page for the weights": (a_login_page(f"/cdn/{COMMIT}/{WEIGHTS}"), "a web page, not the file"),
    "weights that are gone": (lambda web: web.files.pop(f"/cdn/{COMMIT}/{WEIGHTS}"), "404: not found"),
    "a pickle called safetensors": (no_safetensors, "not a safetensors file"),
    "no JSON": (lambda web: web.files.update({f"/cdn/{COMMIT}/model.json": b"\x80\x04cos"}), "not JSON"),
    "JSON cut": (lambda web: web.files.update({f"/cdn/{COMMIT}/model.json": b'{"format": 1'}), "cannot be read"),
    "a huge model.json": (lambda web: web.files.update({f"/cdn/{COMMIT}/model.json": b"{" * (1 << 21)}), "too large"),
    "a later format": (damaged_json(lambda data: data.update(format=2)), "model format 2"),
    "an unknown key in the config": (damaged_json(lambda data: data["config"].update(code="x")), "unknown key 'code'"),
    "a file of code": (damaged_json(lambda data: data["files"].update({"x.py": "0" * 64})), "'x.py': a model's files"),
    "a pickle": (damaged_json(lambda data: data["files"].update({"x.pt": "0" * 64})), "'x.pt': a model's files"),
    "a hidden file": (damaged_json(lambda data: data["files"].update({".x.json": "0" * 64})), "plain names"),
    "a file without hash": (damaged_json(lambda data: data["files"].update({"x.onnx": ""})), "has no SHA-256"),
    "no weights": (damaged_json(lambda data: data["files"].pop(WEIGHTS)), "weights_hash is not the SHA-256"),
    "a missing revision": (refuse_revision, "the repository has no such revision"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_bad_download_is_one_clear_error_and_nothing_is_left(the_hub: Web, home: Path, case: str) -> None:
    damage, reason = FAULTS[case]
    damage(the_hub)
    with pytest.raises(ModelError) as caught:
        codec.load(f"hf://{REPO}@v1")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert models_of(home) == []
    assert not list(home.glob("refs/*"))
