"""codec.quality.peers, codec.quality.lyra: other people's codecs; what is not there is one clear line."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codec import audio
from codec.errors import CodecError, ConfigError, ModelError
from codec.quality import metrics, peers
from codec.quality.lyra import lyra

FIXTURES = Path(__file__).parent / "fixtures"


def ogg_page(*segments: int) -> bytes:
    return b"OggS" + bytes(22) + bytes([len(segments), *segments]) + bytes(sum(segments))


def test_the_bits_of_opus_packets_leave_out_pages_and_headers() -> None:
    stream = ogg_page(19) + ogg_page(60) + ogg_page(40, 41) + ogg_page(255, 3)
    assert peers.payload_bits(stream) == 8 * (40 + 41 + 255 + 3)
    assert peers.payload_bits(stream[:-200]) <= 8 * (40 + 41 + 255 + 3)


def test_the_bits_of_a_real_opus_file_are_a_little_less_than_the_file(tmp_path: Path) -> None:
    speech, _ = audio.read(FIXTURES / "talk.flac")
    path = tmp_path / "talk.opus"
    soundfile.write(path, speech[0, :32000], 16000, format="OGG", subtype="OPUS")
    assert 0.8 * path.stat().st_size < peers.payload_bits(path.read_bytes()) / 8 < path.stat().st_size


@pytest.mark.parametrize(("peer", "needs"), [("codec2", "c2enc on PATH"), ("opus-tools", "opusenc on PATH")])
def test_a_program_that_is_not_there_is_one_clear_line(
    peer: str, needs: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CodecError, match=needs):
        peers.open_peers([peer])


def test_an_unknown_peer_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ConfigError, match="peer mp3: unknown; there are opus, opus-tools, opus-package, codec2"):
        peers.open_peers(["mp3"])


def test_a_program_that_fails_gives_its_last_line() -> None:
    with pytest.raises(CodecError, match="ls: ended with 2: ls: cannot access"):
        peers._run(["ls", "/no/such/file"])


def test_lyra_without_its_files_says_where_they_are(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"soundstream_encoder\.tflite: not there; take lyra/model_coeffs"):
        lyra(tmp_path)


@pytest.mark.slow
def test_real_peers_score_as_published_on_the_same_clip() -> None:
    if shutil.which("opusenc") is None or shutil.which("c2enc") is None:
        pytest.skip("opus-tools and codec2 are not installed")
    speech = np.asarray(audio.read(FIXTURES / "talk.flac")[0][0])
    opus = peers.opus_of_tools().code(speech, 16000)
    # Opus 1.3.1, opus-tools 0.2: PESQ-WB and STOI of the same clip at 6 and 12 kbit/s
    for coded, pesq, stoi in ((opus[0], 1.936, 0.921), (opus[2], 3.757, 0.973)):
        scores = metrics.score(speech, coded.audio, 16000)
        assert (scores["pesq"], scores["stoi"]) == pytest.approx((pesq, stoi), abs=0.05)
    codec2 = peers.codec2().code(speech, 16000)
    seconds = len(speech) / 16000
    assert [round(one.n_bits / seconds, -2) for one in codec2] == pytest.approx([3200, 2400, 1600, 1200], abs=100)
