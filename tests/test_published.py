"""Published checkpoints by name: downloaded, converted once, and the right one or one clear error.

The checkpoints are those of the real classes at a reduced size, in the layout of the place where they lie.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import json
import shutil
import sys
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import codec
from codec.audiowriter import write
from codec.config import to_dict
from codec.convert.build import CONVERTERS
from codec.convert.hf import MODEL_TYPES as CONVERTED
from codec.errors import MissingExtraError, ModelError
from codec.hub import download, find_model, is_here, published, registry
from codec.hub.published import MODEL_TYPES, SYSTEMS
from codec.hub.registry import PACKAGED, read_registry

pytestmark = [
    pytest.mark.usefixtures("home"),
    pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning"),
]
COMMIT, LATER = "c" * 40, "d" * 40
SNAC = "hubertsiuzdak/snac_24khz"

Web = Any


def make_snac(folder: Path) -> None:
    """SNAC's repository on the hub."""
    snac = pytest.importorskip("snac", reason="the snac package (extra bench) is not installed")
    config = {
        "sampling_rate": 24000, "encoder_dim": 8, "encoder_rates": [2, 4, 5], "decoder_dim": 32,
        "decoder_rates": [5, 4, 2], "attn_window_size": None, "codebook_size": 64, "codebook_dim": 8,
        "vq_strides": [4, 2, 1], "noise": True, "depthwise": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(snac.SNAC(**config).state_dict(), folder / "pytorch_model.bin")


def make_encodec(folder: Path) -> None:
    """The file of EnCodec's authors. Its package imports torchaudio at its top and never needs it here."""
    if not all(importlib.util.find_spec(name) for name in ("encodec", "einops")):
        pytest.skip("the encodec package (extra dev) or its einops is not installed")
    model = importlib.import_module("encodec.model")
    sizes = {"channels": 1, "norm": "weight_norm", "causal": True, "n_filters": 4, "ratios": [4, 3, 2, 2]}
    encoder, decoder = model.m.SEANetEncoder(dimension=16, **sizes), model.m.SEANetDecoder(dimension=16, **sizes)
    quantizer = model.qt.ResidualVectorQuantizer(dimension=16, n_q=4, bins=64)
    for layer in quantizer.vq.layers:
        layer._codebook.embed.normal_()  # fresh ones are all zero
    whole = model.EncodecModel(encoder, decoder, quantizer, [12.0], 24000, 1)
    torch.save(whole.state_dict(), folder / "encodec_24khz-d7cc33bc.th")


def make_dac(folder: Path) -> None:
    """The file of DAC's authors, with its metadata."""
    sizes = {
        "encoder_dim": 8, "encoder_rates": [2, 4, 8], "decoder_dim": 32, "decoder_rates": [8, 4, 2], "n_codebooks": 4,
        "codebook_size": 64, "codebook_dim": 8, "sample_rate": 16000,
    }  # fmt: skip
    state = importlib.import_module("dac.model.dac").DAC(**sizes).state_dict()
    torch.save({"state_dict": state, "metadata": {"kwargs": sizes}}, folder / "weights_16khz.pth")


def make_mimi(folder: Path) -> None:
    """The repository of transformers' MimiModel."""
    transformers = pytest.importorskip("transformers", reason="the extra interop is not installed")
    config = transformers.MimiConfig(
        hidden_size=32, num_filters=4, upsampling_ratios=[4, 3, 2, 2], num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, intermediate_size=32, codebook_size=32, codebook_dim=16, num_quantizers=3,
        vector_quantization_hidden_dimension=16, upsample_groups=32, sliding_window=8,
    )  # fmt: skip
    transformers.MimiModel(config).save_pretrained(folder)


MAKERS: dict[str, Callable[[Path], None]] = {
    "snac_24khz": make_snac,
    "encodec_24khz": make_encodec,
    "dac_16khz": make_dac,
    "mimi": make_mimi,
}


OTHERS = [name for name in MAKERS if name != "snac_24khz"]


def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what the packages of EnCodec and DAC import and need not here; transformers would take it for real."""
    tools: Any = types.ModuleType("audiotools")
    ml: Any = types.ModuleType("audiotools.ml")
    ml.BaseModel = type("BaseModel", (torch.nn.Module,), {"INTERN": [], "EXTERN": []})
    tools.AudioSignal, tools.ml, tools.STFTParams = object, ml, lambda **sizes: sizes
    found = importlib.util.find_spec("dac")
    if found is None:
        pytest.skip("descript-audio-codec (pip install --no-deps) is not installed")
    for name in [name for name in sys.modules if name.partition(".")[0] == "dac"]:
        monkeypatch.delitem(sys.modules, name)
    package = types.ModuleType("dac")  # its own __init__ wants what its command line needs
    package.__path__ = list(found.submodule_search_locations or ())
    further = {"dac": package, "audiotools": tools, "audiotools.ml": ml, "torchaudio": types.ModuleType("torchaudio")}
    for name, module in further.items():
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture(scope="module")
def made_snac(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        make_snac(folder := tmp_path_factory.mktemp("snac"))
    return folder


@pytest.fixture
def snac(made_snac: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_snac, tmp_path / "snac"))


@pytest.fixture
def the_hub(web: Web, snac: Path, monkeypatch: pytest.MonkeyPatch) -> Web:
    """The hub with the repository that the registry names for SNAC."""
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    web.serve_hub(SNAC, "main", COMMIT, snac)
    return web


def lay_out(web: Web, name: str, folder: Path, home: Path) -> str:
    """Serve a known model's files where the registry says, and what to load: a server's entry under another name.

    No test has a certificate, so that what lies on an https:// server comes from an own entry, with the files' hashes.
    """
    entry = registry()[name]
    if entry.source.startswith("hf://"):
        web.serve_hub(entry.source.removeprefix("hf://"), "main", entry.revision or COMMIT, folder)
        return name
    for path in folder.iterdir():
        web.files[f"/v0/{path.name}"] = path.read_bytes()
    hashes: dict[str, str | None] = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()
    }
    assert set(hashes) == set(entry.files or {})
    own = dataclasses.replace(entry, name=f"own_{name}", source=f"{web.url}/v0/", files=hashes)
    write_own(home, to_dict(own))
    return own.name


def write_own(home: Path, entry: dict[str, Any]) -> None:
    home.mkdir(exist_ok=True)
    (home / "registry.json").write_text(json.dumps({"format": 1, "models": [entry]}))


def test_the_registry_lists_what_a_converter_reads() -> None:
    from codec.engine.hf_engine import CLASSES  # it imports transformers

    assert set(SYSTEMS) == set(CONVERTERS)
    assert set(MODEL_TYPES) == {*CONVERTED, *CLASSES}
    for entry in read_registry(PACKAGED):
        assert entry.is_packaged or (entry.system in CONVERTERS and entry.extra == "torch" and entry.about)
        # Only a hash that a public source states: the digits in a file's name.
        assert all(stated is None or f"-{stated}." in place for place, stated in (entry.files or {}).items())


@pytest.mark.parametrize("name", ["snac_24khz", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_a_known_model_is_downloaded_converted_and_codes(
    name: str, web: Web, home: Path, tmp_path: Path, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`codec download` -> `encode --model NAME` -> `decode` of a file that names its model."""
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    if name != "mimi":
        stand_in(monkeypatch)
    (tmp_path / "files").mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        MAKERS[name](tmp_path / "files")
    known = lay_out(web, name, tmp_path / "files", home)
    code, out, err = call("download", known)
    folder = Path(out.strip())
    assert (code, folder.parent) == (0, home / "models")
    assert f"licence {registry()[known].licence}\n" in err
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "weights.safetensors"]
    assert [path for path in (home / "models").iterdir() if path.is_dir()] == [folder]
    web.files.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write(clip := tmp_path / "clip.wav", np.sin(np.arange(16000) / 9, dtype=np.float32)[None], 16000)
    assert call("encode", clip, tmp_path / "x.codes", "--model", known)[0] == 0
    assert call("decode", tmp_path / "x.codes", tmp_path / "x.wav")[0] == 0
    codes = codec.open(tmp_path / "x.codes")
    assert codes.model.weights_hash == codec.load(known).info.weights_hash[:32]
    assert codec.read_audio(tmp_path / "x.wav")[0].shape[1] >= codes.n_samples >= 16000
    assert [line.partition(": ")[0] for line in call("models")[1].splitlines()][1:] == [
        f"hf://kyutai/mimi@{registry()[known].revision}" if name == "mimi" else known
    ]


