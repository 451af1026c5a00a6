"""What all layouts share: the door for codes and tokens, and what comes back of a sequence that breaks off."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.arrays import as_integers, is_torch, like
from codec.errors import CodesError
from codec.tokens.ids import BEGINNINGS, TokenIds, unsigned

Array = npt.NDArray[np.signedinteger[Any]]
Facts = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Restored:
    """Codes out of tokens, whole frames only.

    Attributes:
        codes: (Q, F), numpy or torch as the tokens were, and of their type as `arrange` says.
        n_incomplete: frames that were begun after these, and lack codes.
        n_dropped: tokens of those frames.
        stopped: what ended the audio before the tokens ended: a special token's name, or with `strict` off a wrong
            id and its position; "" otherwise.
    """

    codes: Any
    n_incomplete: int
    n_dropped: int
    stopped: str = ""


class Layout(abc.ABC):
    """One way to lay the codes of an item out for a language model. `arrange` and `restore` are exact inverses."""

    ids: TokenIds

    @property
    @abc.abstractmethod
    def step(self) -> tuple[int, ...]:
        """Shape of the smallest piece of a sequence; its dimensions are those of one item."""

    @property
    @abc.abstractmethod
    def axis(self) -> int:
        """The axis, counted from the end, along which a sequence grows."""

    @property
    @abc.abstractmethod
    def divisors(self) -> tuple[int, ...]:
        """Frames per code of each codebook."""

    @abc.abstractmethod
    def _lay(self, shifted: Array) -> Array:
        """Ids (..., Q, F) as tokens."""

    @abc.abstractmethod
    def _count(self, tokens: Array, is_code: Facts) -> list[int]:
        """How far each part of one item goes, for `_pick`."""

    @abc.abstractmethod
    def _pick(self, tokens: Array, counts: list[int]) -> list[Array]:
        """Tokens of one item as one row per codebook, each as long as it goes."""

    @abc.abstractmethod
    def _whole(self, tokens: Array) -> Array | None:
        """Tokens of a batch (B, ...) as ids (B, Q, F); None where they are not those of whole frames alone."""

    def arrange(self, codes: Any, *, wrap: bool = False) -> Any:
        """Codes as tokens.

        Args:
            codes: integers (..., Q, F), numpy or torch; any dimensions before are a batch.
            wrap: put audio_start before and audio_end behind.

        Returns:
            Tokens of the same kind: int16 or int32 where the codes are and the vocabulary fits, else int64.

        Raises:
            CodesError: a wrong number of codebooks, a code out of range, named with its position.
        """
        array = _integers(codes, "codes", self.ids)
        if array.ndim < 2 or array.shape[-2] != self.ids.n_codebooks:
            raise CodesError(f"codes of shape {array.shape}: expected (..., {self.ids.n_codebooks}, frames)")
        _check_codes(array, self.ids)
        tokens = self._lay(array + self.ids.offset_columns[array.dtype])
        if wrap:
            edge = np.ones((*array.shape[:-2], *self.step), array.dtype)
            tokens = np.concatenate((edge * self.ids.audio_start, tokens, edge * self.ids.audio_end), self.axis)
        return _back(tokens, codes)

    def restore(self, tokens: Any, *, codebooks: int | None = None, strict: bool = True) -> Any:
        """Tokens as codes. Leading bos and audio_start are skipped; another special token ends the audio.

        Args:
            tokens: integers, of one item or a batch of items; numpy or torch.
            codebooks: how many codebooks to give; a frame that has these is whole. All when None.
            strict: False takes an id that cannot stand where it stands, as language models sample, for the end.

        Returns:
            `Restored`; a list of them for a batch.

        Raises:
            CodesError: a wrong shape; with `strict` an id that cannot stand where it stands, named with its position.
        """
        array = _integers(tokens, "tokens", self.ids)
        count = self.ids.n_codebooks if codebooks is None else codebooks
        if not 1 <= count <= self.ids.n_codebooks:
            raise CodesError(f"codebooks={count}: the layout has 1 to {self.ids.n_codebooks}")
        n_dims, shape = len(self.step), list(array.shape[-len(self.step) :])
        if len(shape) == n_dims:
            shape[self.axis] = 1
        if array.ndim not in (n_dims, n_dims + 1) or tuple(shape) != self.step:
            wanted = ["N" if i - n_dims == self.axis else str(size) for i, size in enumerate(self.step)]
            raise CodesError(f"tokens of shape {array.shape}: expected ([batch,] {', '.join(wanted)})")
        items = array if array.ndim > n_dims else array[None]
        if (quick := self._restore_whole(items, count)) is not None:
            results = [Restored(_back(codes, tokens), 0, 0, quick[1]) for codes in quick[0]]
            return results if array.ndim > n_dims else results[0]
        found = []
        for i, item in enumerate(items):
            place = (i,) if array.ndim > n_dims else ()
            codes, n_incomplete, n_dropped, stopped = self._restore(item, count, strict=strict, place=place)
            found.append(Restored(_back(codes, tokens), n_incomplete, n_dropped, stopped))
        return found if array.ndim > n_dims else found[0]

    def _restore_whole(self, tokens: Array, count: int) -> tuple[Array, str] | None:
        """Codes (B, count, F) of a batch whose items are whole and of one length, as `arrange` gives them, in one go.

        None for all else, which `_restore` takes apart item by item.
        """
        stopped = ""
        if tokens.shape[self.axis] > 1 and tokens.flat[0] == self.ids.audio_start:
            first, last = (tokens[..., i] if self.axis == -1 else tokens[:, i] for i in (0, -1))
            if (first == self.ids.audio_start).all() and (last == self.ids.audio_end).all():
                tokens, stopped = tokens[..., 1:-1] if self.axis == -1 else tokens[:, 1:-1], "audio_end"
        ids = self._whole(tokens)
        if ids is None:
            return None
        codes = np.empty(ids.shape, ids.dtype)
        np.subtract(ids, self.ids.offset_columns[ids.dtype], out=codes)
        return (codes[:, :count], stopped) if _wrong_code(codes, self.ids) is None else None

    def _restore(
        self, tokens: Array, count: int, *, strict: bool, place: tuple[int, ...]
    ) -> tuple[Array, int, int, str]:
        """Codes of one item, and the other fields of `Restored`; `place` is the item's index in messages."""
        begun = self._beginning(tokens)
        tokens = self._part(tokens, begun, None)
        tokens, is_code, stopped = self._until_special(tokens)
        while True:
            wrong, codebook = self._foreign(tokens, is_code), None
            if wrong is None:
                counts = self._count(tokens, is_code)
                rows = self._pick(tokens, counts)
                codes, bad = self._codes_of(rows, count)
                if not bad:
                    return self._result(codes, rows[:count], stopped)
                places = self._pick(np.arange(tokens.size).reshape(tokens.shape), counts)
                found = [(int(places[q][i]), q) for q, i in bad]
                wrong, codebook = min(found, key=lambda pair: self._along(pair[0], tokens.shape))
            where = [int(i) for i in np.unravel_index(wrong, tokens.shape)]
            end = where[self.axis]
            where[self.axis] += begun
            text = self._complaint(int(tokens.flat[wrong]), (*place, *where), codebook)
            if strict:
                raise CodesError(text)
            tokens, is_code, stopped = self._part(tokens, 0, end), self._part(is_code, 0, end), text

    def _along(self, place: int, shape: tuple[int, ...]) -> int:
        """A flat index as the index along the axis."""
        return int(np.unravel_index(place, shape)[self.axis])

    def _complaint(self, token: int, where: tuple[int, ...], codebook: int | None) -> str:
        name = self.ids.name_of(token) or "no token of the audio"
        if codebook is None:
            allowed = f"ids of codes are {self.ids.first} to {self.ids.first + self.ids.n_code_ids - 1}"
        else:
            low = self.ids.offsets[codebook]
            allowed = f"codebook {codebook} takes {low} to {low + self.ids.codebook_sizes[codebook] - 1} here"
        return f"tokens[{', '.join(map(str, where))}] = {token}, {name}: {allowed}"

    def _part(self, array: Any, start: int, end: int | None) -> Any:
        """A piece of an item along its axis."""
        return array[start:end] if self.axis != -1 or array.ndim == 1 else array[:, start:end]

    def _beginning(self, tokens: Array) -> int:
        """How many steps of bos and audio_start come first."""
        starts = [self.ids.specials[name] for name in BEGINNINGS]
        n = 0
        while n < tokens.shape[self.axis]:
            step = self._part(tokens, n, n + 1)
            if step.flat[0] not in starts or (step != step.flat[0]).any():
                break
            n += 1
        return n

    def _until_special(self, tokens: Array) -> tuple[Array, Facts, str]:
        """The item up to its end, where it holds codes, and what ended it."""
        is_code = self.ids.is_code(tokens)
        if is_code.all():
            return tokens, is_code, ""
        low = self.ids.first + self.ids.n_code_ids
        ends = (tokens >= low) & (tokens < self.ids.size)
        if tokens.ndim > 1:  # the corners of a delay pattern are padding, and end only their own row
            ends &= tokens != self.ids.pad
            others = tuple(i for i in range(tokens.ndim) if i - tokens.ndim != self.axis)
            ends = np.asarray(ends.all(axis=others))
        if not ends.any():
            return tokens, is_code, ""
        end = int(ends.argmax())
        name = self.ids.name_of(int(self._part(tokens, end, end + 1).flat[0]))
        return self._part(tokens, 0, end), self._part(is_code, 0, end), name

    def _foreign(self, tokens: Array, is_code: Facts) -> int | None:
        """Flat index of the first id, along the axis, that is neither a code nor special."""
        if is_code.all():
            return None
        low = self.ids.first + self.ids.n_code_ids
        wrong = ~is_code & ((tokens < low) | (tokens >= self.ids.size))
        places = np.flatnonzero(wrong)
        if not len(places):
            return None
        steps = np.unravel_index(places, tokens.shape)[self.axis]
        return int(places[steps.argmin()])

    def _begun(self, rows: list[Array]) -> int:
        """Frames of which at least one row has the code that begins with it."""
        return max((len(row) - 1) * n + 1 if len(row) else 0 for row, n in zip(rows, self.divisors, strict=False))

    def _codes_of(self, rows: list[Array], count: int) -> tuple[Array, list[tuple[int, int]]]:
        """Codes of the whole frames, and where rows hold ids of another codebook: (codebook, index in the row)."""
        covered = min(len(row) * n for row, n in zip(rows[:count], self.divisors, strict=False))
        whole = min(covered, self._begun(rows))  # a slow codebook alone reaches beyond the end
        codes, bad = np.empty((count, whole), rows[0].dtype), []
        for q, row in enumerate(rows[:count]):
            offset, size, divisor = row.dtype.type(self.ids.offsets[q]), self.ids.codebook_sizes[q], self.divisors[q]
            need = -(-whole // divisor)
            if divisor == 1:
                used = np.subtract(row[:whole], offset, out=codes[q])
            else:
                used = row[:need] - offset
                for shift in range(divisor):
                    codes[q, shift::divisor] = used[: len(codes[q, shift::divisor])]
            for part, start in ((used, 0), (row[need:] - offset, need)):
                if len(part) and unsigned(part).max() >= size:
                    bad.append((q, start + int((unsigned(part) >= size).argmax())))
        return codes, bad

    def _result(self, codes: Array, rows: list[Array], stopped: str) -> tuple[Array, int, int, str]:
        whole = codes.shape[1]
        dropped = sum(len(row) - -(-whole // n) for row, n in zip(rows, self.divisors, strict=False))
        return codes, max(0, self._begun(rows) - whole), dropped, stopped


def _check_codes(codes: Array, ids: TokenIds) -> None:
    """Check ranges."""
    where = _wrong_code(codes, ids)
    if where is None:
        return
    code, last = int(codes[where]), ids.codebook_sizes[where[-2]] - 1
    raise CodesError(f"codes[{', '.join(map(str, where))}] = {code}: codebook {where[-2]} has entries 0 to {last}")


def _wrong_code(codes: Array, ids: TokenIds) -> tuple[int, ...] | None:
    """Where the first code out of range is, in an array (..., Q, F)."""
    if not codes.size:
        return None
    values = unsigned(codes)  # a code below 0 is huge then, so that one comparison does
    if values.max() < min(ids.codebook_sizes):
        return None
    sizes = np.array(ids.codebook_sizes, np.uint64)
    if not (values.max(axis=-1) >= sizes).any():
        return None
    return tuple(int(i) for i in np.argwhere(values >= sizes[:, None])[0])


def _integers(x: Any, name: str, ids: TokenIds) -> Array:
    """Integers in their own type where it is one of a layout that holds the vocabulary, else in int64."""
    array = as_integers(x, name)
    return array if array.dtype in ids.offset_columns else array.astype(np.int64)


def _back(array: Array, source: Any) -> Any:
    """The array as the kind of `source`, on its device."""
    if not is_torch(source):
        return array
    tensor = like(array, True)
    return tensor if source.is_cpu else tensor.to(source.device)
