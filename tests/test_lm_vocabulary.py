"""Audio tokens as text and as entries of a text tokenizer; byte-pair merges over them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.errors import CodesError
from codec.lm.merges import load_merges, train_merges
from codec.lm.vocabulary import Vocabulary, extend_tokenizer, load_vocabulary
from codec.tokens import TokenIds


def make_tokenizer() -> Any:
    model = tokenizers.models.WordLevel({"[UNK]": 0, "hello": 1, "world": 2}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return tokenizer


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(5, 5 + 30 + 6 - 1)), st.sampled_from(["<|a{codebook}_{code}|>", "{codebook}:{code};"]))
def test_text_is_the_inverse_of_tokens(tokens: list[int], pattern: str) -> None:
    vocabulary = Vocabulary(TokenIds((10, 20), first=5), pattern)
    assert vocabulary.from_text(vocabulary.to_text(tokens)).tolist() == tokens


def test_text_around_audio_tokens_is_passed_over() -> None:
    vocabulary = Vocabulary(TokenIds((600,)))
    assert vocabulary.from_text("say <|audio_start|><|a0_512|> and <|a0_900|>").tolist() == [604, 512]


def test_an_id_without_a_name_is_named_with_its_position() -> None:
    with pytest.raises(CodesError, match=r"tokens\[1\] = 99: ids of audio tokens are 0 to 15"):
        Vocabulary(TokenIds((10,))).to_text([3, 99])


@pytest.mark.parametrize(("code", "message"), [("<a>", "expected the fields"), ("<a{code}>", "give a name twice")])
def test_patterns_that_do_not_tell_tokens_apart_are_refused(code: str, message: str) -> None:
    with pytest.raises(CodesError, match=message):
        Vocabulary(TokenIds((4, 4)), code)


def test_an_extended_tokenizer_reads_the_text_form_as_our_ids() -> None:
    tokenizer = make_tokenizer()
    vocabulary = extend_tokenizer(tokenizer, (16, 16))
    assert vocabulary.ids.first == 3
    assert tokenizer.get_vocab_size() == vocabulary.ids.size
    tokens = [vocabulary.ids.audio_start, 3, 3 + 16 + 7, vocabulary.ids.audio_end]
    assert tokenizer.encode("hello" + vocabulary.to_text(tokens)).ids == [1, *tokens]


def test_a_tokenizer_is_not_extended_twice() -> None:
    tokenizer = make_tokenizer()
    extend_tokenizer(tokenizer, (16, 16))
    with pytest.raises(CodesError, match=r"has '<\|a0_0\|>' already"):
        extend_tokenizer(tokenizer, (16, 16))


def test_the_mapping_file_gives_the_vocabulary_back(tmp_path: Path) -> None:
    vocabulary = Vocabulary(TokenIds((4, 8), first=7), "[{codebook}.{code}]", "[{name}]")
    vocabulary.save(tmp_path / "audio_tokens.json")
    assert load_vocabulary(tmp_path / "audio_tokens.json") == vocabulary
    assert json.loads((tmp_path / "audio_tokens.json").read_text())["ids"]["[1.3]"] == 7 + 4 + 3


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2}', '{"format": 1, "codebook_sizes": 3}'])
def test_a_damaged_mapping_file_is_one_clear_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "audio_tokens.json"
    path.write_text(text)
    with pytest.raises(CodesError, match=r"audio_tokens\.json: "):
        load_vocabulary(path)


def test_a_mapping_file_whose_ids_were_edited_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "audio_tokens.json"
    Vocabulary(TokenIds((4,))).save(path)
    path.write_text(path.read_text().replace('"<|a0_1|>": 1', '"<|a0_1|>": 2'))
    with pytest.raises(CodesError, match="its ids are not those of its settings"):
        load_vocabulary(path)


def test_merges_shorten_what_repeats_and_give_it_back_exactly(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = [rng.integers(0, 1030, 6) for _ in range(8)]
    sequences = [np.concatenate([words[i] for i in rng.integers(0, 8, 20)]) for _ in range(10)]
    merges = train_merges(sequences, n_ids=1030, size=1100)
    short = merges.encode(sequences[0])
    assert len(short) < len(sequences[0]) / 3
    assert short.max() < merges.size <= 1100
    assert np.array_equal(merges.decode(short), sequences[0])
    assert np.array_equal(merges.decode(short[:3]), sequences[0][: len(merges.decode(short[:3]))])
    unseen = rng.integers(0, 1030, 50)
    assert np.array_equal(merges.decode(merges.encode(unseen)), unseen)
    merges.save(tmp_path / "merges.json")
    again = load_merges(tmp_path / "merges.json")
    assert again.n_ids == 1030
    assert np.array_equal(again.encode(sequences[1]), merges.encode(sequences[1]))


def test_merges_name_what_they_do_not_know(tmp_path: Path) -> None:
    merges = train_merges([np.array([1, 2, 1, 2])], n_ids=4, size=5)
    with pytest.raises(CodesError, match=r"tokens\[1\] = 4: the merges know ids 0 to 3"):
        merges.encode([0, 4])
    with pytest.raises(CodesError, match=r"merged tokens\[0\] = 5: ids are 0 to 4"):
        merges.decode([5])
    (tmp_path / "merges.json").write_text("{}")
    with pytest.raises(CodesError, match="no file of merges"):
        load_merges(tmp_path / "merges.json")
