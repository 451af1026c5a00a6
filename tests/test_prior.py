"""The prior: integers alone, learned from codes, refused where it is damaged or not the codes' own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from codec.codesfile import Header
from codec.codesfile.entropy import check_prior
from codec.codesfile.prior import EXP, FILE_NAME, Prior, parse_prior, read_prior
from codec.codesfile.rans import TOTAL_BITS
from codec.errors import CodesError, ModelError, TrainError
from codec.modelfolder import read_model
from codec.train.prior import PriorConfig, PriorNetwork, fingerprint, read_cache, save_prior, train_prior, write_cache

SIZES = (16, 16, 8)
CONFIG = PriorConfig(dim=4, n_context=8, n_hidden=8, epochs=4, batch=4, n_frames=20, learning_rate=1e-2)


def books() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(size, 6, generator=generator) for size in SIZES]


def walk(n_frames: int, seed: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Codes (3, F) that can be foreseen: each mostly one more than before, the second the first's mirror."""
    rng = np.random.default_rng(seed)
    first = (np.arange(n_frames) + np.cumsum(rng.random(n_frames) < 0.05)) % 16
    return np.stack([first, 15 - first, rng.integers(0, 8, n_frames)]).astype(np.int64)


def bits_of(prior: Prior, codes: np.ndarray[tuple[int, int], np.dtype[np.int64]]) -> list[float]:
    memory, bits = prior.start(1), np.zeros(len(codes))
    for frame in codes.T:
        context = prior.context(memory)
        for q, code in enumerate(frame):
            counts = prior.frequencies(context, frame[None, :q])
            assert counts.sum() == 2**TOTAL_BITS
            bits[q] -= np.log2((counts[0, code] + 0.5) / 2**TOTAL_BITS)
        memory = prior.remember(memory, frame[None])
    return list(bits / codes.shape[1])


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[PriorNetwork, Path]:
    path = tmp_path_factory.mktemp("prior") / FILE_NAME
    network = list(train_prior([walk(400, seed) for seed in range(6)], books(), (2, 3), CONFIG))[-1][0]
    save_prior(network, path, "ab" * 32)
    return network, path


def test_what_can_be_foreseen_costs_less_and_what_cannot_costs_what_it_did(learned: tuple[PriorNetwork, Path]) -> None:
    bits = bits_of(read_prior(learned[1]), walk(200, 99))
    assert bits[0] < 3.5  # of 4
    assert bits[1] < 2.5
    assert bits[2] == pytest.approx(3, abs=0.2)


def test_the_integers_say_what_the_learned_network_says(learned: tuple[PriorNetwork, Path]) -> None:
    network, path = learned
    codes = walk(60, 7)
    with torch.no_grad():
        wanted = network(torch.from_numpy(codes[None])).tolist()
    assert bits_of(read_prior(path), codes) == pytest.approx(wanted, abs=0.1)


def test_rows_side_by_side_give_the_same_integers_as_alone(learned: tuple[PriorNetwork, Path]) -> None:
    prior = read_prior(learned[1])
    codes = np.stack([walk(5, seed) for seed in range(3)])
    memory = prior.remember(prior.start(3), codes[..., 0])
    together = prior.frequencies(prior.context(memory), codes[:, :2, 1])
    for row in range(3):
        alone = prior.remember(prior.start(1), codes[row : row + 1, :, 0])
        assert (prior.frequencies(prior.context(alone), codes[row : row + 1, :2, 1]) == together[row]).all()


def test_learning_again_and_writing_again_gives_the_same_file(
    learned: tuple[PriorNetwork, Path], tmp_path: Path
) -> None:
    config = PriorConfig(dim=4, n_context=8, n_hidden=8, epochs=1, batch=4, n_frames=20)
    for name in ("a", "b"):
        (result,) = train_prior([walk(100, 1)], books(), (3,), config)
        save_prior(result[0], tmp_path / name, "ab" * 32)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_exponentials_are_near_and_never_nothing() -> None:
    assert np.exp(-np.arange(1024) / 64) * 2**24 == pytest.approx(EXP, rel=1e-5, abs=2.1)
    assert EXP.min() >= 1


def test_a_damaged_prior_is_one_line(learned: tuple[PriorNetwork, Path], tmp_path: Path) -> None:
    data = learned[1].read_bytes()
    later, deep = data.replace(b'\\"format\\": 1', b'\\"format\\": 7'), save({}, {"prior": "[" * 100_000})
    for bad in (b"", data[:50], data[:-1], b"\xff" * 100, later, deep):
        with pytest.raises(ModelError, match=r"x: (damaged|prior format 7)"):
            parse_prior(bad, "x")
    with pytest.raises(ModelError, match=r"has no prior; train it"):
        read_prior(tmp_path)


def test_a_prior_of_other_codes_is_refused(learned: tuple[PriorNetwork, Path]) -> None:
    prior = read_prior(learned[1])
    known = Header("m", "ab" * 16, "block", 8, 2, SIZES)
    check_prior(known, prior)
    check_prior(Header("m", "ab" * 16, "block", 8, 2, SIZES[:2]), prior)
    for header, text in (
        (Header("m", "cd" * 16, "block", 8, 2, SIZES), "of weights abab"),
        (Header("m", "ab" * 16, "block", 8, 2, (16, 8)), "knows codebooks"),
        (Header("m", "ab" * 16, "block", 8, 2, SIZES, (1, 1, 2)), "divisors"),
    ):
        with pytest.raises(CodesError, match=text):
            check_prior(header, prior)


@pytest.mark.slow
def test_the_command_puts_a_prior_into_a_model_folder(tiny_path: Path, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(tiny_path, tmp_path / "tiny"))
    fixtures = Path(__file__).parent / "fixtures"
    command = [sys.executable, "-m", "codec.train.prior", str(folder), str(fixtures), str(folder), "--epochs", "1"]
    subprocess.run(command, check=True, cwd=Path(__file__).parent.parent, capture_output=True)
    assert read_prior(folder).weights_hash == read_model(folder).info.weights_hash


def test_other_speech_has_another_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(TrainError, match="no audio file there"):
        fingerprint(tmp_path)
    (tmp_path / "a" / "1.wav").write_bytes(b"123")
    first = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == first
    (tmp_path / "a" / "1.wav").write_bytes(b"1234")
    longer = fingerprint(tmp_path)
    (tmp_path / "a" / "2.wav").write_bytes(b"")
    assert len({first, longer, fingerprint(tmp_path)}) == 3


def test_a_cache_gives_the_codes_back_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    cache, codes = tmp_path / "kept", [walk(30, 1), walk(7, 2)]
    write_cache(cache, "hash", "speech", codes)
    made_by, speech, again = read_cache(cache)
    assert (made_by, speech) == ("hash", "speech")
    assert [item.tolist() for item in again] == [item.tolist() for item in codes]
    whole = cache.read_bytes()
    wrong = [b"", b"no zip", whole[: len(whole) // 2], whole[:200] + b"??" + whole[202:]]
    for content in wrong:
        cache.write_bytes(content)
        with pytest.raises(TrainError, match=r"kept: not codes that --cache kept .*; delete it"):
            read_cache(cache)
    with cache.open("wb") as file:
        np.savez(file, codes=codes[0], lengths=[29], weights_hash="hash", speech="speech")
    with pytest.raises(TrainError, match="do not fit"):
        read_cache(cache)
