"""A PyTorch data set over the folder that `codec tokenize` wrote: laid out, packed, in an order that can be taken up.

data = TokenDataset("tokens/", layout="delay", length=512)
for batch in torch.utils.data.DataLoader(data, batch_size=16): ...
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import IterableDataset, get_worker_info

from codec.corpus.rows import open_layout, to_codes
from codec.corpus.run import read_index
from codec.corpus.sinks import read_rows
from codec.errors import CorpusError, StateError
from codec.tokens import APART, Layout, TokenIds, make_layout, parse_layout

Tokens = npt.NDArray[np.int64]
EncodeText = Callable[[str], Sequence[int]]


@dataclass(frozen=True)
class Position:
    """How far a reader is: the epoch, items of it that were taken, and tokens that wait to be packed."""

    epoch: int = 0
    n_taken: int = 0
    held: Tokens | None = None


class TokenDataset(IterableDataset[dict[str, Any]]):
    """Items, or pieces of equal length packed from them, epoch after epoch or once.

    The order depends on `seed` and the epoch alone. Workers of a DataLoader, and ranks, take turns: each takes every
    n-th item. `state_dict` after a piece leads, through `load_state_dict`, to exactly the next one; with workers, a
    loader that keeps their states (torchdata's StatefulDataLoader) does so for each.

    An item is a dict of `id`, `text`, `tokens`, and of a model that decodes with one its `condition` (N,), which
    `Model.codes` takes; a packed piece has `tokens` alone.

    Attributes:
        index: `index.json` of the folder.
        layout: how codes become tokens.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        layout: str = "delay",
        options: Mapping[str, Any] | None = None,
        first: int = 0,
        shared: bool | None = None,
        length: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        n_epochs: int | None = 1,
        rank: int = 0,
        n_ranks: int = 1,
        encode_text: EncodeText | None = None,
    ) -> None:
        """Open a folder.

        Args:
            folder: with `index.json` and its shards, in whatever layout they were written.
            layout: as `codec.tokens.make_layout`.
            options: of the layout.
            first: the first id of audio.
            shared: one range of ids for all codebooks; None: where the layout keeps them apart.
            length: of a piece, in steps of the layout; None gives each item alone.
            shuffle: shards, and items within a shard.
            seed: of the order.
            n_epochs: how often; None without end.
            rank: of this process, where several read.
            n_ranks: how many read.
            encode_text: text ids to put before an item's audio, for layouts of one row.

        Raises:
            CorpusError: no such folder, or a layout that takes no text.
            CodesError: a layout that cannot be.
        """
        self._folder, self.index = Path(folder), read_index(Path(folder))
        shared = parse_layout(layout)[0] in APART if shared is None else shared
        self._written = open_layout(self.index["layout"], self.index["codebook_sizes"])
        self.layout: Layout = make_layout(layout, TokenIds(tuple(self.index["codebook_sizes"]), first, shared), options)
        if encode_text is not None and len(self.layout.step) > 1:
            raise CorpusError(f"encode_text: goes with a layout of one row, not with {layout}")
        if length is not None and length < 1:
            raise CorpusError(f"length={length}: expected at least 1 step")
        if not 0 <= rank < n_ranks:
            raise CorpusError(f"rank={rank}: expected 0 to {n_ranks - 1}")
        self._length, self._shuffle, self._seed, self._n_epochs = length, shuffle, seed, n_epochs
        self._rank, self._n_ranks, self._encode_text = rank, n_ranks, encode_text
        self._position = Position()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """From where the last reading, or the loaded state, stopped; an epoch count that is used up begins anew."""
        if self._n_epochs is not None and self._position.epoch >= self._n_epochs:
            self._position = Position()
        while self._n_epochs is None or self._position.epoch < self._n_epochs:
            epoch, before = self._position.epoch, self._position.n_taken
            yield from self._read_epoch()
            if self._position.n_taken == 0 and before == 0 and self._position.epoch == epoch:
                raise CorpusError(f"{self._folder}: this reader has no items; use fewer ranks and workers")
            self._position = Position(epoch + 1, 0, self._position.held)

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, as plain numbers and lists."""
        held = self._position.held
        return {
            "seed": self._seed,
            "reader": self._reader(),
            "epoch": self._position.epoch,
            "n_taken": self._position.n_taken,
            "held": None if held is None else held.tolist(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            StateError: damaged, or of another seed, rank or number of readers, whose order is another one.
        """
        try:
            held = None if state["held"] is None else np.array(state["held"], np.int64)
            same = state["seed"] == self._seed and tuple(state["reader"]) == self._reader()
            position = Position(int(state["epoch"]), int(state["n_taken"]), held)
        except (KeyError, TypeError, ValueError) as failure:
            raise StateError(f"data set: no state of one ({failure!r})") from None
        if not same:
            raise StateError("data set: the state is of another seed, rank or number of readers")
        self._position = position

    def _reader(self) -> tuple[int, int]:
        """Number of this reader, and how many there are, workers counted."""
        worker = get_worker_info()
        number, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return number * self._n_ranks + self._rank, self._n_ranks * count  # a rank has the same items with any workers

    def _read_epoch(self) -> Iterator[dict[str, Any]]:
        held = self._position.held
        if held is not None and self._length is not None:  # a loaded state may hold whole pieces
            yield from self._cut(held, self._position.n_taken, self._length)
        for row in self._rows():
            tokens = self._lay(row)
            if self._length is None:
                self._position = Position(self._position.epoch, self._position.n_taken + 1)
                beside = {"condition": torch.from_numpy(row["condition"])} if self.index.get("condition") else {}
                yield {"id": row["id"], "text": row["text"], "tokens": torch.from_numpy(tokens), **beside}
                continue
            held = self._position.held
            joined = tokens if held is None or not held.size else np.concatenate((held, tokens), self.layout.axis)
            yield from self._cut(joined, self._position.n_taken + 1, self._length)

    def _cut(self, tokens: Tokens, n_taken: int, length: int) -> Iterator[dict[str, Any]]:
        """Whole pieces. After each the rest is what waits, and all items that it comes from count as taken."""
        axis = self.layout.axis
        self._position = Position(self._position.epoch, n_taken, tokens)
        for end in range(length, tokens.shape[axis] + 1, length):
            _, piece, rest = np.split(tokens, [end - length, end], axis)
            self._position = Position(self._position.epoch, n_taken, rest)
            yield {"tokens": torch.from_numpy(np.ascontiguousarray(piece))}

    def _lay(self, row: dict[str, Any]) -> Tokens:
        tokens: Tokens = self.layout.arrange(to_codes(row, self._written), wrap=True)
        if self._encode_text is None or not row["text"]:
            return tokens
        return np.concatenate((np.asarray(self._encode_text(row["text"]), np.int64), tokens))

    def _rows(self) -> Iterator[dict[str, Any]]:
        """Rows of the epoch for this reader that it has not taken yet."""
        number, count = self._reader()
        epoch, done, at = self._position.epoch, self._position.n_taken, 0
        shards = self.index["shards"]
        for i in self._order(len(shards), epoch):
            order = self._order(shards[i]["n_rows"], epoch, int(i) + 1)
            mine = order[(number - at) % count :: count]
            at += len(order)
            if done >= len(mine):
                done -= len(mine)
                continue
            rows = list(read_rows(self.index["output"], self._folder / shards[i]["name"]))
            if len(rows) != len(order):
                raise CorpusError(f"{shards[i]['name']}: {len(rows)} rows, the index says {len(order)}; run verify")
            for j in mine[done:]:
                yield rows[j]
            done = 0

    def _order(self, n: int, *key: int) -> npt.NDArray[np.int64]:
        return np.random.default_rng((self._seed, *key)).permutation(n) if self._shuffle else np.arange(n)


def collate(items: Sequence[dict[str, Any]], pad: int) -> dict[str, Any]:
    """Items of different lengths as a batch: `tokens` padded behind, and `attention_mask`, for layouts of one row."""
    longest = max(item["tokens"].shape[-1] for item in items)
    tokens = torch.stack(
        [torch.nn.functional.pad(x["tokens"], (0, longest - x["tokens"].shape[-1]), value=pad) for x in items]
    )
    lengths = torch.tensor([item["tokens"].shape[-1] for item in items])
    batch: dict[str, Any] = {"tokens": tokens, "attention_mask": torch.arange(longest) < lengths[:, None]}
    if "condition" in items[0]:
        batch["condition"] = torch.stack([item["condition"] for item in items])
    return batch | {name: [item[name] for item in items] for name in ("id", "text") if name in items[0]}
