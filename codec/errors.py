"""Every error that `codec` raises on purpose, in one tree.

    CodecError
    ├── ConfigError        a recipe or model configuration that cannot be (also ValueError)
    ├── AudioError         audio that cannot be read, written or coded (also ValueError)
    ├── CodesError         codes outside their range or of a wrong shape (also ValueError)
    ├── CodesFileError     a .codes file that is damaged, truncated or foreign (also ValueError)
    ├── StateError         a saved stream that is damaged or of another stream (also ValueError)
    ├── ModelError         a model that is unknown, incomplete or does not fit (also ValueError)
    ├── CorpusError        a source, plan or token folder that cannot be used (also ValueError)
    ├── TrainError         a training run that cannot go on (also RuntimeError)
    └── MissingExtraError  a package of an extra is not installed (also ImportError)

The text of each is one line: what is wrong, where, and what to do.

>>> issubclass(CodesFileError, CodecError) and issubclass(CodesFileError, ValueError)
True
"""

from __future__ import annotations


class CodecError(Exception):
    """Base of all errors that `codec` raises on purpose."""


class ConfigError(CodecError, ValueError):
    """A recipe or model configuration has an unknown key or an impossible value."""


class AudioError(CodecError, ValueError):
    """Audio is missing, empty, not audio, not finite, or of a wrong shape."""


class CodesError(CodecError, ValueError):
    """Codes are outside 0 <= code < codebook_size, or their shape does not fit the model."""


class CodesFileError(CodecError, ValueError):
    """A .codes file is damaged, truncated, of an unknown version, or not a .codes file."""


class StateError(CodecError, ValueError):
    """A saved state of a stream is damaged, cannot be made, or belongs to another kind of stream."""


class ModelError(CodecError, ValueError):
    """A model is unknown, incomplete, damaged, or not the one that a file names."""


class CorpusError(CodecError, ValueError):
    """A corpus, its plan or a folder of tokens is missing, contradictory, damaged, or of another run."""


class TrainError(CodecError, RuntimeError):
    """A training run cannot start or go on."""


class MissingExtraError(CodecError, ImportError):
    """A package that belongs to an extra of `neural-codec` is not installed."""

    def __init__(self, package: str, extra: str, *, need: str, alone: bool = False) -> None:
        # Alone: the package asks for others that need a compiler, and that what we use of it does not need.
        how = f"--no-deps {package}" if alone else f"'neural-codec[{extra}]'"
        super().__init__(f"{need} needs the package {package}: pip install {how}")
