"""codec.quality.noise: recordings in noise at a known ratio, and their groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codec.errors import AudioError, CodecError, ConfigError
from codec.quality.noise import NoiseOptions, add_noise, read_groups, read_recording

FIXTURES = Path(__file__).parent / "fixtures"
TALK = FIXTURES / "talk.flac"
NOISES = tuple(FIXTURES / name for name in ("demo.flac", "librispeech_4267_287369-0000.flac"))


def test_noise_is_mixed_in_at_its_ratio() -> None:
    draw = np.random.default_rng(0)
    speech, noise = (draw.standard_normal(size).astype(np.float32) for size in (1000, 300))
    mixed = add_noise(speech, noise, 10.0, np.random.default_rng(1)) - speech
    assert 10 * np.log10((speech**2).sum() / (mixed**2).sum()) == pytest.approx(10, abs=1e-3)
    assert len(np.unique(np.round(mixed, 6))) <= 300 * 2
    with pytest.raises(AudioError, match="noise: silent"):
        add_noise(speech, np.zeros(10, np.float32), 10.0, draw)


def test_without_noise_a_recording_is_its_own_reference() -> None:
    found = read_recording(TALK, "talk", sample_rate=8000)
    assert found.given is found.wanted
    assert found.sample_rate == 8000


def test_a_name_alone_decides_the_noise() -> None:
    noisy = NoiseOptions(NOISES, 10.0)
    first, again = (read_recording(TALK, "talk", noisy).given for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (read_recording(TALK, "another", noisy).given != first).any()


def test_the_reference_is_the_noisy_or_the_clean_speech() -> None:
    clean = read_recording(TALK, "talk")
    noisy, against = (read_recording(TALK, "talk", NoiseOptions(NOISES, 10.0, name)) for name in ("noisy", "clean"))
    assert noisy.given is noisy.wanted
    np.testing.assert_array_equal(noisy.given, against.given)
    np.testing.assert_array_equal(against.wanted, clean.wanted)
    rest = (against.given - against.wanted).astype(np.float64)
    assert 10 * np.log10((clean.given**2).sum() / (rest**2).sum()) == pytest.approx(10, abs=1e-2)


def test_what_cannot_be_mixed_is_one_clear_error() -> None:
    with pytest.raises(ConfigError, match="reference loud: unknown; noisy or clean"):
        NoiseOptions(NOISES, 10.0, "loud")
    with pytest.raises(ConfigError, match="noise: no audio files there"):
        NoiseOptions((), 10.0)


def test_groups_come_from_any_column_of_a_manifest(tmp_path: Path) -> None:
    manifest = tmp_path / "files.csv"
    manifest.write_text("path,language\na.flac,en\nsub/b.flac,nl\n", encoding="utf-8")
    files = {"a.flac": tmp_path / "a.flac", "b": tmp_path / "sub" / "b.flac", "c": tmp_path / "c.flac"}
    assert read_groups(manifest, "language", files) == {"a.flac": "en", "b": "nl"}
    with pytest.raises(ConfigError, match=r"files\.csv: no column tongue; there are path, language"):
        read_groups(manifest, "tongue", files)
    with pytest.raises(CodecError, match="cannot be read"):
        read_groups(tmp_path / "missing.csv", "language", files)
