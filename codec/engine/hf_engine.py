"""The engine of models that run in transformers' own classes: X-Codec and X-Codec 2.

Nothing streams: both look at the whole signal. Every row runs alone, so that it gives what it gives alone.

Source: Ye et al. 2024 (X-Codec) and 2025 (X-Codec 2); the classes and names of `transformers` 5.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from codec.config import ModelConfig, ModelInfo, Part
from codec.engine import TRANSFORMERS, Audio, Codes, State
from codec.engine.torch_engine import find_device
from codec.errors import CodesError, ModelError
from codec.modelfolder import ModelFolder

# What our engine takes from a stranger's config, and what its class may raise on it.
DAMAGED = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError, SafetensorError)


class HfEngine:
    """Runs a model with its class of transformers, in float32, on a device."""

    def __init__(self, folder: ModelFolder, *, device: str = "cpu") -> None:
        self.device = find_device(device)
        self.info = folder.info
        self.model, config = _load(folder)
        self.model.to(self.device)
        made = describe(config, folder.info.name, folder.info.licence)
        for name in ("sample_rate", "hop_length", "codebook_sizes", "prefixes"):
            if getattr(made, name) != getattr(folder.info, name):
                said = f"{getattr(folder.info, name)}, its network has {getattr(made, name)}"
                raise ModelError(f"{folder.path / 'model.json'}: {name} is {said}; install the model again")
        self._features = FEATURES[config.model_type]

    @property
    def name(self) -> str:
        """`transformers`."""
        return TRANSFORMERS

    def init_encoder(self, batch: int) -> State:
        """As `Engine`; nothing is remembered."""
        return ()

    def init_decoder(self, batch: int) -> State:
        """As `Engine`; nothing is remembered."""
        return ()

    @torch.inference_mode()
    def encode_step(self, audio: Audio, state: State, n_codebooks: int) -> tuple[Codes, State]:
        """As `Engine`, of whole signals."""
        rows = [self._encode_row(row[0], n_codebooks) for row in np.asarray(audio, np.float32)]
        return np.stack(rows), state

    @torch.inference_mode()
    def decode_step(self, codes: Codes, state: State) -> tuple[Audio, State]:
        """As `Engine`, of whole signals. Raises: CodesError: codes of -1."""
        if codes.min(initial=0) < 0:
            raise CodesError(f"{self.info.name}: decodes no frames of fewer codebooks; encode without variable")
        rows = [self._decode_row(row) for row in np.asarray(codes, np.int64)]
        return np.stack(rows), state

    def _encode_row(self, audio: Audio, n_codebooks: int) -> Codes:
        """Audio (n * hop_length,) to codes (Q, n)."""
        n_frames = len(audio) // self.info.hop_length
        x = torch.from_numpy(audio)[None, None].to(self.device)
        further = {key: value.to(self.device) for key, value in self._features(audio).items()}
        with self._explained():
            codes: Codes = self.model.encode(x, **further).audio_codes[0].cpu().numpy()
        if codes.shape != (self.info.codebooks, n_frames):
            raise ModelError(f"{self.info.name}: gives codes of shape {codes.shape} for {n_frames} frames")
        return codes[:n_codebooks]

    def _decode_row(self, codes: Codes) -> Audio:
        """Codes (Q, n) to audio (1, n * hop_length)."""
        n_samples = codes.shape[1] * self.info.hop_length
        with self._explained():
            found = self.model.decode(torch.from_numpy(codes)[None].to(self.device)).audio_values
        audio: Audio = found.reshape(-1).cpu().numpy()
        if len(audio) != n_samples:
            raise ModelError(f"{self.info.name}: gives {len(audio)} samples for {codes.shape[1]} frames")
        return audio[None]

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """What a class raises, in one line."""
        try:
            yield
        except (RuntimeError, ValueError) as error:
            reason = _first_line(error)
            raise ModelError(f"{self.info.name}: transformers refuses it ({reason}); is the audio too short?") from None


def no_features(audio: Audio) -> Mapping[str, Tensor]:
    """X-Codec takes audio alone."""
    return {}


def mel_features(audio: Audio) -> Mapping[str, Tensor]:
    """The mel spectrogram (1, n, 160) that X-Codec 2 takes beside audio (n * 320,) at 16 kHz.

    Where a length is a whole number of frames, its own feature extractor adds one frame; there is none here.

    Source: Xcodec2FeatureExtractor of `transformers` 5, whose mel spectrogram is that of SeamlessM4T.
    """
    extractor = transformers.SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80, padding_value=1.0, stride=2)
    padded = np.pad(audio, (160, 160))  # half a frame
    found = extractor(padded, sampling_rate=16000, return_tensors="pt", pad_to_multiple_of=2)
    return {"input_features": found["input_features"]}


FEATURES: dict[str, Callable[[Audio], Mapping[str, Tensor]]] = {"xcodec": no_features, "xcodec2": mel_features}
CLASSES = {"xcodec": "XcodecModel", "xcodec2": "Xcodec2Model"}


def describe(config: Any, name: str, licence: str) -> ModelInfo:
    """What a configuration of transformers says of its model.

    Args:
        config: an `XcodecConfig` or `Xcodec2Config`.
        name: of the model.
        licence: of its weights.
    """
    if config.model_type == "xcodec2":
        sample_rate, sizes = config.sampling_rate, (math.prod(config.quantization_levels),)
    else:
        sample_rate, sizes = config.sample_rate, (config.codebook_size,) * config.num_quantizers
    return ModelInfo(
        name=name,
        sample_rate=sample_rate,
        hop_length=config.hop_length,
        delay=0,
        codebook_sizes=sizes,
        divisors=(1,) * len(sizes),
        prefixes=tuple(range(1, len(sizes) + 1)),
        parameters={},
        licence=licence,
        causal=False,
        encoder_lookahead=None,
        decoder_lookahead=None,
    )


def read_config(settings: Mapping[str, Any], where: str) -> Any:
    """The configuration that a `config.json` holds.

    Raises:
        ModelError: of another model, or refused by transformers.
    """
    kind = settings.get("model_type")
    if kind not in CLASSES:
        raise ModelError(f"{where}: model_type {kind!r} is not run with transformers; known are {', '.join(CLASSES)}")
    try:
        return transformers.AutoConfig.for_model(**dict(settings))
    except (*DAMAGED, StrictDataclassError) as error:
        raise ModelError(f"{where}: transformers refuses it ({_first_line(error)})") from None


def model_config(settings: Mapping[str, Any], info: ModelInfo) -> ModelConfig:
    """The configuration that a model folder keeps: the whole `config.json`, as options of its encoder."""
    part = Part(TRANSFORMERS)
    return ModelConfig(Part(TRANSFORMERS, dict(settings)), part, part, info.sample_rate, info.hop_length)


def _load(folder: ModelFolder) -> tuple[Any, Any]:
    """The model, with every weight and no other, and its configuration. Raises: ModelError."""
    where = str(folder.path / "model.json")
    config = read_config(folder.config.encoder.options, where)
    try:
        weights = load_file(folder.weights_path)
        with _quiet():
            model, found = getattr(transformers, CLASSES[config.model_type]).from_pretrained(
                None, config=config, state_dict=weights, output_loading_info=True
            )
    except DAMAGED as error:
        reason = _first_line(error)
        raise ModelError(
            f"{folder.weights_path}: transformers refuses it ({reason}); install the model again"
        ) from None
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found[what]:
            first = min(map(str, found[what]))
            raise ModelError(f"{folder.weights_path}: {what.replace('_', ' ')}: {first}; it is of another network")
    return model.float().eval().requires_grad_(False), config


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar and no report on stderr: what is wrong is an error."""
    log = transformers.utils.logging
    level, is_shown = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if is_shown:
            log.enable_progress_bar()
