"""`codec models` and `codec download`: what is here, what could be, and that a file then finds its model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

import codec
from codec.hub import DEFAULT, EMBEDDED

Web = Any


def test_the_commands_download_list_and_decode(web: Web, call: Any, tmp_path: Path, home: Path) -> None:
    """A file decodes by its own word once its model is here: same codes and audio as the model it was copied from."""
    folder = shutil.copytree(EMBEDDED / DEFAULT, tmp_path / "renamed")
    data = json.loads((folder / "model.json").read_text())
    data["info"]["name"] = "elsewhere"
    (folder / "model.json").write_text(json.dumps(data))
    address = web.serve_folder(folder)
    codes = tmp_path / "x.codes"
    model = codec.load(folder)
    model.encode(np.sin(np.arange(4000) / 9).astype(np.float32)).save(codes)
    code, _, err = call("decode", codes, tmp_path / "x.wav")
    assert code == 1
    assert "made by the model 'elsewhere', weights" in err
    code, out, err = call("download", address)
    assert (code, Path(out.strip()).parent) == (0, home / "models")
    assert "licence Apache-2.0" in err
    listed = call("models", "--remote")[1].splitlines()
    assert [line.partition(": ")[0] for line in listed[:2]] == [DEFAULT, address]
    assert call("decode", codes, tmp_path / "x.wav")[0] == 0
    heard, _ = codec.read_audio(tmp_path / "x.wav")
    assert np.abs(heard[0] - model.decode(codec.open(codes))).max() < 2**-14  # x.wav has 16 bits
    code, _, err = call("download", f"{web.url}/none/model.json#sha256={'0' * 64}")
    reason = "the server answers 404: not found; check the address"
    assert (code, err) == (1, f"codec: {web.url}/none/model.json: {reason}\n")


def test_models_says_what_a_registry_states_and_what_it_does_not(home: Path, call: Any) -> None:
    stated = {"name": "one", "source": "hf://org/one", "revision": "v1", "size_bytes": 93_000_000, "licence": "MIT"}
    own = [stated | {"extra": "interop", "sha256": "ab" * 32}, {"name": "two", "source": "hf://org/two"}]
    home.mkdir()
    (home / "registry.json").write_text(json.dumps({"format": 1, "models": own}))
    listed = call("models", "--remote")[1].splitlines()
    assert "encodec_24khz-d7cc33bc.th d7cc33bc, needs neural-codec[torch]" in "".join(listed)
    assert listed[-2:] == [
        "one: hf://org/one, revision v1, 93.0 MB, MIT, model.json abababababab, needs neural-codec[interop]",
        "two: hf://org/two, size not stated, licence not stated, no hash stated: recorded at the first download",
    ]
    rows = [json.loads(line) for line in call("models", "--remote", "--json")[1].splitlines()]
    assert [(row["load"], row["here"]) for row in (rows[0], *rows[-2:])] == [
        (DEFAULT, True),
        ("one", False),
        ("two", False),
    ]
    assert rows[-1]["sha256"] is None
