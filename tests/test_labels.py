"""Labels of a corpus: pitch is computed once and kept, speakers and phones come from a manifest."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from codec.audiowriter import write
from codec.config import ModelConfig, Part
from codec.errors import TrainError
from codec.quality import pitch
from codec.train.data import Corpus, Entry, find_entries, load_corpus
from codec.train.labels import Labels, load_labels, normalise, read_alignment

RATE, STEP, HOP = 16000, 160, 200
MODEL = ModelConfig(Part("speaker"), Part("attributes"), Part("speaker"), sample_rate=RATE, hop_length=HOP)
ALL = {"pitch": "", "speaker": "speaker", "phones": "phones"}


def tone(path: Path, frequencies: tuple[float, ...]) -> Path:
    """A tenth of a second of each frequency; 0 is silence."""
    phase = 2 * np.pi * np.cumsum(np.repeat(frequencies, RATE // 10)) / RATE
    loud = np.repeat([0.5 if f else 0.0 for f in frequencies], RATE // 10)
    write(path, (loud * np.sin(phase))[None].astype(np.float32), RATE)
    return path


def corpus_of(folder: Path, rows: list[dict[str, str]]) -> tuple[Corpus, list[Entry]]:
    manifest = folder / "data.jsonl"
    manifest.write_text("\n".join(json.dumps(row) for row in rows))
    entries = find_entries([str(manifest)])
    corpus, _ = load_corpus([e.file for e in entries], folder / "cache", sample_rate=RATE, held_out=0.0)
    return corpus, corpus.entries(entries)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tone(tmp_path / "a.wav", (100, 200, 0))
    tone(tmp_path / "b.wav", (300, 300))
    (tmp_path / "broken.wav").write_text("no audio")
    (tmp_path / "a.lab").write_text("0 0.1 AH\n0.1\t0.15\tS\n\n")
    return tmp_path


def test_labels_stand_where_the_crop_was_cut(folder: Path) -> None:
    rows = [
        {"path": "a.wav", "speaker": "ann", "phones": "a.lab"},
        {"path": "broken.wav", "speaker": "nobody"},
        {"path": "b.wav", "speaker": "bob"},
        {"path": "b.wav"},
    ]
    corpus, entries = corpus_of(folder, rows)
    assert [entry.columns.get("speaker") for entry in entries] == ["ann", "bob", None]
    labels = load_labels(corpus, entries, ALL, MODEL, list[str]().append)
    assert (labels.classes["speaker"], labels.classes["phones"]) == (("ann", "bob"), ("AH", "S"))
    assert not labels.missing
    file, offset = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1600, 1600, 0])
    found = labels.cut(file, offset, length=8 * HOP)
    assert found["speaker"].tolist() == [0, 0, 1, -1]
    assert found["phones"].tolist()[:2] == [[0] * 8, [1] * 4 + [-1] * 4]
    assert (found["phones"][2:] == -1).all()
    low, high = found["pitch"][0, 2], found["pitch"][1, 3]
    assert float(low) == pytest.approx(-1, abs=0.35)
    assert float(high) == pytest.approx(1, abs=0.35)
    beyond = labels.cut(torch.tensor([0]), torch.tensor([3200]), length=8 * HOP)["pitch"]
    assert bool(beyond[0, 4:].isnan().all())  # silence


def test_pitch_is_kept_beside_the_speech_and_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, entries = corpus_of(folder, [{"path": "a.wav"}])
    said: list[str] = []
    first = load_labels(corpus, entries, {"pitch": ""}, MODEL, said.append)
    assert len(said) == 1
    monkeypatch.setattr(pitch, "track", None)  # a second call would fail
    again = load_labels(corpus, entries, {"pitch": ""}, MODEL, said.append)
    assert len(said) == 1
    assert first.pitch is not None
    assert again.pitch is not None
    assert torch.equal(first.pitch.nan_to_num(9), again.pitch.nan_to_num(9))


def test_what_has_no_labels_is_named_with_its_reason(folder: Path) -> None:
    corpus, entries = corpus_of(folder, [{"path": "a.wav"}])
    labels = load_labels(corpus, entries, {"speaker": "who", "phones": "phones"}, MODEL, list[str]().append)
    assert (labels.speaker, labels.phones) == (None, None)
    assert labels.missing["speaker"] == "no manifest has a column 'who'"
    assert "aligned phones" in labels.missing["phones"]


def test_a_voice_loses_its_height_and_range() -> None:
    octaves = normalise(np.array([100.0, 0.0, 400.0]))
    assert octaves[0] == pytest.approx(-1)
    assert math.isnan(octaves[1])
    assert octaves[2] == pytest.approx(1)
    assert np.abs(normalise(np.full(5, 100.0))).max() < 1e-6  # a monotone


def test_broken_labels_are_refused(folder: Path) -> None:
    (folder / "bad.lab").write_text("0 0.1\n")
    with pytest.raises(TrainError, match="expected lines BEGIN END PHONE"):
        read_alignment(folder / "bad.lab")
    with pytest.raises(TrainError, match=r"none\.lab: .*mend the manifest"):
        read_alignment(folder / "none.lab")


def test_a_cache_that_does_not_say_which_file_is_which_is_refused(folder: Path) -> None:
    corpus = Corpus(*(torch.zeros(1),) * 4, ("a",), folder / "x.pcm")
    with pytest.raises(TrainError, match=r"x\.json: does not say"):
        corpus.entries([])


def test_labels_move_together() -> None:
    labels = Labels(STEP, torch.tensor([0]), torch.tensor([1]), HOP, pitch=torch.zeros(1)).to(torch.device("meta"))
    assert labels.pitch is not None
    assert labels.pitch.device.type == labels.starts.device.type == "meta"
    assert labels.phones is None
