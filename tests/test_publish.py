"""A model ready for the hub: what is written is what a download takes, and an upload comes back as the same model."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml
from safetensors.numpy import save_file

from codec.cli.push import push
from codec.errors import ModelError
from codec.hub import DEFAULT, EMBEDDED, find_model
from codec.hub.publish import front_matter, upload, write_hub_folder
from codec.modelfolder import GRAPHS, WEIGHTS, ModelFolder, read_model, write_model

COMMIT = "c" * 40
REPO = "org/codec"

Web = Any


@pytest.fixture
def shipped() -> ModelFolder:
    return read_model(EMBEDDED / DEFAULT)


@pytest.fixture
def small(shipped: ModelFolder, tmp_path: Path) -> ModelFolder:
    """The shipped model's files but for its weights, which are a few numbers."""
    folder = tmp_path / "small"
    folder.mkdir()
    save_file({"x": np.arange(1000.0)}, folder / WEIGHTS)
    for name in GRAPHS:
        shutil.copyfile(shipped.path / name, folder / name)
    write_model(folder, shipped.info, shipped.config)
    return read_model(folder)


@pytest.fixture
def the_hub(web: Web, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Web:
    """A hub that takes commits of small and large files alike, and serves them."""
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    monkeypatch.setenv("CODEC_HOME", str(tmp_path / "home"))
    received = tmp_path / "received"

    def modes(body: bytes) -> Any:
        asked = json.loads(body)["files"]
        return {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in asked]}

    def commit(body: bytes) -> Any:
        received.mkdir()
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "header":
                (tmp_path / "message").write_text(line["value"]["summary"])
            if line["key"] == "file":
                (received / line["value"]["path"]).write_bytes(base64.b64decode(line["value"]["content"]))
        web.serve_hub(REPO, "main", COMMIT, received)
        return {"commitUrl": f"{web.url}/{REPO}/commit/{COMMIT}", "commitOid": COMMIT}

    web.posts = {
        "/api/repos/create": lambda body: {"url": f"{web.url}/{REPO}", "name": REPO},
        "/api/validate-yaml": lambda body: {"errors": [], "warnings": []},
        f"/api/models/{REPO}/preupload/main": modes,
        f"/api/models/{REPO}/commit/main": commit,
    }
    return web


def test_the_folder_holds_the_model_its_card_and_nothing_else(shipped: ModelFolder, tmp_path: Path) -> None:
    stray = shutil.copytree(shipped.path, tmp_path / "with strays")
    (stray / "notes.txt").write_text("private")
    names = write_hub_folder(read_model(stray), tmp_path / "out")
    assert names == sorted(path.name for path in shipped.path.iterdir())
    card = (tmp_path / "out" / "README.md").read_text()
    header = yaml.safe_load(card.split("---\n")[1])
    assert (header["license"], header["library_name"]) == ("apache-2.0", "neural-codec")
    assert (shipped.path / "README.md").read_text() in card
    assert shipped.info.weights_hash in card
    assert read_model(tmp_path / "out").info == shipped.info


def test_a_licence_that_the_hub_does_not_know_is_named_in_full() -> None:
    header = yaml.safe_load(front_matter("x", "LicenseRef-Mine").split("---\n")[1])
    assert (header["license"], header["license_name"]) == ("other", "LicenseRef-Mine")


def test_a_folder_that_is_not_empty_is_left_alone(shipped: ModelFolder, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ModelError, match="not empty; name a new folder"):
        write_hub_folder(shipped, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_model_without_graphs_or_with_a_file_of_code_is_refused(shipped: ModelFolder, tmp_path: Path) -> None:
    folder = shutil.copytree(shipped.path, tmp_path / "model")
    (folder / "encoder.onnx").unlink()
    with pytest.raises(ModelError, match="no ONNX graphs; `codec export` writes them"):
        write_hub_folder(ModelFolder(folder, shipped.info, shipped.config), tmp_path / "out")
    data = json.loads((shipped.path / "model.json").read_text())
    data["files"]["run.py"] = "0" * 64
    (folder / "model.json").write_text(json.dumps(data))
    (folder / "encoder.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match=r"'run\.py': a model's files"):
        write_hub_folder(ModelFolder(folder, shipped.info, shipped.config), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_upload_that_cannot_be_is_one_clear_error(
    the_hub: Web, shipped: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    del the_hub.posts["/api/repos/create"]
    with pytest.raises(ModelError, match="the upload failed") as caught:
        upload(tmp_path / "out", REPO, message="m")
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="write hf://org/repo"):
        upload(tmp_path / "out", "one word", message="m")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE forbids the network"):
        upload(tmp_path / "out", REPO, message="m")


def test_push_writes_the_folder_and_uploads_only_when_asked(
    the_hub: Web, small: ModelFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push(str(small.path), to=tmp_path / "out")
    assert "ready for the hub; nothing was uploaded" in capsys.readouterr().out
    assert read_model(tmp_path / "out").info.name == DEFAULT
    push(str(small.path), REPO, dry_run=True)
    assert the_hub.log == []
    push(str(tmp_path / "out"), REPO)
    assert capsys.readouterr().out.splitlines()[-1] == f"hf://{REPO}@{COMMIT}"
    assert dict(the_hub.log)[f"/api/models/{REPO}/commit/main"]["Authorization"] == "Bearer hf_of_the_test"
    assert (tmp_path / "message").read_text() == f"Model {DEFAULT}"  # not the folder's place on this machine


def test_what_is_uploaded_comes_back_as_the_same_model(the_hub: Web, tmp_path: Path, small: ModelFolder) -> None:
    write_hub_folder(small, tmp_path / "out")
    assert upload(tmp_path / "out", REPO, message="m") == COMMIT
    back = read_model(find_model(f"hf://{REPO}@{COMMIT}"))
    assert back.info == small.info
    assert {path.name: path.read_bytes() for path in back.path.iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.suffix != ".md"
    }


def test_push_without_a_place_is_wrong_usage() -> None:
    with pytest.raises(typer.BadParameter, match="give ORG/REPO to upload, or --to DIR"):
        push(DEFAULT)
