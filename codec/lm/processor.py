"""Audio tokens for the transformers library: a feature extractor that runs the codec, a processor that adds text.

    register()
    processor = CodecProcessor(CodecFeatureExtractor(layout="frame"), tokenizer)
    processor.save_pretrained("mine/")
    processor = transformers.AutoProcessor.from_pretrained("mine/")
    batch = processor(text=["hello"], audio=[samples], sampling_rate=16000)
    audio = processor.decode_audio(generated_ids)

The codec itself is loaded at first use, with `codec.load`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from codec.api import Model, load
from codec.arrays import as_codes
from codec.errors import CodesError, MissingExtraError, ModelError
from codec.hub import DEFAULT
from codec.lm.vocabulary import Vocabulary, extend_tokenizer
from codec.rate import choose_codebooks
from codec.tokens import Layout, TokenIds, make_layout

try:
    from transformers import (
        AutoConfig,
        AutoFeatureExtractor,
        AutoProcessor,
        BatchFeature,
        FeatureExtractionMixin,
        PretrainedConfig,
        ProcessorMixin,
    )
except ImportError:
    raise MissingExtraError("transformers", "tokens", need="a processor") from None

_load = functools.lru_cache(maxsize=2)(load)  # an extractor is plain data for transformers, so it cannot hold a model


class CodecConfig(PretrainedConfig):
    """What the Auto classes know the codec by: `"model_type": "neural_codec"` in a config.json."""

    model_type = "neural_codec"


class CodecFeatureExtractor(FeatureExtractionMixin):
    """Audio to token ids of a layout of one row."""

    model_input_names = ("input_ids", "attention_mask")

    def __init__(
        self,
        model: str = DEFAULT,
        codebooks: int | None = None,
        layout: str = "frame",
        layout_options: Mapping[str, Any] | None = None,
        first: int = 0,
        weights_hash: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Choose model and layout; all of it goes into preprocessor_config.json.

        Args:
            model: a name or folder for `codec.load`.
            codebooks: how many to use; all when None.
            layout: frame, codebook, coarse, semantic or multirate.
            layout_options: as `codec.tokens.make_layout`.
            first: the first id of audio, behind the text's.
            weights_hash: of the model that the ids belong to; another one is refused. None takes the model's.
            kwargs: what transformers keeps in the file.
        """
        info = _load(model).info
        if weights_hash is not None and not info.knows_codes_of(info.name, weights_hash):
            text = f"weights {info.weights_hash[:12]}, the processor was saved with {str(weights_hash)[:12]}"
            raise ModelError(f"{model}: {text}; load the model that it belongs to")
        self.model, self.layout, self.first, self.weights_hash = model, layout, first, info.weights_hash
        self.codebooks = choose_codebooks(info, codebooks=codebooks)
        self.layout_options = dict(layout_options or {})
        self.sampling_rate = info.sample_rate  # the word of transformers
        super().__init__(**{name: value for name, value in kwargs.items() if name != "sampling_rate"})
        made = self.make_layout()
        if len(made.step) > 1:
            raise CodesError(f"layout {layout}: a processor needs one row of ids: frame, codebook, coarse or semantic")

    def load_model(self) -> Model:
        """The codec."""
        return _load(self.model)

    def make_layout(self) -> Layout:
        """The layout, and with it the token ids."""
        sizes = _load(self.model).info.codebook_sizes[: self.codebooks]
        return make_layout(self.layout, TokenIds(sizes, self.first), self.layout_options)

    def __call__(
        self, audio: Any, *, sampling_rate: int | None = None, return_tensors: str | None = None, **kwargs: Any
    ) -> BatchFeature:
        """Token ids of audio between audio_start and audio_end, padded behind, and the attention mask.

        Args:
            audio: float32 (samples,), or a list of such.
            sampling_rate: of the audio, Hz; the model's when None.
            return_tensors: `pt` or `np`; lists of arrays when None.
            kwargs: of other libraries' extractors; `padding` is always on.

        Raises:
            AudioError: as `Model.encode`.
        """
        items = audio if isinstance(audio, list | tuple) and np.ndim(audio[0]) else [audio]
        model, layout = self.load_model(), self.make_layout()
        arrays = [np.asarray(item, np.float32) for item in items]
        codes = [model.encode(item, sampling_rate, codebooks=self.codebooks).data for item in arrays]
        rows = [layout.arrange(item, wrap=True) for item in codes]
        return _pad(rows, layout.ids.pad, return_tensors)

    def decode_audio(self, ids: Any, *, strict: bool = False) -> np.ndarray:
        """Audio (samples,) float32 of ids (N,) as sampled: from audio_start, if there is one, to the first other id."""
        layout, model = self.make_layout(), self.load_model()
        array = as_codes(ids, "ids").ravel()
        spans = layout.ids.spans(array)
        codes = layout.restore(array[spans[0]] if spans else array, strict=strict).codes
        audio: np.ndarray = model.decode(model.codes(codes))
        return audio


