"""One file over HTTP: whole and right, or one clear error and nothing left."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from codec.errors import ModelError
from codec.hub import fetch as fetching
from codec.hub.fetch import Fetched, LostConnectionError, Wanted, fetch

BODY = bytes(range(256)) * 4000  # about 1 MB: several chunks
SHA256 = hashlib.sha256(BODY).hexdigest()
PATH = "/folder/weights.safetensors"

Web = Any
Fault = Callable[[BaseHTTPRequestHandler, bytes], None]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No long pauses between tries."""
    monkeypatch.setattr(fetching, "PAUSE", 0.001)


def get(web: Web, folder: Path, **changes: Any) -> Fetched:
    web.files.setdefault(PATH, BODY)
    return fetch(Wanted(**({"url": web.url + PATH, "sha256": SHA256} | changes)), folder / "x")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def send(handler: BaseHTTPRequestHandler, body: bytes, *, status: int = 200, **headers: str) -> None:
    """An answer with just these headers."""
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def test_a_file_comes_whole_and_its_name_appears_last(web: Web, tmp_path: Path) -> None:
    seen = []
    web.files[PATH] = BODY
    done = fetch(Wanted(web.url + PATH, SHA256), tmp_path / "x", lambda *step: seen.append((*step, names(tmp_path))))
    assert (tmp_path / "x").read_bytes() == BODY
    assert (done.sha256, done.size_bytes) == (SHA256, len(BODY))
    assert names(tmp_path) == ["x"]
    assert seen[-1][:3] == ("x", len(BODY), len(BODY))
    assert all("x" not in there for *_, there in seen)


