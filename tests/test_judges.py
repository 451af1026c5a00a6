"""judges, words, bundled, mos and speaker of codec.quality: what judges decoded speech, by name."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

import codec
from codec import audio
from codec.errors import ConfigError, MissingExtraError, ModelError
from codec.quality import judges, metrics, mos, words
from codec.quality.bundled import file_of_package
from codec.quality.speaker import VoiceEncoder, piece_starts
from codec.quality.spectrogram import mel_filters
from codec.quality.visqol import visqol

FIXTURES = Path(__file__).parent / "fixtures"
Floats = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def talk() -> Floats:
    return np.asarray(audio.read(FIXTURES / "talk.flac")[0][0])


@pytest.fixture(scope="module")
def rough(talk: Floats) -> Floats:
    return (np.round(talk * 48) / 48).astype(np.float32)


# by name


def test_the_default_judges_give_what_score_gives(talk: Floats, rough: Floats) -> None:
    pytest.importorskip("pesq", reason="the extra eval is not installed")
    expected = metrics.score(talk[:24000], rough[:24000], 16000)
    assert judges.judge(judges.DEFAULT, talk[:24000], rough[:24000], 16000) == pytest.approx(expected)


def test_only_what_is_asked_for_is_judged(talk: Floats, rough: Floats) -> None:
    scores = judges.judge(["f0", "si_sdr"], talk[:16000], rough[:16000], 16000)
    assert list(scores) == ["f0_correlation", "voicing_error", "si_sdr"]
    assert scores["f0_correlation"] > 0.98


def test_an_unknown_judge_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ConfigError, match=r"metric peaq: unknown; there are pesq, .*, or all"):
        judges.check_installed(["pesq", "peaq"])


def test_a_missing_package_is_one_line_and_only_its_judge_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = judges.Judge(lambda both: {}, (("not_installed_at_all", "not-installed"),), "eval-full")
    monkeypatch.setitem(judges.JUDGES, "absent", absent)
    with pytest.raises(MissingExtraError, match=r"not-installed: pip install 'neural-codec\[eval-full\]'"):
        judges.check_installed(["absent"])
    single = judges.Judge(lambda both: {}, alone=(("not_installed_at_all", "not-installed"),))
    monkeypatch.setitem(judges.JUDGES, "single", single)
    with pytest.raises(MissingExtraError, match=r"not-installed: pip install --no-deps not-installed$"):
        judges.check_installed(["single"])
    names, missing = judges.installed()
    assert "si_sdr" in names
    assert "absent" not in names
    assert any("the metric absent" in str(error) for error in missing)


# weights in other packages


def test_a_file_of_a_package_is_found_and_known_by_its_hash() -> None:
    name = "models/default_16k/model.json"
    path = Path(codec.__file__).parent / name
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    assert file_of_package("codec", name, right, need="a test") == path
    with pytest.raises(ModelError, match="SHA-256"):
        file_of_package("codec", name, "0" * 64, need="a test")
    with pytest.raises(ModelError, match="cannot be read"):
        file_of_package("codec", "no/such.file", right, need="a test")
    with pytest.raises(MissingExtraError, match="a test needs the package not_installed_at_all"):
        file_of_package("not_installed_at_all", name, right, need="a test")


# words


@pytest.mark.parametrize(
    ("expected", "heard", "errors"),
    [("a b c", "a b c", 0), ("a b c", "a x c", 1), ("a b c", "b c", 1), ("a b", "a c b d", 2), ("", "a b", 2)],
)
def test_word_errors_are_those_worked_out_by_hand(expected: str, heard: str, errors: int) -> None:
    assert words.word_errors(expected.split(), heard.split()) == errors


@given(st.lists(st.sampled_from("abc"), max_size=8), st.lists(st.sampled_from("abc"), max_size=8))
def test_word_errors_are_a_distance(one: list[str], other: list[str]) -> None:
    errors = words.word_errors(one, other)
    assert errors == words.word_errors(other, one)
    assert abs(len(one) - len(other)) <= errors <= max(len(one), len(other))
    assert (errors == 0) == (one == other)


def test_words_have_no_marks_but_apostrophes_inside() -> None:
    assert words.words_of("\u201cDon\u2019t!\u201d, she said\u2014twice: 'no'.") == (
        "don't",
        "she",
        "said",
        "twice",
        "no",
    )


# spectra of the networks that predict opinions


def test_the_spectrum_of_dnsmos_is_the_transform_written_out(talk: Floats) -> None:
    part = talk[8000:24000].astype(np.float64)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(321) / 321)
    frames = np.stack([np.pad(part, 160)[160 * i : 160 * i + 321] * window for i in range(100)])
    power = np.abs(frames @ np.exp(-2j * np.pi * np.arange(321)[:, None] * np.arange(161) / 321)) ** 2
    level = 10 * np.log10(power @ mel_filters(16000, 321, 120).T + 1e-12)
    found = mos._dns_spectrum(part.astype(np.float32))
    assert found.shape == (100, 120)
    assert (found.max(), found.min()) == (
        1,
        pytest.approx((np.maximum(level - level.max(), -80).min() + 40) / 40, abs=1e-2),
    )
    np.testing.assert_allclose(found, (np.maximum(level - level.max(), -80) + 40) / 40, atol=2e-3)


def test_the_spectrum_of_plcmos_is_the_transform_written_out(talk: Floats) -> None:
    part = talk[8000:12000].astype(np.float64)
    found = mos._plc_spectrum(part)
    assert found.shape == (17, 257)
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(512) / 512)
    frame = part[512:1024] * window  # the fourth: the first begins half a window before the sound
    kernel = np.exp(-2j * np.pi * np.arange(257)[:, None] * np.arange(512) / 512)
    np.testing.assert_allclose(found[3], np.log(np.abs(kernel @ frame) ** 2) / 20, atol=1e-4)


def test_silence_has_no_opinion() -> None:
    silence = np.zeros(16000, np.float32)
    assert all(math.isnan(value) for value in mos.dnsmos_scores(silence).values())
    assert math.isnan(mos.plcmos(silence))


# voices


@pytest.mark.parametrize(
    ("n_samples", "starts"),
    [(100, (0,)), (25600, (0,)), (31000, (0,)), (32000, (0, 77)), (48000, (0, 77, 154)), (64000, (0, 77, 154, 231))],
)
def test_pieces_cover_the_recording_with_what_is_three_quarters_there(n_samples: int, starts: tuple[int, ...]) -> None:
    assert piece_starts(n_samples) == starts


def test_a_voice_is_a_positive_vector_of_length_one() -> None:
    import torch

    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        voices = VoiceEncoder()(torch.rand(2, 30, 40)).numpy()
    assert voices.shape == (2, 256)
    assert (voices >= 0).all()
    np.testing.assert_allclose(np.linalg.norm(voices, axis=1), 1, atol=1e-5)


# patches


def test_visqol_falls_as_speech_gets_worse(talk: Floats) -> None:
    pytest.importorskip("visqol", reason="visqol-python is not installed")
    part = talk[16000:48000]
    noise = np.random.default_rng(0).standard_normal(len(part)).astype(np.float32) * np.sqrt(np.mean(part**2))
    scores = [visqol(part, part + noise * np.float32(10 ** (-snr / 20))) for snr in (40, 20, 0)]
    assert visqol(part, part) == pytest.approx(5, abs=1e-6)
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] < 2.5
    assert math.isnan(visqol(part[:1000], part[:1000]))
    assert math.isnan(visqol(np.zeros(16000, np.float32), part[:16000]))


# with the real weights


@pytest.mark.slow
def test_real_judges_tell_good_from_bad_and_equal_their_own_packages(talk: Floats, rough: Floats) -> None:
    names = ["dnsmos", "plcmos", "dwer", "speaker"]
    if not set(names) <= set(judges.installed()[0]):
        pytest.skip("the extra eval-full is not installed")
    same, worse = judges.judge(names, talk, talk, 16000), judges.judge(names, talk, rough, 16000)
    assert (same["dwer"], same["dwer_words"]) == (0, 13)
    assert same["speaker_similarity"] == pytest.approx(1)
    for name in ("dnsmos", "dnsmos_p808", "plcmos", "speaker_similarity"):
        assert worse[name] < same[name], name
    # speechmos 0.0.1.1, dnsmos.run(rough, 16000)
    assert (worse["dnsmos"], worse["dnsmos_p808"]) == pytest.approx((3.09595, 3.36879), abs=1e-3)
