"""A model folder to a folder, or a repository, as the Hugging Face hub wants it: the files, and a card with a header.

>>> front_matter("default_16k", "Apache-2.0").splitlines()[1]
'license: apache-2.0'
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from codec.config import ModelInfo
from codec.errors import ModelError
from codec.hub.cachefolder import is_offline
from codec.hub.fetch import clean
from codec.hub.modeldownload import check_names
from codec.hub.modelsource import MODEL_JSON, hub_endpoint, parse_source
from codec.modelfolder import WEIGHTS, ModelFolder, read_facts, read_model

CARD = "README.md"
TAGS = ("audio", "neural-audio-codec", "speech", "speech-tokenizer", "onnx")
# Licences that the hub calls by their SPDX name in small letters; any other goes as `other`, with its name beside it.
HUB_LICENCES = (
    "apache-2.0",
    "bsd-3-clause",
    "cc-by-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-nd-4.0",
    "cc-by-nc-sa-4.0",
    "cc-by-sa-4.0",
    "cc0-1.0",
    "gpl-3.0",
    "mit",
    "mpl-2.0",
)


def write_hub_folder(folder: ModelFolder, target: Path) -> list[str]:
    """Copy a model, and nothing else that may lie beside it, with its card made ready; the names written.

    Args:
        folder: the model, with its ONNX graphs.
        target: the folder; made if it is missing, and must be empty.

    Raises:
        ModelError: no graphs, files that a download would refuse, or a target that cannot be written.
    """
    if not folder.has_graphs:
        raise ModelError(f"{folder.path}: no ONNX graphs; `codec export` writes them")
    files = read_facts(folder.path)[1]
    check_names(files, where=str(folder.path))
    try:
        target.mkdir(parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise ModelError(f"{target}: not empty; name a new folder")
        for name in (MODEL_JSON, *files):
            shutil.copyfile(folder.path / name, target / name)
        card = folder.path / CARD
        text = card.read_text(encoding="utf-8") if card.is_file() else f"# {folder.info.name}\n\n{facts(folder.info)}"
        (target / CARD).write_text(with_front_matter(text, folder.info) + usage(folder.info), encoding="utf-8")
    except OSError as failure:
        raise ModelError(f"{failure.filename or target}: {failure.strerror}; choose another folder") from None
    read_model(target)
    return sorted(path.name for path in target.iterdir())


def front_matter(name: str, licence: str) -> str:
    """The card's header. Source: the Hugging Face hub's documentation, Model Cards, metadata."""
    short = licence.lower()
    lines = [f"license: {short}"]
    if short not in HUB_LICENCES:
        lines = ["license: other", f"license_name: {clean(licence) or 'not-stated'}"]
    tags = "".join(f"\n- {tag}" for tag in TAGS)
    lines += ["library_name: neural-codec", "pipeline_tag: audio-to-audio", f"model_name: {name}", f"tags:{tags}"]
    return "\n".join(["---", *lines, "---", ""])


def with_front_matter(text: str, info: ModelInfo) -> str:
    """The card with a header; one that has a header keeps its own."""
    return text if text.startswith("---\n") else front_matter(info.name, info.licence) + "\n" + text


def facts(info: ModelInfo) -> str:
    """A card's text for a model that has none: what model.json says, and no more."""
    rates = ", ".join(f"{info.bitrate_of(count) / 1000:.4g}" for count in info.prefixes)
    loudness = f", the first {info.loudness_codebooks} its loudness" if info.loudness_codebooks else ""
    stereo = " stereo" if info.audio_channels > 1 else ""
    return (
        f"A neural audio codec: {info.sample_rate} Hz{stereo}, {info.frame_rate:.4g} frames a second, up to "
        f"{info.codebooks} codebooks of {info.codebook_size} entries{loudness}, {rates} kbit/s, latency "
        f"{info.latency * 1000:g} ms, {sum(info.parameters.values()) / 1e6:.1f} M parameters.\n"
    )


def usage(info: ModelInfo) -> str:
    """How to load it, and how to know that it is this one."""
    return (
        "\n## Use\n\n    pip install neural-codec\n    codec encode talk.wav talk.codes --model hf://ORG/REPO@REVISION\n\n"
        f"`{WEIGHTS}` has the SHA-256 `{info.weights_hash}`; a `.codes` file names it, and decodes with "
        "no weights of other codes.\n"
    )


def upload(folder: Path, repo: str, *, private: bool = False, message: str) -> str:
    """Upload a folder that `write_hub_folder` made; the new commit.

    Args:
        folder: the folder.
        repo: `org/repo`, made where it is missing.
        private: make a new one private.
        message: of the commit; everybody reads it.

    Raises:
        ModelError: not a repository's name, no token, no network, or refused; one line.
    """
    parse_source(f"hf://{repo}")
    if is_offline():
        raise ModelError(f"{repo}: HF_HUB_OFFLINE forbids the network; --to DIR writes the folder")
    from huggingface_hub import HfApi, get_token

    if not get_token():
        raise ModelError(f"{repo}: no token for the hub; run `hf auth login` or set HF_TOKEN, or write with --to DIR")
    api: Any = HfApi(endpoint=hub_endpoint())
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        done = api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
    except (OSError, ValueError, RuntimeError) as error:  # the hub's are OSErrors; a card that it refuses, a ValueError
        raise ModelError(f"{repo}: the upload failed: {clean(str(error).strip().partition(chr(10))[0], 200)}") from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "httpcore2", "requests"):
            raise
        raise ModelError(
            f"{repo}: the hub cannot be reached ({clean(str(error))}); --to DIR writes the folder"
        ) from None
    return str(done.oid)