class CodecProcessor(ProcessorMixin):
    """A text tokenizer and the codec side by side; the audio's ids follow the text's."""

    def __init__(self, feature_extractor: CodecFeatureExtractor, tokenizer: Any) -> None:
        """Take both. A tokenizer that lacks the audio tokens gets them; the extractor's `first` follows.

        Raises:
            CodesError: the tokenizer has them under other ids.
        """
        ids = feature_extractor.make_layout().ids
        known, names = tokenizer.get_vocab(), Vocabulary(ids).ids_by_name
        if not any(name in known for name in names):
            feature_extractor.first = extend_tokenizer(tokenizer, ids.codebook_sizes).ids.first
        elif any(known.get(name) != i for name, i in names.items()):
            raise CodesError(
                "processor: the tokenizer has audio tokens under other ids; give the extractor its `first`"
            )
        super().__init__(feature_extractor, tokenizer)

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        audio: Any = None,
        *,
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Ids of text, of audio, or of each text followed by its audio.

        Raises:
            CodesError: neither of them, or not one audio per text.
        """
        layout = self.feature_extractor.make_layout()
        if text is None and audio is None:
            raise CodesError("processor: give text, audio or both")
        texts = [text] if isinstance(text, str) else list(text or [])
        rows = [np.asarray(self.tokenizer(item, **kwargs)["input_ids"], np.int64) for item in texts]
        if audio is not None:
            heard = self.feature_extractor(audio, sampling_rate=sampling_rate, return_tensors="np")
            spoken = [
                ids[keep.astype(bool)] for ids, keep in zip(heard["input_ids"], heard["attention_mask"], strict=True)
            ]
            if texts and len(texts) != len(spoken):
                raise CodesError(f"processor: {len(texts)} texts and {len(spoken)} pieces of audio; give one each")
            rows = [np.concatenate(pair) for pair in zip(rows, spoken, strict=True)] if texts else spoken
        return _pad(rows, layout.ids.pad, return_tensors)

    def decode_audio(self, ids: Any, *, strict: bool = False) -> np.ndarray:
        """As `CodecFeatureExtractor.decode_audio`."""
        audio: np.ndarray = self.feature_extractor.decode_audio(ids, strict=strict)
        return audio


def register() -> None:
    """Make the names known to AutoConfig, AutoFeatureExtractor and AutoProcessor of this process."""
    AutoConfig.register(CodecConfig.model_type, CodecConfig, exist_ok=True)
    AutoFeatureExtractor.register(CodecConfig, CodecFeatureExtractor, exist_ok=True)
    AutoProcessor.register(CodecConfig, CodecProcessor, exist_ok=True)


def _pad(rows: Sequence[Any], pad: int, return_tensors: str | None) -> BatchFeature:
    longest = max((len(row) for row in rows), default=0)
    ids = [np.pad(row, (0, longest - len(row)), constant_values=pad) for row in rows]
    masks = [np.arange(longest) < len(row) for row in rows]
    data = {"input_ids": ids, "attention_mask": [mask.astype(np.int64) for mask in masks]}
    if return_tensors is not None:
        data = {name: np.stack(value) for name, value in data.items()}  # type: ignore[misc]
    return BatchFeature(data, tensor_type=return_tensors)
