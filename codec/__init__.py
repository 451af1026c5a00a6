"""Neural audio codec and speech tokenizer: speech in, a few hundred integers a second out, speech back.

>>> import codec
>>> model = codec.load()
>>> codes = model.encode([0.0] * 16000)
>>> codes.data.shape
(8, 52)
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codec.api import Model, load
    from codec.audio import read as read_audio
    from codec.audiowriter import write_audio
    from codec.codes import Codes
    from codec.codes import open_codes as open  # noqa: A004, codec.open("x.codes") as wave.open
    from codec.config import ModelInfo
    from codec.errors import CodecError
    from codec.hub import list_models
    from codec.stream import StreamDecoder, StreamEncoder
    from codec.stream.rows import StreamDecoders, StreamEncoders

__version__ = "0.1.0"
__all__ = [
    "CodecError",
    "Codes",
    "Model",
    "ModelInfo",
    "StreamDecoder",
    "StreamDecoders",
    "StreamEncoder",
    "StreamEncoders",
    "__version__",
    "list_models",
    "load",
    "open",
    "read_audio",
    "write_audio",
]

# From 1.29 on, onnxruntime tells its maker of every process and model, and keeps an id of the machine on the disk,
# unless this is set before it begins. Whoever wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Imported when first asked for: the command line then starts, and listens to Ctrl-C, before numpy comes in.
_PLACES = {
    "CodecError": "errors.CodecError",
    "Codes": "codes.Codes",
    "Model": "api.Model",
    "ModelInfo": "config.ModelInfo",
    "StreamDecoder": "stream.StreamDecoder",
    "StreamDecoders": "stream.rows.StreamDecoders",
    "StreamEncoder": "stream.StreamEncoder",
    "StreamEncoders": "stream.rows.StreamEncoders",
    "list_models": "hub.list_models",
    "load": "api.load",
    "open": "codes.open_codes",
    "read_audio": "audio.read",
    "write_audio": "audiowriter.write_audio",
}

if not TYPE_CHECKING:  # else a misspelt name would have a type

    def __getattr__(name: str) -> Any:
        """A public name. Source: PEP 562."""
        module, _, attribute = _PLACES.get(name, "").rpartition(".")
        if not module:
            raise AttributeError(f"module 'codec' has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(f"codec.{module}"), attribute)
        return value

    def __dir__() -> list[str]:
        """The public names, and what has been imported."""
        return sorted({*globals(), *__all__})