def test_hashes_that_nobody_states_are_recorded_and_shown_and_what_changes_is_refused(
    the_hub: Web, snac: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = find_model("snac_24khz")
    digest = hashlib.sha256((snac / "pytorch_model.bin").read_bytes()).hexdigest()
    assert f"pytorch_model.bin recorded as SHA-256 {digest}" in capsys.readouterr().err
    record = home / "models" / f"{folder.name}.json"
    assert json.loads(record.read_text())["sha256"]["pytorch_model.bin"] == digest
    assert is_here(registry()["snac_24khz"])
    (folder / "model.json").unlink()
    the_hub.files[f"/cdn/{COMMIT}/pytorch_model.bin"] += b"!"
    with pytest.raises(ModelError, match=r"at the first download from there .* remove .*json"):
        download("snac_24khz")


def test_downloading_again_asks_for_the_commit_and_brings_no_weights_twice(the_hub: Web, snac: Path) -> None:
    first = download("snac_24khz")
    n_requests = len(the_hub.log)
    assert download("snac_24khz") == first
    assert not any("pytorch_model" in path for path, _ in the_hub.log[n_requests:])
    settings = json.loads((snac / "config.json").read_text())
    (snac / "config.json").write_text(json.dumps(settings | {"note": "moved"}))
    the_hub.serve_hub(SNAC, "main", LATER, snac)
    second = download("snac_24khz")
    assert (first.name[-40:], second.name[-40:]) == (COMMIT, LATER)
    assert codec.load("snac_24khz").info == codec.load(first).info


def test_several_at_once_download_and_convert_once(the_hub: Web) -> None:
    with ThreadPoolExecutor(3) as pool:
        folders = set(pool.map(find_model, ["snac_24khz"] * 3))
    assert len(folders) == 1
    assert sum(path.endswith("pytorch_model.bin") and "cdn" in path for path, _ in the_hub.log) == 1


def test_eight_stated_digits_of_a_hash_are_compared(web: Web, snac: Path, home: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    digest = hashlib.sha256((snac / "pytorch_model.bin").read_bytes()).hexdigest()
    web.serve_hub("org/own", "main", COMMIT, snac)
    entry = {"name": "own", "source": "hf://org/own", "system": "snac", "licence": "MIT"}
    write_own(home, entry | {"files": {"config.json": None, "pytorch_model.bin": "0" * 8}})
    with pytest.raises(ModelError, match=f"wrong content: SHA-256 {digest[:12]}, expected 00000000;"):
        find_model("own")
    assert not list(home.glob("models/*"))
    write_own(home, entry | {"files": {"config.json": None, "pytorch_model.bin": digest[:8]}})
    assert codec.load("own").info.licence == "MIT"


def test_files_of_a_plain_server_need_their_whole_hashes(web: Web, home: Path) -> None:
    entry = {"name": "own", "source": f"{web.url}/v0/", "system": "dac", "files": {"w.pth": "0" * 8}}
    write_own(home, entry)
    with pytest.raises(ModelError, match="http:// can be changed on its way"):
        find_model("own")


def other_weights(web: Web) -> None:
    import io

    buffer = io.BytesIO()
    torch.save({"encoder.block.0.weight": torch.zeros(3)}, buffer)
    web.files[f"/cdn/{COMMIT}/pytorch_model.bin"] = buffer.getvalue()


def code_in_a_pickle(web: Web) -> None:
    import io

    buffer = io.BytesIO()
    torch.save({"a": Path("x")}, buffer)
    web.files[f"/cdn/{COMMIT}/pytorch_model.bin"] = buffer.getvalue()


def a_login_page(web: Web) -> None:
    web.files[f"/cdn/{COMMIT}/pytorch_model.bin"] = b"<!doctype html><title>Log in</title>"


def settings(**changes: Any) -> Callable[[Web], None]:
    def change(web: Web) -> None:
        place = f"/cdn/{COMMIT}/config.json"
        web.files[place] = json.dumps(json.loads(web.files[place]) | changes).encode()

    return change


FAULTS: dict[str, tuple[Callable[[Web], None], str]] = {
    "a login page": (a_login_page, "a web page, not the file"),
    "a file that is gone": (lambda web: web.files.pop(f"/cdn/{COMMIT}/pytorch_model.bin"), "404: not found"),
    "weights of another system": (other_weights, "keys missing"),
    "a pickle with code": (code_in_a_pickle, "not tensors and plain data alone"),
    "no checkpoint": (lambda web: web.files.update({f"/cdn/{COMMIT}/pytorch_model.bin": b"junk"}), "cannot be read"),
    "settings of another size": (settings(encoder_dim=16), "has shape (8, 1, 7), expected (16, 1, 7)"),
    "settings that are no numbers": (settings(encoder_rates="fast"), "snac_24khz: pytorch_model.bin: "),
    "settings that are negative": (settings(codebook_dim=-8), "snac_24khz: pytorch_model.bin: "),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_wrong_checkpoint_is_one_clear_error_and_nothing_is_left(the_hub: Web, home: Path, case: str) -> None:
    damage, reason = FAULTS[case]
    damage(the_hub)
    with pytest.raises(ModelError) as caught:
        find_model("snac_24khz")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(home) not in str(caught.value)
    assert not list(home.glob("models/*"))
    assert not list(home.glob("refs/*"))


def test_a_repository_of_another_kind_is_refused_before_its_weights_come(
    web: Web, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "llm" / "model.safetensors").write_bytes(b"x" * 100)
    web.serve_hub("org/llm", "main", COMMIT, tmp_path / "llm")
    with pytest.raises(ModelError, match=r"hf://org/llm: no model.json, and a config.json of 'llama'; known are dac"):
        codec.load("hf://org/llm")
    assert not any("safetensors" in path for path, _ in web.log)
    with pytest.raises(ModelError, match="'llama'; known are dac"):
        codec.load(tmp_path / "llm")
    with pytest.raises(ModelError, match=r"model\.json: the server answers 404"):
        codec.load(f"hf://org/llm#sha256={'0' * 64}")
    assert not list(home.glob("models/*"))


def test_a_missing_package_is_named_before_anything_is_downloaded(the_hub: Web, monkeypatch: Any) -> None:
    monkeypatch.setitem(published.PACKAGES, "torch", ("a_package_that_is_missing",))
    for ask in (download, find_model):
        with pytest.raises(MissingExtraError, match=r"snac_24khz needs .* pip install 'neural-codec\[torch\]'"):
            ask("snac_24khz")
    assert the_hub.log == []


@pytest.mark.slow
def test_a_repository_and_its_known_name_are_one_model(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    (tmp_path / "mimi").mkdir()
    make_mimi(tmp_path / "mimi")
    commit = str(registry()["mimi"].revision)
    web.serve_hub("kyutai/mimi", "main", commit, tmp_path / "mimi")
    folder = find_model("hf://kyutai/mimi")
    assert find_model("mimi") == find_model(f"hf://kyutai/mimi@{commit}") == folder
    local = codec.load(tmp_path / "mimi")
    assert local.info == codec.load("mimi").info
    assert local.decode(local.encode(np.zeros(4800, np.float32))).shape == (4800,)
    assert len(list(home.glob("models/*/model.json"))) == 2
