"""The processor of transformers: saved, found again by AutoProcessor, audio in and out."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codec.api import Model
from codec.errors import CodesError, ModelError


@pytest.fixture(scope="module")
def transformers() -> Any:
    """Not at the top: every process that collects the tests would wait seconds for it."""
    return pytest.importorskip("transformers", reason="the extra tokens is not installed")


@pytest.fixture(scope="module")
def lm(transformers: Any) -> Any:
    """`codec.lm.processor`, known to the Auto classes."""
    module = importlib.import_module("codec.lm.processor")
    module.register()
    return module


def make_tokenizer(transformers: Any) -> Any:
    import tokenizers

    model = tokenizers.models.WordLevel({"[UNK]": 0, "hello": 1, "world": 2}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tiny_path: Path, lm: Any, transformers: Any) -> Path:
    folder = tmp_path_factory.mktemp("processor")
    tokenizer = make_tokenizer(transformers)
    lm.CodecProcessor(lm.CodecFeatureExtractor(str(tiny_path)), tokenizer).save_pretrained(folder)
    return folder


def test_auto_processor_gives_text_and_audio_as_ids_and_audio_back(
    transformers: Any, saved: Path, tiny: Model, speech: Any
) -> None:
    processor = transformers.AutoProcessor.from_pretrained(saved)
    items = [speech[:8000], speech[8000:12000]]
    batch = processor(text=["hello world", "hello"], audio=items, sampling_rate=16000, return_tensors="pt")
    layout = processor.feature_extractor.make_layout()
    codes = tiny.encode(items[1]).data
    row = batch["input_ids"][1][batch["attention_mask"][1].bool()].tolist()
    assert row == [1, *layout.arrange(codes, wrap=True).tolist()]
    assert np.array_equal(processor.decode_audio(batch["input_ids"][1]), tiny.decode(tiny.codes(codes)))
    assert len(processor.tokenizer) == layout.ids.size
    assert processor.tokenizer.decode(row[1:3]).replace(" ", "").startswith("<|audio_start|><|a0_")


def test_auto_feature_extractor_gives_the_audio_alone(
    transformers: Any, lm: Any, tmp_path: Path, tiny_path: Path, speech: Any
) -> None:
    lm.CodecFeatureExtractor(str(tiny_path), codebooks=2, first=50).save_pretrained(tmp_path)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    batch = extractor(speech[:4000], sampling_rate=16000, return_tensors="np")
    codes = extractor.make_layout().restore(batch["input_ids"][0]).codes
    assert np.array_equal(codes, extractor.load_model().encode(speech[:4000], codebooks=2).data)


def test_cut_and_wrong_ids_still_decode(transformers: Any, saved: Path, tiny: Model, speech: Any) -> None:
    processor = transformers.AutoProcessor.from_pretrained(saved)
    row = processor(audio=speech[:8000], return_tensors="np")["input_ids"][0]
    full = processor.decode_audio(row)
    assert 0 < len(processor.decode_audio(row[: len(row) // 2])) < len(full)
    row[len(row) // 2] = 2  # text within the audio
    assert 0 < len(processor.decode_audio(row)) < len(full)


def test_ids_of_other_weights_and_layouts_of_many_rows_are_refused(lm: Any, tiny_path: Path) -> None:
    with pytest.raises(ModelError, match="the processor was saved with 00000"):
        lm.CodecFeatureExtractor(str(tiny_path), weights_hash="0" * 64)
    with pytest.raises(CodesError, match="needs one row of ids"):
        lm.CodecFeatureExtractor(str(tiny_path), layout="delay")


def test_texts_and_audio_must_pair(transformers: Any, saved: Path, speech: Any) -> None:
    processor = transformers.AutoProcessor.from_pretrained(saved)
    with pytest.raises(CodesError, match="2 texts and 1 pieces"):
        processor(text=["hello", "world"], audio=speech[:4000])
    with pytest.raises(CodesError, match="give text, audio or both"):
        processor()
