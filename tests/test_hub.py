"""A model by name: from the package, a folder, a hub or the web, and always the right one or one clear error."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import codec
from codec import hub
from codec.api import check_same_model
from codec.errors import ModelError
from codec.hub import download, find_by_weights, find_model
from codec.modelfolder import read_model
from support.hub import COMMIT, REPO, WEIGHTS, make_model, models_of

ROOT = Path(__file__).resolve().parents[1]
LATER = "b" * 40

Web = Any
pytestmark = pytest.mark.usefixtures("home")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# where it comes from


def test_a_hub_model_is_downloaded_once_and_then_found_without_a_network(
    the_hub: Web, small: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = find_model(f"hf://{REPO}@v1")
    assert {path.name for path in folder.iterdir()} == {path.name for path in small.iterdir()}
    assert all((folder / path.name).read_bytes() == path.read_bytes() for path in small.iterdir())
    err = capsys.readouterr().err
    assert "licence CC-BY-4.0" in err
    assert f"hf://{REPO}@{COMMIT}" in err
    assert f"#sha256={sha256(small / 'model.json')}" in err
    n_requests = len(the_hub.log)
    assert find_model(f"hf://{REPO}@v1") == find_model(f"hf://{REPO}@{COMMIT}") == folder
    assert len(the_hub.log) == n_requests
    assert capsys.readouterr().err == ""
    assert models_of(home) == [folder.name, f"{folder.name}.json"]


def test_all_files_are_of_the_commit_that_the_revision_meant_first(the_hub: Web, tmp_path: Path) -> None:
    """A push in the middle of a download cannot mix two models."""
    find_model(f"hf://{REPO}")
    asked = [path for path, _ in the_hub.log if "/resolve/" in path]
    assert asked == [f"/{REPO}/resolve/main/model.json", f"/{REPO}/resolve/{COMMIT}/{WEIGHTS}"]


def test_a_branch_stays_where_it_was_until_it_is_downloaded_again(the_hub: Web, tmp_path: Path) -> None:
    first = find_model(f"hf://{REPO}")
    the_hub.serve_hub(REPO, "main", LATER, make_model(tmp_path / "later", seed=1))
    assert find_model(f"hf://{REPO}") == first
    second = download(f"hf://{REPO}")
    assert (first.name[-40:], second.name[-40:]) == (COMMIT, LATER)
    assert find_model(f"hf://{REPO}") == second
    assert find_model(f"hf://{REPO}@{COMMIT}") == first


def test_a_revision_with_a_slash_is_asked_for_as_one(the_hub: Web, small: Path) -> None:
    the_hub.serve_hub(REPO, "refs/pr/1", COMMIT, small)
    find_model(f"hf://{REPO}@refs/pr/1")
    assert the_hub.log[0][0] == f"/{REPO}/resolve/refs%2Fpr%2F1/model.json"


def test_a_web_model_is_found_by_its_hash(web: Web, small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    address = web.serve_folder(small)
    folder = find_model(address)
    assert read_model(folder).info == read_model(small).info
    assert "licence CC-BY-4.0" in capsys.readouterr().err
    web.files.clear()
    assert find_model(address) == folder


def test_a_name_of_the_own_registry_is_a_model(the_hub: Web, small: Path, home: Path) -> None:
    entry = {"name": "ours", "source": f"hf://{REPO}", "revision": "v1", "sha256": sha256(small / "model.json")}
    write_registry(home, entry)
    assert find_model("ours").name.endswith(COMMIT)
    assert hub.is_here(hub.registry()["ours"])


def write_registry(home: Path, *entries: dict[str, Any]) -> None:
    home.mkdir(exist_ok=True)
    (home / "registry.json").write_text(json.dumps({"format": 1, "models": entries}))


def test_a_model_of_a_system_of_later_builds_is_refused_before_anything_is_asked(the_hub: Web, home: Path) -> None:
    entry = {"name": "theirs", "source": f"hf://{REPO}", "system": "other", "files": {WEIGHTS: None}}
    write_registry(home, entry)
    for ask in (download, find_model):
        with pytest.raises(ModelError, match="theirs: a model of other; this build cannot run it, upgrade codec"):
            ask("theirs")
    assert the_hub.log == []


def test_offline_is_respected_and_what_is_here_is_found(the_hub: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = find_model(f"hf://{REPO}@v1")
    n_requests = len(the_hub.log)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert find_model(f"hf://{REPO}@v1") == folder
    for name in (f"hf://{REPO}@v2", f"https://models.example/m/model.json#sha256={'0' * 64}"):
        with pytest.raises(ModelError, match="HF_HUB_OFFLINE forbids the network"):
            find_model(name)
    assert len(the_hub.log) == n_requests


ODD_NAMES = {
    "no_such_model": "no such model; give a model folder or one of dac_16khz, ",
    "hf://small": "write hf://org/repo",
    "hf://org/small@": "write hf://org/repo",
    "hf://org/../x": "write hf://org/repo",
    "hf://org/small@../../x": "write hf://org/repo",
    "hf://org/small#sha256=12": "64 hexadecimal digits",
    "https://models.example/m.zip": "name the model's folder with a slash at its end",
    "https://models.example/m/model.json?token=1": "write hf://org/repo@revision or https://",
    "http://models.example/m/": "http:// can be changed on its way",
    "ftp://models.example/m/": "write hf://org/repo@revision or https://",
    "https://[bad/m/": "write hf://org/repo@revision or https://",
}


@pytest.mark.parametrize("name", ODD_NAMES)
def test_an_odd_name_is_one_clear_error(name: str, home: Path) -> None:
    with pytest.raises(ModelError) as caught:
        find_model(name)
    assert ODD_NAMES[name] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert models_of(home) == []


# what goes wrong


def other_commit(web: Web) -> None:
    web.headers[f"/{REPO}/resolve/{COMMIT}/model.json"] = {"X-Repo-Commit": LATER}


def test_another_commit_than_asked_for_is_refused(the_hub: Web, home: Path) -> None:
    other_commit(the_hub)
    with pytest.raises(ModelError, match="the hub gives commit bbbbbbbbbbbb; not the wanted one"):
        find_model(f"hf://{REPO}@{COMMIT}")
    assert models_of(home) == []


def test_a_wrong_hash_in_the_address_is_refused_online_and_from_the_cache(the_hub: Web, home: Path, web: Web) -> None:
    wrong = "0" * 64
    with pytest.raises(ModelError, match="wrong content"):
        find_model(f"hf://{REPO}@v1#sha256={wrong}")
    assert models_of(home) == []
    find_model(f"hf://{REPO}@v1")
    with pytest.raises(ModelError, match="its SHA-256 is not 000000000000"):
        find_model(f"hf://{REPO}@v1#sha256={wrong}")


def test_what_changed_behind_an_unchanged_address_is_refused(
    the_hub: Web, small: Path, tmp_path: Path, home: Path
) -> None:
    """A hub that says no commit: the first download is remembered, also when the model itself was removed."""
    the_hub.headers.clear()
    folder = find_model(f"hf://{REPO}@v1")
    shutil.rmtree(folder)
    the_hub.serve_hub(REPO, "v1", COMMIT, make_model(tmp_path / "other", seed=2))
    the_hub.headers.clear()
    with pytest.raises(ModelError, match="at the first download from there") as caught:
        find_model(f"hf://{REPO}@v1")
    record = Path(str(caught.value).rpartition("remove ")[2])
    record.unlink()
    assert find_model(f"hf://{REPO}@v1") == folder


def test_a_full_disk_is_one_clear_error_and_nothing_is_left(the_hub: Web, home: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
        with pytest.raises(ModelError, match="no space left"):
            find_model(f"hf://{REPO}@v1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert models_of(home) == []


def test_a_cache_folder_that_cannot_be_written_is_one_clear_error(
    the_hub: Web, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CODEC_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(ModelError, match=r"cannot be used: .*; set CODEC_HOME to another one"):
        find_model(f"hf://{REPO}@v1")


def test_a_damaged_file_here_is_found_and_downloading_again_mends_it(the_hub: Web) -> None:
    folder = find_model(f"hf://{REPO}@v1")
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(ModelError, match="damaged"):
        codec.load(f"hf://{REPO}@v1")
    assert download(f"hf://{REPO}@v1") == folder
    read_model(folder)


# several at once, and kills


def test_several_at_once_download_once(the_hub: Web) -> None:
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(find_model, [f"hf://{REPO}@v1"] * 4))
    assert len(folders) == 1
    assert sum(path.endswith(WEIGHTS) and "cdn" in path for path, _ in the_hub.log) == 1


SCRIPT = "import sys; from codec.hub import find_model; print(find_model(sys.argv[1]))"


def start(address: str) -> subprocess.Popen[bytes]:
    """A process that downloads."""
    command = [sys.executable, "-c", SCRIPT, address]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)


def test_a_killed_download_is_resumed_by_the_process_that_waited(the_hub: Web, home: Path) -> None:
    """Two processes at once; the one that downloads is killed, the other one takes over where it stopped."""
    path, half, go_on = f"/cdn/{COMMIT}/{WEIGHTS}", threading.Event(), threading.Event()

    def slow(handler: Any, body: bytes) -> None:
        if handler.headers.get("Range"):
            handler.serve(body)
            return
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[:262144])
        half.set()
        go_on.wait(30)

    the_hub.faults[path] = slow
    first = start(f"hf://{REPO}@v1")
    assert half.wait(60)
    part = home / "models" / "hf--org--small.part" / f"{WEIGHTS}.part"
    deadline = time.monotonic() + 30
    while not (part.is_file() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    second = start(f"hf://{REPO}@v1")
    assert second.stderr is not None
    waiting = second.stderr.readline()
    assert b"waiting for another process's download" in waiting
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    out, _ = second.communicate(timeout=60)
    go_on.set()
    assert second.returncode == 0
    assert [headers["Range"] for name, headers in the_hub.log if name == path and "Range" in headers] == [
        "bytes=262144-"
    ]
    read_model(Path(out.decode().strip()))
    assert [name for name in models_of(home) if name.endswith(".part")] == []


# the right weights


def test_the_model_of_some_codes_is_found_by_name_and_weights(the_hub: Web, small: Path) -> None:
    folder = find_model(f"hf://{REPO}@v1")
    weights_hash = read_model(small).info.weights_hash
    assert find_by_weights("small", weights_hash[:32]) == find_by_weights("small", weights_hash) == folder
    assert find_by_weights("other", weights_hash) is None
    assert find_by_weights("small", "0" * 64) is None
    assert find_by_weights("small", "") is None


def test_codes_say_which_weights_made_them_and_nothing_less_will_do(the_hub: Web, small: Path, tmp_path: Path) -> None:
    """Another edition under the same name, and a hash that is empty or cut, are refused everywhere."""
    mine = read_model(small).info
    theirs = read_model(make_model(tmp_path / "edition_2", seed=3)).info
    assert mine.name == theirs.name
    check_same_model(mine, mine)
    check_same_model(dataclasses.replace(mine, weights_hash=mine.weights_hash[:32]), mine)
    for weights_hash in (theirs.weights_hash, "", mine.weights_hash[:31]):
        with pytest.raises(ModelError, match="load the model that made them"):
            check_same_model(dataclasses.replace(mine, weights_hash=weights_hash), mine)


# the command line


def test_models_goes_on_after_a_damaged_one(the_hub: Web, call: Any) -> None:
    (find_model(f"hf://{REPO}@v1") / WEIGHTS).write_bytes(b"")
    code, out, err = call("models")
    assert (code, len(out.splitlines())) == (1, 1)
    assert "damaged" in err
