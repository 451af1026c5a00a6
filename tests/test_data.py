"""Training batches: what is read, what is held out, what a step sees."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from codec.errors import TrainError
from codec.train import speechpack
from codec.train.config import DataConfig
from codec.train.data import Batches, Corpus, find_audio, load_corpus
from codec.train.launch import Ranks

RATE = 16000
GOLDEN = [0.16465, 0.650205, -0.685829, -0.018747, -0.25098, 0.283121]
FIXTURES = Path(__file__).parent / "fixtures"
PLAIN = DataConfig(batch=4, gain_db=(0.0, 0.0))


def write(path: Path, samples: object, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.asarray(samples, np.float32), rate, subtype="PCM_16")
    return path


def level(value: float, seconds: float = 0.1) -> NDArray[np.float32]:
    return np.full(round(seconds * RATE), value, np.float32)


def corpus(*signals: list[float], held: tuple[int, ...] = ()) -> Corpus:
    lengths = torch.tensor([len(x) for x in signals])
    pcm = torch.cat([torch.tensor(x) for x in signals]).mul(32768).to(torch.int16)
    starts = lengths.cumsum(0) - lengths
    held_out = torch.tensor([i in held for i in range(len(signals))])
    return Corpus(pcm, starts, lengths, held_out, tuple(str(i) for i in range(len(signals))))


def batches(
    data: Corpus, config: DataConfig = PLAIN, *, length: int = 8, seed: int = 0, noise: Corpus | None = None
) -> Batches:
    return Batches(data, config, length=length, sample_rate=RATE, seed=seed, levels={2: 0.5, 4: 0.5}, noise=noise)


def speech(n: int = 4000) -> Corpus:
    generator = np.random.default_rng(0)
    return corpus(*[list(generator.uniform(-0.5, 0.5, n)) for _ in range(3)], held=(2,))


# --- sources


def test_a_folder_is_read_in_a_stable_order_whatever_its_depth(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, level(0.1)) for name in ("b.wav", "a/z.flac", "a/b/c.FLAC")]
    (tmp_path / "notes.md").write_text("no audio")
    assert find_audio([str(tmp_path)]) == sorted(paths)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.txt", "a.wav\n\nsub/b.wav\n"),
        ("m.csv", "path,split\na.wav,train\nsub/b.wav,train\nc.wav,dev\n"),
        ("m.tsv", "path\tspeaker\na.wav\tx\nsub/b.wav\ty\n"),
        ("m.jsonl", '{"path": "a.wav"}\n{"path": "sub/b.wav", "split": "train"}\n{"path": "c.wav", "split": "dev"}\n'),
        ("bom.csv", "\ufeffpath\na.wav\nsub/b.wav\n"),
        ("text.csv", 'path,text\na.wav,"two\nlines, and\u2028more"\nsub/b.wav,x\n'),
        ("text.jsonl", '{"path": "a.wav", "text": "one\u2028two\x85"}\n{"path": "sub/b.wav"}\n'),
    ],
)
def test_a_manifest_names_files_beside_itself(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert find_audio([str(tmp_path / name)]) == [tmp_path / "a.wav", tmp_path / "sub/b.wav"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.csv", "file\na.wav\n", "no column 'path'"),
        ("m.jsonl", '{"path": "a.wav"}\nnot json\n', "not a manifest"),
        ("m.jsonl", "[1, 2]\n", "not a manifest"),
        ("m.jsonl", '{"file": 1}\n', "no column 'path'"),
        ("m.txt", b"\xff\xfe\x00", "not a manifest"),
        ("m.txt", "\n", "no audio there"),
    ],
)
def test_a_wrong_manifest_is_named(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(TrainError, match=f"{name}: .*{message}"):
        find_audio([str(tmp_path / name)])


def test_a_source_without_audio_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="nowhere: no audio there"):
        find_audio([str(tmp_path / "nowhere")])
    with pytest.raises(TrainError, match="no audio there"):
        find_audio([str(tmp_path)])


# --- the corpus


def test_bad_files_are_left_out_by_name(tmp_path: Path) -> None:
    good = write(tmp_path / "good.wav", level(0.5))
    (tmp_path / "text.wav").write_text("not audio")
    (tmp_path / "empty.wav").write_bytes(b"")
    write(tmp_path / "none.wav", np.zeros(0))
    files = [tmp_path / n for n in ("good.wav", "text.wav", "empty.wav", "none.wav", "missing.wav")]
    found, problems = load_corpus(files, tmp_path / "cache", sample_rate=RATE, held_out=0.0)
    assert found.names == (good.name,)
    assert [next(f.name for f in files if f.name in line) for line in problems] == [f.name for f in files[1:]]
    with pytest.raises(TrainError, match="none of 1 files"):
        load_corpus([tmp_path / "text.wav"], tmp_path / "cache", sample_rate=RATE, held_out=0.0)


def test_files_are_mixed_down_and_resampled(tmp_path: Path) -> None:
    stereo = np.stack([level(0.5), level(-0.25)], 1)
    files = [write(tmp_path / "stereo.wav", stereo), write(tmp_path / "rate.wav", level(0.25, 0.3), 48000)]
    found, _ = load_corpus(files, tmp_path / "cache", sample_rate=RATE, held_out=0.0)
    assert found.lengths.tolist() == [1600, 1600]
    assert found.samples(0)[800] == pytest.approx(0.125 * 32768, abs=1)
    assert found.samples(1)[800] == pytest.approx(0.25 * 32768, abs=2)


def test_the_cache_is_used_again(tmp_path: Path) -> None:
    file, cache = write(tmp_path / "a.wav", level(0.5)), tmp_path / "cache"
    load_corpus([file], cache, sample_rate=RATE, held_out=0.0)
    (pcm,) = cache.glob("*.pcm")
    pcm.write_bytes(bytes(pcm.stat().st_size))
    again, _ = load_corpus([file], cache, sample_rate=RATE, held_out=0.0)
    assert again.samples(0)[5] == 0
    write(file, level(-0.5, 0.2))
    new, _ = load_corpus([file], cache, sample_rate=RATE, held_out=0.0)
    assert new.samples(0)[5] == -16384


def test_other_files_of_the_same_names_and_sizes_do_not_share_a_cache(tmp_path: Path) -> None:
    """As the cuts of equal length of two corpora are called, or a file that was replaced."""
    files = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        files.append(write(tmp_path / name / "0001.wav", level(0.5 if name == "one" else -0.5)))
    first, second = (load_corpus([file], tmp_path, sample_rate=RATE, held_out=0.0)[0] for file in files)
    assert (first.samples(0)[5], second.samples(0)[5]) == (16384, -16384)


def test_runs_that_fill_one_cache_at_the_same_time_do_not_write_into_each_other(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{i}.wav", level(i / 64)) for i in range(30)]
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(load_corpus, files, tmp_path, sample_rate=RATE, held_out=0.0) for _ in range(4)]
        for made in runs:
            found = made.result()[0]
            assert [found.samples(i)[5] for i in range(30)] == [512 * i for i in range(30)]
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("damage", ["index cut", "samples cut", "samples missing", "index missing"])
def test_a_half_written_cache_is_made_again(tmp_path: Path, damage: str) -> None:
    file, cache = write(tmp_path / "a.wav", level(0.5)), tmp_path / "cache"
    load_corpus([file], cache, sample_rate=RATE, held_out=0.0)
    (index,), (pcm,) = cache.glob("*.json"), cache.glob("*.pcm")
    if damage == "index cut":
        index.write_bytes(index.read_bytes()[:10])
    elif damage == "samples cut":
        pcm.write_bytes(pcm.read_bytes()[:10])
    else:
        (pcm if damage == "samples missing" else index).unlink()
    again, _ = load_corpus([file], cache, sample_rate=RATE, held_out=0.0)
    assert again.samples(0).tolist() == [16384] * 1600


def test_the_held_out_share_is_chosen_by_name_alone(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{i}.wav", level(0.1, 0.01)) for i in range(40)]
    found, _ = load_corpus(files, tmp_path / "a", sample_rate=RATE, held_out=0.3)
    back, _ = load_corpus(files[::-1], tmp_path / "b", sample_rate=RATE, held_out=0.3)
    assert 0 < int(found.held_out.sum()) < 30
    assert back.held_out.flip(0).tolist() == found.held_out.tolist()


def test_one_file_trains_and_measures(tmp_path: Path) -> None:
    found, _ = load_corpus([write(tmp_path / "a.wav", level(0.5))], tmp_path, sample_rate=RATE, held_out=0.02)
    assert bool((batches(found)(0).audio == 0.5).all())
    assert bool((batches(found).held_out(2, 0.01) == 0.5).all())


# --- batches


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    a, b = batches(speech()), batches(speech())
    later = a(7)
    for step in (0, 3):
        b(step)
    assert torch.equal(later.audio, b(7).audio)
    assert torch.equal(later.levels, b(7).levels)
    assert not torch.equal(later.audio, a(8).audio)
    assert not torch.equal(later.audio, batches(speech(), seed=1)(7).audio)


def test_the_rows_of_several_processes_are_the_batch_of_one() -> None:
    config = DataConfig(batch=6, gain_db=(-12.0, 6.0), noise_share=0.5)

    def of(ranks: Ranks) -> Batches:
        data, levels = speech(), {2: 0.5, 4: 0.5}
        return Batches(data, config, length=64, sample_rate=RATE, seed=3, levels=levels, noise=speech(500), ranks=ranks)

    for step in (0, 5):
        whole, parts = of(Ranks())(step), [of(Ranks(rank, 3))(step) for rank in range(3)]
        assert [part.audio.shape for part in parts] == [(2, 1, 64)] * 3
        assert torch.equal(torch.cat([part.audio for part in parts]), whole.audio)
        assert torch.equal(torch.cat([part.levels for part in parts]), whole.levels)


def test_a_batch_is_what_it_was() -> None:
    # A change here breaks "a resumed run sees what an unbroken one sees" across versions.
    config = DataConfig(batch=2, gain_db=(-12.0, 6.0), noise_share=0.5)
    batch = batches(speech(), config, length=64, noise=speech(500))(41)
    assert batch.levels.tolist() == [4, 4]
    assert batch.audio[:, 0, :3].flatten().tolist() == pytest.approx(GOLDEN, abs=1e-5)


def test_held_out_files_are_never_in_a_training_crop_and_alone_in_a_measure() -> None:
    data = corpus([0.25] * 50, [-0.5] * 30, [0.25] * 3, [-0.5] * 2, held=(1, 3))
    sampler = batches(data)
    for step in range(200):
        assert bool((sampler(step).audio >= 0).all())
    assert bool((sampler.held_out(64, 4 / RATE) <= 0).all())


def test_every_sample_is_as_likely_whatever_its_file() -> None:
    data = corpus([0.25] * 3000, [0.5] * 1000)
    sampler = batches(data, DataConfig(batch=500, gain_db=(0.0, 0.0)))
    share = float((sampler(0).audio[:, 0, 0] == 0.25).float().mean())
    assert share == pytest.approx(0.75, abs=0.06)


def test_a_short_file_ends_in_zeros() -> None:
    audio = batches(corpus([0.5] * 3))(0).audio
    assert audio.shape == (4, 1, 8)
    assert audio[0, 0].tolist() == [0.5] * 3 + [0.0] * 5


def test_gain_stays_in_its_range_and_below_full_scale() -> None:
    quiet = batches(corpus([0.01] * 50), DataConfig(batch=200, gain_db=(-6.0, 6.0)))(0).audio
    levels = quiet.amax((1, 2)) / 0.01
    assert 0.5 < float(levels.min()) < 0.6
    assert 1.8 < float(levels.max()) < 2.0
    assert float(batches(corpus([0.9] * 50), DataConfig(batch=50, gain_db=(6.0, 6.0)))(0).audio.max()) == 1.0


def test_levels_follow_their_shares() -> None:
    sampler = Batches(
        speech(), DataConfig(batch=1000), length=8, sample_rate=RATE, seed=0, levels={2: 0.25, 4: 0.75}, noise=None
    )
    levels = sampler(0).levels
    assert sorted(set(levels.tolist())) == [2, 4]
    assert float((levels == 4).float().mean()) == pytest.approx(0.75, abs=0.05)


def test_noise_has_the_asked_ratio_and_share() -> None:
    config = DataConfig(batch=400, gain_db=(0.0, 0.0), noise_share=0.5, noise_snr_db=(10.0, 10.0))
    clean = corpus([0.1, -0.1] * 200)
    noisy = batches(clean, config, length=400, noise=corpus([0.3, 0.3, -0.3, -0.3] * 200))(0).audio[:, 0]
    without = torch.tensor([0.1, -0.1] * 200)
    rest = torch.minimum((noisy - without).abs(), (noisy + without).abs())
    mixed = rest.mean(1) > 1e-3
    assert float(mixed.float().mean()) == pytest.approx(0.5, abs=0.08)
    power = noisy[mixed].square().mean(1)  # the two are orthogonal
    assert 10 * torch.log10(0.01 / (power - 0.01)).mean() == pytest.approx(10.0, abs=0.1)


# --- packed speech


def fixtures() -> list[speechpack.Utterance]:
    found = sorted(FIXTURES.glob("*0000.flac"))
    return [speechpack.Utterance(p.name, soundfile.read(p, dtype="int16")[0]) for p in found]


def test_packed_speech_comes_back_in_name_length_and_shape(tmp_path: Path) -> None:
    spoken = fixtures()
    assert speechpack.write(tmp_path, spoken, sample_rate=RATE, size_bytes=100_000) == 2
    seconds = sum(len(one.samples) for one in spoken) / RATE
    size = sum(p.stat().st_size for p in tmp_path.glob("*.opus"))
    assert 18_000 < size * 8 / seconds < 30_000  # bits per second
    for one, (name, samples) in zip(spoken, speechpack.read(tmp_path, RATE), strict=True):
        assert name == one.name
        assert len(samples) == len(one.samples)
        assert _correlation(one.samples, samples) > 0.9


def test_packed_speech_is_a_source_like_any_other(tmp_path: Path) -> None:
    speechpack.write(tmp_path / "pack", fixtures(), sample_rate=RATE, size_bytes=100_000)
    files = find_audio([str(tmp_path / "pack")])
    found, problems = load_corpus(files, tmp_path / "cache", sample_rate=24000, held_out=0.0)
    assert not problems
    assert found.names == tuple(one.name for one in fixtures())
    assert found.lengths.tolist() == [-(-len(one.samples) * 3 // 2) for one in fixtures()]


def test_packed_speech_keeps_to_its_size(tmp_path: Path) -> None:
    assert speechpack.write(tmp_path, fixtures() * 3, sample_rate=RATE, size_bytes=30_000) in (1, 2, 3)
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) <= 30_000
    with pytest.raises(TrainError, match="not one utterance fits"):
        speechpack.write(tmp_path / "none", fixtures(), sample_rate=RATE, size_bytes=1000)


@pytest.mark.parametrize("damage", ["byte", "missing", "outside", "length", "format", "text"])
def test_damaged_packed_speech_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    speechpack.write(tmp_path, fixtures()[:1], sample_rate=RATE, size_bytes=100_000)
    (opus,), index_path = tmp_path.glob("*.opus"), tmp_path / speechpack.INDEX
    index = json.loads(index_path.read_text())
    if damage == "byte":
        data = bytearray(opus.read_bytes())
        data[500] ^= 1
        opus.write_bytes(data)
    elif damage == "missing":
        opus.unlink()
    elif damage == "outside":
        index["files"][0]["name"] = "../" + opus.name
    elif damage == "length":
        index["files"][0]["utterances"][0][1] = 10**9
    elif damage == "format":
        index["format"] = 9
    index_path.write_text("no" if damage == "text" else json.dumps(index))
    with pytest.raises(TrainError, match=r"speech(-000\.opus|\.json): "):
        list(speechpack.read(tmp_path, RATE))


def _correlation(a: NDArray[np.int16], b: NDArray[np.int16]) -> float:
    return float(np.corrcoef(a.astype(float), b.astype(float))[0, 1])
