"""What there is to tokenize: every kind of source gives the same utterances in the same order each time."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from codec.audio import read
from codec.corpus.reading import Reader
from codec.corpus.sources import list_utterances
from codec.corpus.utterance import Place, Utterance, from_line, to_line
from codec.errors import AudioError, CorpusError

FIXTURES = Path(__file__).parent / "fixtures"


def make_wav(path: Path, seconds: float = 0.5, *, seed: int = 0, channels: int = 1, rate: int = 16000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).normal(0, 0.1, (round(seconds * rate), channels))
    soundfile.write(path, samples, rate, subtype="PCM_16")
    return path


def listed(source: Path | str, root: Path | None = None) -> list[Utterance]:
    return list(list_utterances(str(source), None if root is None else str(root)))


def audio_of(item: Utterance, rate: int = 16000) -> Any:
    return np.concatenate(list(Reader(rate).chunks(item)), axis=1)


def test_a_folder_gives_its_audio_files_by_name_with_ids_relative_to_it(tmp_path: Path) -> None:
    for name in ("b/2.wav", "a.wav", "b/1.x.wav", "b/c/0.wav"):
        make_wav(tmp_path / name)
    (tmp_path / "b" / "notes.txt").write_text("no audio")
    items = listed(tmp_path)
    assert [item.id for item in items] == ["a", "b/1.x", "b/2", "b/c/0"]
    assert [item.seconds for item in items] == [0.5] * 4


def test_links_are_followed_but_their_names_stay_and_circles_end(tmp_path: Path) -> None:
    make_wav(tmp_path / "real" / "x.wav")
    (tmp_path / "src" / "deep").mkdir(parents=True)
    os.symlink(tmp_path / "real", tmp_path / "src" / "link")
    os.symlink(tmp_path / "src", tmp_path / "src" / "deep" / "circle")
    os.symlink(tmp_path / "real" / "x.wav", tmp_path / "src" / "y.wav")
    assert [item.id for item in listed(tmp_path / "src")] == ["link/x", "y"]


def test_a_glob_gives_ids_relative_to_its_fixed_part(tmp_path: Path) -> None:
    for name in ("a/1.wav", "b/2.wav", "b/3.flac"):
        make_wav(tmp_path / name)
    assert [item.id for item in listed(f"{tmp_path}/*/*.wav")] == ["a/1", "b/2"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_a_manifest_gives_ids_texts_and_passes_the_rest_through(tmp_path: Path, suffix: str) -> None:
    make_wav(tmp_path / "clips" / "1.wav")
    rows = [
        {"path": "clips/1.wav", "sentence": 'he said "no', "age": "20"},
        {"path": "clips/gone.wav", "sentence": "", "age": "30"},
    ]
    manifest = tmp_path / f"m{suffix}"
    if suffix == ".jsonl":
        manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif suffix == ".csv":
        manifest.write_text('path,sentence,age\nclips/1.wav,"he said ""no",20\nclips/gone.wav,,30\n')
    else:
        manifest.write_text("".join("\t".join(row) + "\n" for row in [list(rows[0]), *(r.values() for r in rows)]))
    first, second = listed(manifest)
    assert (first.id, first.text, first.fields, first.seconds) == ("clips/1", 'he said "no', {"age": "20"}, 0.5)
    assert (second.id, second.text, second.seconds) == ("clips/gone", None, 0.0)
    with pytest.raises(AudioError, match="no such file"):
        audio_of(second)


def test_a_manifest_of_sections_gives_their_samples_and_its_own_ids(tmp_path: Path) -> None:
    wav = make_wav(tmp_path / "long.wav", 2.0)
    lines = [
        {"id": "x", "audio_filepath": "long.wav", "offset": 0.25, "duration": 0.5, "text": "one"},
        {"id": "y", "audio_filepath": "long.wav", "duration": 2.0},
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    section, whole = listed(tmp_path / "m.jsonl")
    samples = read(wav)[0]
    assert np.array_equal(audio_of(section), samples[:, 4000:12000])
    assert np.array_equal(audio_of(whole), samples)
    assert (section.id, section.seconds, whole.seconds) == ("x", 0.5, 2.0)


def test_a_section_of_a_compressed_file_is_that_of_the_whole(tmp_path: Path) -> None:
    samples, rate = read(FIXTURES / "demo.flac")
    for name in ("x.ogg", "x.flac"):
        soundfile.write(tmp_path / name, samples[0], rate)
        whole = audio_of(Utterance("x", Place(str(tmp_path / name))))
        part = audio_of(Utterance("x", Place(str(tmp_path / name), start=1.0, end=3.5)))
        assert np.array_equal(part, whole[:, 16000:56000])


@pytest.mark.parametrize(("start", "end"), [(3.0, None), (1.0, 3.0), (1.0, 1.0), (-1.0, 1.0)])
def test_a_section_that_is_not_in_the_file_is_said_so(tmp_path: Path, start: float, end: float | None) -> None:
    wav = make_wav(tmp_path / "x.wav", 2.0)
    with pytest.raises(AudioError, match=r"x\.wav"):
        audio_of(Utterance("x", Place(str(wav), start=start, end=end)))


def test_kaldi_segments_give_sections_texts_and_speakers(tmp_path: Path) -> None:
    wav = make_wav(tmp_path / "r.wav", 2.0, channels=2)
    (tmp_path / "wav.scp").write_text(f"rec1 {wav}\nrec2 sph2pipe -f wav x.sph |\n")
    (tmp_path / "segments").write_text("u1 rec1 0.5 1.0 1\nu2 rec1 1.5 -1\nu3 rec2 0 1\n")
    (tmp_path / "text").write_text("u1 hello you\n")
    (tmp_path / "utt2spk").write_text("u1 ann\n")
    one, two, three = listed(tmp_path)
    samples = read(wav)[0]
    assert (one.id, one.text, one.fields, one.seconds) == ("u1", "hello you", {"speaker": "ann"}, 0.5)
    assert np.array_equal(audio_of(one), samples[1:, 8000:16000])
    assert np.array_equal(audio_of(two), samples[:, 24000:].mean(axis=0, keepdims=True))
    assert two.seconds == 0.5
    with pytest.raises(AudioError, match="commands of a file are not run"):
        audio_of(three)


def test_kaldi_without_segments_gives_whole_recordings(tmp_path: Path) -> None:
    make_wav(tmp_path / "audio" / "r.wav")
    (tmp_path / "wav.scp").write_text("rec1 audio/r.wav\n")
    (item,) = listed(tmp_path / "wav.scp", tmp_path)
    assert (item.id, audio_of(item).shape) == ("rec1", (1, 8000))


def test_lhotse_cuts_give_sections_texts_and_speakers(tmp_path: Path) -> None:
    wav = make_wav(tmp_path / "r.wav", 2.0)
    recording = {
        "id": "r",
        "sources": [{"type": "file", "channels": [0], "source": str(wav)}],
        "sampling_rate": 16000,
        "num_samples": 32000,
        "duration": 2.0,
        "channel_ids": [0],
    }
    spoken = {"id": "s", "recording_id": "r", "start": 0, "duration": 0.5, "channel": 0, "text": "hi", "speaker": "bo"}
    cut = {"id": "c", "start": 0.5, "duration": 0.5, "channel": 0, "supervisions": [spoken], "recording": recording}
    mixed = {"id": "d", "tracks": [], "type": "MixedCut"}
    with gzip.open(tmp_path / "cuts.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(data) + "\n" for data in (cut | {"type": "MonoCut"}, mixed))
    one, two = listed(tmp_path / "cuts.jsonl.gz")
    assert (one.id, one.text, one.fields, one.seconds) == ("c", "hi", {"speaker": "bo"}, 0.5)
    assert np.array_equal(audio_of(one), read(wav)[0][:, 8000:16000])
    assert two.problem is not None
    assert "MixedCut" in two.problem


def test_a_tar_gives_its_samples_with_the_fields_of_their_json(tmp_path: Path) -> None:
    wav = make_wav(tmp_path / "in.wav").read_bytes()
    members = {
        "d/a.wav": wav,
        "d/a.json": b'{"speaker": 7}',
        "d/a.txt": b"hello\n",
        "d/b.png": b"no audio",
        "d/c.1.wav": wav,
        "d/e.wav": wav,
        "d/e.json": b'{"id": "own", "duration": 2.5}',
    }
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    one, two = listed(tmp_path / "x.tar")
    assert (one.id, one.text, one.fields) == ("d/a", "hello", {"speaker": 7})
    assert (two.id, two.seconds) == ("own", 2.5)
    assert np.array_equal(audio_of(one), read(tmp_path / "in.wav")[0])
    assert [item.id for item in listed(tmp_path)] == ["in", "x/d/a", "own"]


def test_parquet_with_audio_bytes_gives_its_rows(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    wav = make_wav(tmp_path / "in.wav").read_bytes()
    audio = [{"bytes": wav, "path": f"{i}.wav"} for i in range(4)] + [{"bytes": None, "path": "gone.wav"}]
    table = pa.table({"audio": audio, "sentence": list("abcde"), "speaker": [1, 2, None, 4, 5]})
    parquet.write_table(table, tmp_path / "x.parquet", row_group_size=3)
    items = listed(tmp_path / "x.parquet")
    assert [item.id for item in items] == [f"{i:06d}" for i in range(5)]
    assert [item.text for item in items] == list("abcde")
    assert [item.fields for item in items] == [{"speaker": 1}, {"speaker": 2}, {}, {"speaker": 4}, {"speaker": 5}]
    assert [item.place.group for item in items] == [0, 0, 0, 1, 1]
    assert np.array_equal(audio_of(items[3]), read(tmp_path / "in.wav")[0])
    with pytest.raises(AudioError, match="no bytes"):
        audio_of(items[4])
    parquet.write_table(pa.table({"audio": [wav, wav]}), tmp_path / "y.parquet")
    assert [audio_of(item).shape for item in listed(tmp_path / "y.parquet")] == [(1, 8000)] * 2


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("m.csv", b"name,text\na,b\n", "no column of paths"),
        ("m.jsonl", b"{", "line 1: not JSON"),
        ("m.jsonl", b"[]\n", "not an object"),
        ("m.jsonl", b'{"text": "x"}\n', "no path"),
        ("m.jsonl", b'{"path": "x", "duration": "nan"}\n', "seconds"),
        ("m.jsonl", b'{"path": "\xff"}\n', "UTF-8"),
        ("m.jsonl.gz", b"no gzip", "cannot be read"),
        ("m.tar", b"no tar" * 200, "tar"),
        ("m.parquet", b"no parquet", "Parquet"),
        ("wav.scp", b"rec\n", "no path behind rec"),
        ("m.docx", b"", "neither audio nor a manifest"),
    ],
)
def test_a_source_that_cannot_be_read_is_one_line_that_says_why(
    tmp_path: Path, name: str, content: bytes, why: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=why) as caught:
        listed(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_no_utf8_survives_the_plan() -> None:
    item = Utterance("a\udcff", Place("/x/a\udcff.wav"), fields={"n": 1})
    assert from_line(to_line(item).encode("ascii")) == item
