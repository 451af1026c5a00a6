"""Model name to local folder."""

from __future__ import annotations

from pathlib import Path

from codec.errors import ModelError

EMBEDDED = Path(__file__).parent / "models"
DEFAULT = "default_16k"


def list_models() -> list[str]:
    """Names of the models inside the package."""
    return sorted(p.parent.name for p in EMBEDDED.glob("*/model.json"))


def find_model(name: str | Path) -> Path:
    """The folder of a model.

    Args:
        name: an embedded model's name, or a model folder's path.

    Raises:
        ModelError: unknown, or on a network that this build does not reach.
    """
    text = str(name)
    if "://" in text:
        raise ModelError(
            f"{text}: models from a hub or the web are not supported yet; download the folder, give its path"
        )
    if text in list_models():
        return EMBEDDED / text
    path = Path(name)
    if path.is_dir():
        return path
    raise ModelError(
        f"{text}: no such model; give a model folder or one of {', '.join(list_models()) or '(none embedded)'}"
    )
