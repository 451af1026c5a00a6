"""A minute of real speech to compare engines on: from files, golden vectors, or those of the embedded model."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

import codec
from codec.errors import AudioError
from codec.export.golden import write_golden
from codec.export.speech import SECONDS, read_speech
from codec.golden import shaped_noise
from codec.hub import find_model
from codec.modelfolder import read_model

DEMO = Path(__file__).parent / "fixtures" / "demo.flac"


def test_files_come_first_as_they_are_and_then_in_other_versions(tiny_path: Path) -> None:
    info = read_model(tiny_path).info
    speech = read_speech(info, (DEMO, DEMO), tiny_path)
    clip = codec.read_audio(DEMO)[0][0]
    assert speech.audio.dtype == np.float32
    assert len(speech.audio) == round(SECONDS * info.sample_rate)
    np.testing.assert_array_equal(speech.audio[: 2 * len(clip)], np.concatenate((clip, clip)))
    np.testing.assert_allclose(speech.audio[2 * len(clip) : 3 * len(clip)], 0.25 * clip, atol=1e-7)
    n_versions = -(-len(speech.audio) // (2 * len(clip)))
    assert f"60 s of {DEMO}, {DEMO}, in {n_versions} versions" in speech.source


def test_without_files_the_golden_clip_serves_and_noise_is_no_speech(tiny_path: Path, tmp_path: Path) -> None:
    info = read_model(tiny_path).info
    embedded = read_speech(info, (), find_model("default_16k"))
    assert "(default_16k)" in embedded.source
    assert np.abs(embedded.audio).max() > 0.1
    np.testing.assert_array_equal(read_speech(info, (), tiny_path).audio, embedded.audio)  # it has no golden vectors
    shutil.copytree(tiny_path, tmp_path / "tiny")
    soundfile.write(tmp_path / "noise.wav", shaped_noise(16000, 1), 16000)
    write_golden(tmp_path / "tiny", tmp_path / "noise.wav", source="codec.golden.shaped_noise", licence="CC0-1.0")
    np.testing.assert_array_equal(read_speech(info, (), tmp_path / "tiny").audio, embedded.audio)


def test_a_file_of_next_to_nothing_is_refused(tiny_path: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "short.wav", np.zeros(100), 16000)
    with pytest.raises(AudioError, match=r"short\.wav: 100 samples; give at least 0\.1 s of speech"):
        read_speech(read_model(tiny_path).info, (tmp_path / "short.wav",), tiny_path)
