"""Neural audio codec and speech tokenizer: speech in, a few hundred integers a second out, speech back.

>>> import codec
>>> model = codec.load()
>>> codes = model.encode([[0.0] * 16000][0])
>>> codes.data.shape
(8, 52)
"""

from codec.api import Model, load
from codec.audio import read as read_audio
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
]