def test_a_file_that_is_here_is_not_asked_for_again(web: Web, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(BODY)
    get(web, tmp_path)
    assert web.log == []


def breaks_off_after(n_bytes: int) -> Fault:
    def fault(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        start = int(handler.headers.get("Range", "bytes=0-")[6:-1])
        part = body[start : start + n_bytes]
        place = {"Content_Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {}
        length = str(len(body) - start)
        send(handler, part, status=206 if start else 200, Content_Length=length, ETag='"one"', **place)

    return fault


def test_a_connection_that_breaks_again_and_again_is_resumed_until_all_is_here(web: Web, tmp_path: Path) -> None:
    web.faults[PATH] = breaks_off_after(200_000)
    get(web, tmp_path, sha256=None)
    assert (tmp_path / "x").read_bytes() == BODY
    asked = [headers.get("Range") for _, headers in web.log]
    assert asked == [None, *(f"bytes={n}-" for n in range(200_000, len(BODY), 200_000))]
    assert {headers.get("If-Range") for _, headers in web.log[1:]} == {'"one"'}


def always_truncated(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    send(handler, body[:1000], Content_Length=str(len(body)))


def chunked_and_cut(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    handler.protocol_version = "HTTP/1.1"
    send(handler, b"400\r\n" + body[:512], Transfer_Encoding="chunked", Connection="close")


def a_page(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    page = b"<!DOCTYPE html><title>Log in</title>"
    send(handler, page, Content_Type="text/html; charset=utf-8", Content_Length=str(len(page)))


def a_page_in_disguise(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    page = b"\n<!doctype HTML><title>Log in</title>"
    send(handler, page, Content_Type="application/octet-stream", Content_Length=str(len(page)))


def other_bytes(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    send(handler, body[:-1] + b"!", Content_Length=str(len(body)))


def refuses(status: int, error_code: str = "") -> Fault:
    def fault(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        send(handler, b"<html>no</html>", status=status, X_Error_Code=error_code, Content_Type="text/html")

    return fault


def enormous(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    send(handler, b"", Content_Length=str(1 << 60))


def a_loop(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    send(handler, b"", status=302, Location=PATH, Content_Length="0")


def a_wrong_part(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    send(handler, body[7:], status=206, Content_Range=f"bytes 7-{len(body) - 1}/{len(body)}")


def no_http(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    handler.wfile.write(b"\x00\x01 hello\n" * 9)


MISBEHAVIOURS: dict[str, tuple[Fault, str]] = {
    "truncated, always at the same byte": (always_truncated, f"truncated: 1000 of {len(BODY)} bytes came"),
    "chunked and cut": (chunked_and_cut, "truncated: the server broke off"),
    "a web page with status 200": (a_page, "the server sent a web page, not the file"),
    "a web page that says it is binary": (a_page_in_disguise, "the server sent a web page, not the file"),
    "other bytes of the same length": (other_bytes, "wrong content: SHA-256"),
    "missing": (refuses(404), "the server answers 404: not found"),
    "missing revision": (refuses(404, "RevisionNotFound"), "no such revision; check the part after @"),
    "missing repository": (refuses(401, "RepoNotFound"), "no such repository, or one that needs a token"),
    "gated": (refuses(403, "GatedRepo"), "its owner asks for consent first"),
    "overloaded for ever": (refuses(503), "the server answers 503; try again later"),
    "416 to everything": (refuses(416), "the server answers 416"),
    "a length beyond all reason": (enormous, "too large"),
    "an endless loop of redirects": (a_loop, "the server answers 302: its redirects lead nowhere"),
    "another part than asked for": (a_wrong_part, "with a wrong part"),
}


@pytest.mark.parametrize("case", MISBEHAVIOURS)
def test_a_misbehaving_server_is_one_clear_error_and_nothing_is_left(web: Web, tmp_path: Path, case: str) -> None:
    web.faults[PATH], reason = MISBEHAVIOURS[case]
    with pytest.raises(ModelError) as caught:
        get(web, tmp_path)
    assert reason in str(caught.value)
    assert str(caught.value).startswith(web.url + PATH)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []


def test_what_is_no_http_is_a_lost_connection(web: Web, tmp_path: Path) -> None:
    web.faults[PATH] = no_http
    with pytest.raises(LostConnectionError, match="no connection"):
        get(web, tmp_path)
    assert names(tmp_path) == []


def test_a_server_that_is_not_there_is_one_clear_error(tmp_path: Path, web: Web) -> None:
    with pytest.raises(LostConnectionError, match=r"no connection .*refused"):
        fetch(Wanted("http://127.0.0.1:1/x"), tmp_path / "x")
    assert names(tmp_path) == []


def test_without_length_and_hash_a_file_is_refused(web: Web, tmp_path: Path) -> None:
    """Its end cannot be told from a break."""
    web.faults[PATH] = lambda handler, body: send(handler, body)
    with pytest.raises(ModelError, match="states no length and there is no SHA-256"):
        get(web, tmp_path, sha256=None)
    get(web, tmp_path)
    assert names(tmp_path) == ["x"]


def test_a_short_outage_is_waited_out(web: Web, tmp_path: Path) -> None:
    def busy(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        if len(web.log) == 3:
            del web.faults[PATH]
        send(handler, b"", status=(429, 500, 503)[len(web.log) - 1], Retry_After="0", Content_Length="0")

    web.faults[PATH] = busy
    get(web, tmp_path)
    assert len(web.log) == 4


def test_a_silent_server_ends_the_wait_and_the_next_call_goes_on(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        send(handler, body[:300_000], Content_Length=str(len(body)), ETag='"one"')
        handler.wfile.flush()
        time.sleep(0.3)

    monkeypatch.setattr(fetching, "TIMEOUT", 0.05)
    monkeypatch.setattr(fetching, "ATTEMPTS", 1)
    web.faults[PATH] = lambda handler, body: (
        silent(handler, body) if "Range" not in handler.headers else time.sleep(0.3)
    )
    with pytest.raises(LostConnectionError, match="run again to go on"):
        get(web, tmp_path)
    n_bytes = (tmp_path / "x.part").stat().st_size
    assert 0 < n_bytes <= 300_000
    del web.faults[PATH]
    get(web, tmp_path)
    assert web.log[-1][1]["Range"] == f"bytes={n_bytes}-"
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("has_tag", [True, False])
def test_a_beginning_of_another_file_is_never_kept(web: Web, tmp_path: Path, has_tag: bool) -> None:
    """With a tag the server sends the whole new file; without one the hash tells, and it is fetched once more."""
    note = '{"url": "%s", "tag": %s}' % (web.url + PATH, '"\\"old\\""' if has_tag else "null")  # noqa: UP031
    (tmp_path / "x.part").write_bytes(b"old" * 1000)
    (tmp_path / "x.part.json").write_text(note)
    get(web, tmp_path)
    assert (tmp_path / "x").read_bytes() == BODY
    assert web.log[0][1]["Range"] == "bytes=3000-"
    assert len(web.log) == (1 if has_tag else 2)
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("note", ["", "[]", '{"url": "http://elsewhere/x", "tag": "\\"one\\""}'])
def test_a_beginning_that_nothing_vouches_for_is_thrown_away(web: Web, tmp_path: Path, note: str) -> None:
    (tmp_path / "x.part").write_bytes(BODY[:1000])
    (tmp_path / "x.part.json").write_text(note)
    get(web, tmp_path)
    assert "Range" not in web.log[0][1]
    assert (tmp_path / "x").read_bytes() == BODY


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of file sizes")
def test_a_full_disk_is_one_clear_error_and_nothing_is_left(web: Web, tmp_path: Path) -> None:
    """A limit of the file size stands for the full disk: the system refuses to write on, in the same way."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))
        with pytest.raises(ModelError, match="cannot be written: no space left for it; free some disk space"):
            get(web, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == []


def test_a_disk_that_is_too_small_is_known_before_a_byte_comes(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr("codec.hub.fetch.shutil.disk_usage", lambda path: Usage)
    with pytest.raises(ModelError, match=r"no space left for its 1\.0 MB"):
        get(web, tmp_path)
    assert names(tmp_path) == []


def test_the_token_goes_to_the_hub_and_not_to_where_it_redirects(web: Web, tmp_path: Path) -> None:
    web.files["/cdn/x"] = BODY
    web.redirects[PATH] = f"http://localhost:{web.server_port}/cdn/x"
    web.headers[PATH] = {"X-Repo-Commit": "a" * 40}
    done = get(web, tmp_path, token="secret")
    assert [(path, headers.get("Authorization")) for path, headers in web.log] == [
        (PATH, "Bearer secret"),
        ("/cdn/x", None),
    ]
    assert done.header("X-Repo-Commit") == "a" * 40


def test_a_proxy_of_the_environment_is_asked(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", web.url)
    address = "http://models.example/x"
    web.files[address] = BODY
    fetch(Wanted(address, SHA256), tmp_path / "x")
    assert [path for path, _ in web.log] == [address]


def test_a_redirect_to_a_file_of_this_disk_is_refused(web: Web, tmp_path: Path) -> None:
    web.redirects[PATH] = "file:///etc/passwd"
    with pytest.raises(ModelError, match="the server answers 307"):
        get(web, tmp_path)
    assert names(tmp_path) == []
