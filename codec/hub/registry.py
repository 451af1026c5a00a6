"""The known models by name: `registry.json` of the package, and one of the user's own.

A registry is a JSON object with `format` (1) and `models`, a list of `Entry` as plain data. It states what a public
source states; what nobody states is null, and what a model's own folder says (of models inside the package: all) is not
repeated. `registry.json` in the cache folder adds names, for example of a team's own models; it cannot change those of
the package.

>>> [entry.name for entry in read_registry(PACKAGED) if entry.is_packaged]
['default_16k']
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from codec.config import from_dict
from codec.errors import ConfigError, ModelError

FORMAT = 1
PACKAGED = Path(__file__).parent / "registry.json"
IN_PACKAGE = "package"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PLACE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*/)*[A-Za-z0-9][A-Za-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BEGIN_OF_SHA256 = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True)
class Entry:
    """What is known of a model before it is here.

    Raises:
        ConfigError: a name, hash or place of a file that cannot be.
    """

    name: str
    source: str  # `package`, hf://org/repo, or the https:// address of a folder, or of a page where `by_hand`
    about: str = ""  # one line for people
    revision: str | None = None  # of a hub's repository: a commit, tag or branch
    size_bytes: int | None = None  # of all files; as rounded as its source states it
    licence: str | None = None  # SPDX name; of the weights
    sha256: str | None = None  # of model.json, which names the hashes of the other files; None where nobody states it
    extra: str | None = None  # the extra of neural-codec without which it does not run
    system: str = "codec"  # what reads the files: `codec` is a model folder with a model.json, else a converter's name
    files: dict[str, str | None] | None = (
        None  # of another system: each file's place, and as much of its SHA-256 as stated
    )
    by_hand: bool = False  # only a browser gets the checkpoint, from a page; then `codec convert --from` the system

    def __post_init__(self) -> None:
        """Check what can be checked without a network."""
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"name {self.name!r:.80}: use letters, digits, dots, dashes and underlines")
        if self.sha256 is not None and not _SHA256.fullmatch(self.sha256):
            raise ConfigError(f"{self.name}: sha256 {self.sha256!r:.80} is not 64 hexadecimal digits")
        if self.by_hand and (self.system == "codec" or not self.source.startswith("https://")):
            raise ConfigError(f"{self.name}: by_hand goes with the https:// address of a page, and a system")
        lists_files = self.system != "codec" and not self.by_hand
        if lists_files == (self.files is None) or (self.files is not None and self.sha256 is not None):
            raise ConfigError(f"{self.name}: files are listed of other systems; a model folder lists its own")
        for place, digest in (self.files or {}).items():
            if not _PLACE.fullmatch(place):
                raise ConfigError(f"{self.name}: {place!r:.80} is no plain path of a file")
            if digest is not None and not _BEGIN_OF_SHA256.fullmatch(digest):
                raise ConfigError(f"{self.name}: sha256 {digest!r:.80} is not 8 to 64 hexadecimal digits")
        if self.files is not None and all(place.endswith(".json") for place in self.files):
            raise ConfigError(f"{self.name}: files without weights; list them")

    @property
    def is_packaged(self) -> bool:
        """Whether it lies inside the package."""
        return self.source == IN_PACKAGE

    @property
    def address(self) -> str:
        """`source` with revision and hash, as `codec.load` takes it."""
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.source}{revision}" + (f"#sha256={self.sha256}" if self.sha256 else "")


def read_registry(path: Path) -> list[Entry]:
    """The entries of one registry file.

    Raises:
        ModelError: not such a file, of a later format, or a wrong entry, named.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as a registry ({error}); mend or remove it") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT or not isinstance(data.get("models"), list):
        raise ModelError(f"{path}: not a registry of format {FORMAT}; mend or remove it, or upgrade codec")
    try:
        return [from_dict(Entry, item, where=f"models[{i}]") for i, item in enumerate(data["models"])]
    except ConfigError as error:
        raise ModelError(f"{path}: {error}; mend or remove it") from None


def known_models(own: Path | None = None) -> dict[str, Entry]:
    """Name to entry: those of the package, then those of the user's own file `own`, where there is one.

    Raises:
        ModelError: a wrong registry, or a name that stands twice.
    """
    entries = [(PACKAGED, entry) for entry in read_registry(PACKAGED)]
    if own is not None and own.is_file():
        entries += [(own, entry) for entry in read_registry(own)]
    known: dict[str, Entry] = {}
    for path, entry in entries:
        if entry.name in known:
            raise ModelError(f"{path}: {entry.name} is the name of another model already; choose another one")
        known[entry.name] = entry
    return known
