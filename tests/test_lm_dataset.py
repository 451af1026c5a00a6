"""The data set reads what `codec tokenize` wrote: each item once, packed without loss, taken up where it stopped."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from codec.api import Model
from codec.corpus.run import Options, tokenize
from codec.errors import CorpusError, StateError
from codec.lm.dataset import TokenDataset, collate

N_ITEMS = 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, speech: Any) -> Path:
    """Nine pieces of real speech of different lengths in three shards or more."""
    base = tmp_path_factory.mktemp("corpus")
    lines = []
    for i in range(N_ITEMS):
        soundfile.write(base / f"{i}.wav", speech[i * 8000 : i * 8000 + 4000 + 300 * i], 16000)
        lines.append(json.dumps({"id": f"item{i}", "audio": f"{i}.wav", "text": "hello" * (i % 3)}))
    (base / "all.jsonl").write_text("\n".join(lines) + "\n")
    settings = Options(engine="onnx", shard_hours=1 / 3600, workers=1)  # starts faster than torch
    summary = tokenize(str(base / "all.jsonl"), base / "tokens", settings)
    assert summary.is_complete
    return base / "tokens"


@pytest.mark.parametrize("layout", ["frame", "delay"])
def test_pieces_that_a_state_holds_are_not_lost_at_the_end(folder: Path, layout: str) -> None:
    """The last item of the last epoch gives many pieces; the reader stops after each of them."""
    whole = [x["tokens"].tolist() for x in TokenDataset(folder, layout=layout, length=3)]
    for n_taken in range(len(whole) - 8, len(whole)):
        first = TokenDataset(folder, layout=layout, length=3)
        for _ in zip(range(n_taken), first, strict=False):
            pass
        rest = TokenDataset(folder, layout=layout, length=3)
        rest.load_state_dict(first.state_dict())
        assert [x["tokens"].tolist() for x in rest] == whole[n_taken:]


def ids_of(data: Any) -> list[str]:
    return [item["id"] for item in data]


def test_each_item_comes_once_an_epoch_in_an_order_that_the_seed_decides(folder: Path) -> None:
    data = TokenDataset(folder, seed=1, n_epochs=2)
    names = ids_of(data)
    assert len(data.index["shards"]) > 2
    assert sorted(names[:N_ITEMS]) == sorted(names[N_ITEMS:]) == sorted(f"item{i}" for i in range(N_ITEMS))
    assert names[:N_ITEMS] != names[N_ITEMS:]
    assert ids_of(TokenDataset(folder, seed=1, n_epochs=2)) == names
    assert ids_of(TokenDataset(folder, seed=2, n_epochs=2)) != names


def test_an_item_restores_to_the_codes_that_the_model_gives(folder: Path, embedded: Model) -> None:
    data = TokenDataset(folder, layout="delay", shuffle=False)
    audio, _ = soundfile.read(folder.parent / "0.wav", dtype="float32")
    back = data.layout.restore(next(iter(data))["tokens"])
    assert np.array_equal(back.codes.numpy(), embedded.encode(audio).data)


@pytest.mark.parametrize("layout", ["frame", "delay", "depth"])
def test_packed_pieces_are_the_items_one_after_the_other(folder: Path, layout: str) -> None:
    alone = TokenDataset(folder, layout=layout, seed=3)
    axis = alone.layout.axis
    whole = torch.cat([item["tokens"] for item in alone], axis)
    pieces = [item["tokens"] for item in TokenDataset(folder, layout=layout, seed=3, length=16)]
    joined = torch.cat(pieces, axis)
    assert all(piece.shape[axis] == 16 for piece in pieces)
    assert torch.equal(joined, whole.narrow(axis, 0, joined.shape[axis]))
    assert whole.shape[axis] - joined.shape[axis] < 16


@pytest.mark.parametrize("length", [None, 7])
@pytest.mark.parametrize("layout", ["frame", "delay", "depth"])
def test_a_saved_state_leads_to_exactly_the_next_piece(folder: Path, length: int | None, layout: str) -> None:
    def make() -> TokenDataset:
        return TokenDataset(folder, layout=layout, length=length, seed=5, n_epochs=2)

    unbroken = [item["tokens"] for item in make()]
    for stop in range(1, len(unbroken), 1 + len(unbroken) // 6):
        first, second = make(), make()
        before = [item["tokens"] for item in itertools.islice(first, stop)]
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        after = [item["tokens"] for item in second]
        assert len(before) + len(after) == len(unbroken)
        assert all(torch.equal(a, b) for a, b in zip(before + after, unbroken, strict=True))


def test_a_state_of_another_seed_or_a_damaged_one_is_refused(folder: Path) -> None:
    state = TokenDataset(folder, seed=1).state_dict()
    with pytest.raises(StateError, match="another seed"):
        TokenDataset(folder, seed=2).load_state_dict(state)
    with pytest.raises(StateError, match="no state"):
        TokenDataset(folder, seed=1).load_state_dict({"seed": 1})


# Two workers are what is tested, also on a machine that lends this process one core.
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_ranks_and_workers_share_the_items(folder: Path) -> None:
    found = [ids_of(TokenDataset(folder, rank=rank, n_ranks=2)) for rank in (0, 1)]
    assert sorted(found[0] + found[1]) == sorted(f"item{i}" for i in range(N_ITEMS))
    loader: DataLoader[Any] = DataLoader(TokenDataset(folder, rank=1, n_ranks=2), batch_size=None, num_workers=2)
    assert sorted(ids_of(loader)) == sorted(found[1])


def test_text_goes_before_the_audio_and_a_batch_is_padded(folder: Path) -> None:
    data = TokenDataset(folder, layout="frame", first=10, shuffle=False, encode_text=lambda text: [len(text)])
    items = list(itertools.islice(data, 3))
    batch = collate(items, data.layout.ids.pad)
    assert batch["tokens"][1, :2].tolist() == [5, data.layout.ids.audio_start]
    assert batch["tokens"][0, 0] == data.layout.ids.audio_start
    assert batch["attention_mask"].sum(1).tolist() == [len(item["tokens"]) for item in items]
    assert (batch["tokens"][~batch["attention_mask"]] == data.layout.ids.pad).all()
    assert batch["id"] == ["item0", "item1", "item2"]


def test_what_cannot_be_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="run `codec tokenize` again"):
        TokenDataset(tmp_path)
    with pytest.raises(CorpusError, match="layout of one row"):
        TokenDataset(folder, layout="delay", encode_text=lambda text: [])
    with pytest.raises(CorpusError, match="rank=2"):
        TokenDataset(folder, rank=2, n_ranks=2)
    with pytest.raises(CorpusError, match="no items"):
        list(TokenDataset(folder, rank=99, n_ranks=100))
