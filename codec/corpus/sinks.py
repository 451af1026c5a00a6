"""Shards as they are written and read: Parquet tables, WebDataset tars, folders of `.codes` or `.npy` files.

Equal rows give equal bytes: no time, no name of a machine goes into a shard.

Source: WebDataset format; Apache Parquet through pa.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import quote

import numpy as np

from codec import codesfile
from codec.codes import make_header
from codec.corpus.archives import import_parquet
from codec.corpus.rows import Row, RunFacts, to_record
from codec.errors import CodecError, CorpusError

ROWS = "rows.jsonl"  # of a folder shard: the columns but the codes, in order
LONGEST = 200  # characters of a file name, of the 255 that file systems take; the suffix comes behind
END = 1024  # bytes, all zero, that end a tar
GROUP, GROUP_BYTES = 128, 1 << 20  # rows, and bytes of their codes, that are held before they are written


class Sink(Protocol):
    """Takes rows, in order; a context manager that completes the file."""

    def append(self, row: Row) -> None:
        """One more row."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ParquetSink:
    """A table; `codes` is a list, or a list of lists, as the layout has them."""

    def __init__(self, path: Path, facts: RunFacts) -> None:
        parquet = import_parquet()
        self._schema, self._facts = make_schema(facts), facts
        self._rows: list[dict[str, Any]] = []
        self._codes: list[Any] = []
        self._n_bytes = 0
        self._writer = parquet.ParquetWriter(path, self._schema, compression="zstd")

    def append(self, row: Row) -> None:
        """As `Sink`."""
        self._rows.append(to_record(row, self._facts))
        self._codes.append(row.codes)
        self._n_bytes += row.codes.nbytes
        if len(self._rows) >= GROUP or self._n_bytes >= GROUP_BYTES:
            self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            at = self._schema.get_field_index("codes")
            table = pa.Table.from_pylist(self._rows, self._schema.remove(at))
            table = table.add_column(at, self._schema.field(at), _nested(self._codes))
            self._writer.write_table(table.cast(self._schema))
        self._rows, self._codes, self._n_bytes = [], [], 0


def _nested(arrays: list[Any]) -> Any:
    """Arrays of as many dimensions as one Arrow array of nested lists."""
    import pyarrow as pa

    values = pa.array(np.concatenate([array.ravel() for array in arrays]))
    for axis in reversed(range(arrays[0].ndim)):
        counts = [np.full(math.prod(array.shape[:axis]), array.shape[axis]) for array in arrays]
        offsets = np.concatenate(([0], np.cumsum(np.concatenate(counts)))).astype(np.int32)
        values = pa.ListArray.from_arrays(offsets, values)
    return values


def _unnested(value: Any) -> Any:
    """One row of nested lists as an array. Raises: ValueError: lists of different lengths."""
    import pyarrow as pa

    shape = [len(value)]
    while pa.types.is_list(value.type):
        lengths = value.value_lengths().to_numpy(zero_copy_only=False)
        if len(lengths) and (lengths != lengths[0]).any():
            raise ValueError("codes of different lengths in one row")
        shape.append(int(lengths[0]) if len(lengths) else 0)
        value = value.flatten()
    return value.to_numpy().reshape(shape)


def make_schema(facts: RunFacts) -> Any:
    """The Arrow schema of a run; its metadata says what the codes are."""
    import pyarrow as pa

    types = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "str": pa.string()}
    code = pa.uint16() if facts.dtype is np.uint16 else pa.uint32()
    for _ in facts.arranger.step:
        code = pa.list_(code)
    columns = {
        "id": pa.string(),
        "codes": code,
        "layout": pa.string(),
        "sample_rate": pa.int32(),
        "num_samples": pa.int64(),
        "model": pa.string(),
        "weights_hash": pa.string(),
        "source": pa.string(),
        "text": pa.string(),
        **({"condition": pa.list_(pa.float32())} if facts.info.condition else {}),
    } | {name: types[kind] for name, kind in facts.fields.items()}
    return pa.schema(list(columns.items()), metadata={"codec": json.dumps(describe(facts), sort_keys=True)})


def describe(facts: RunFacts) -> dict[str, Any]:
    """What a language model needs to know of the codes; also in `index.json`."""
    info, ids = facts.info, facts.arranger.ids
    return {
        "model": info.name,
        "weights_hash": info.weights_hash,
        "sample_rate": info.sample_rate,
        "hop_length": info.hop_length,
        "frame_rate": info.frame_rate,
        "codebooks": facts.codebooks,
        "codebook_sizes": list(info.codebook_sizes[: facts.codebooks]),
        "condition": info.condition,
        "mode": facts.mode,
        "layout": facts.layout,
        "vocabulary": {"shared": ids.shared, **ids.specials, "size": ids.size},
    }


class TarSink:
    """A WebDataset tar: `KEY.npy` with the codes, `KEY.json` with the other columns."""

    def __init__(self, path: Path, facts: RunFacts) -> None:
        self._tar, self._facts = tarfile.open(path, "w:", format=tarfile.PAX_FORMAT), facts  # noqa: SIM115

    def append(self, row: Row) -> None:
        """As `Sink`."""
        key = file_key(row.id)
        self._add(f"{key}.npy", npy_bytes(row))
        self._add(f"{key}.json", json.dumps(to_record(row, self._facts), ensure_ascii=False).encode())

    def _add(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)  # time 0, owner 0: the same bytes each time
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))
        self._tar.members.clear()  # type: ignore[attr-defined]  # else tarfile keeps those of the whole shard

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tar.close()


class FolderSink:
    """A folder with one file for each row, and `rows.jsonl` with the other columns and the file names."""

    def __init__(self, path: Path, facts: RunFacts, *, suffix: str) -> None:
        path.mkdir()
        self._path, self._facts, self._suffix = path, facts, suffix
        self._rows = (path / ROWS).open("w", encoding="utf-8", newline="\n")

    def append(self, row: Row) -> None:
        """As `Sink`."""
        name = file_key(row.id) + self._suffix
        target = self._path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if self._suffix == ".npy":
            target.write_bytes(npy_bytes(row))
        else:
            header = make_header(self._facts.info, self._facts.mode, self._facts.codebooks, condition=row.condition)
            with target.open("wb") as file:
                codesfile.write(file, codesfile.CodesFile(header, row.codes.astype(np.int64), row.n_samples))
        self._rows.write(json.dumps({"file": name, **to_record(row, self._facts)}, ensure_ascii=False) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rows.close()


def open_sink(output: str, path: Path, facts: RunFacts) -> Sink:
    """The sink of an output, writing to `path`. Raises: MissingExtraError: pyarrow is not installed."""
    if output in ("codes", "npy"):
        return FolderSink(path, facts, suffix=f".{output}")
    return ParquetSink(path, facts) if output == "parquet" else TarSink(path, facts)


def read_rows(output: str, path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a shard as dicts of its columns; one at a time.

    `codes` is an unsigned array as the layout has it; `codec.corpus.rows.to_codes` makes codes (Q, F) of it.
    `condition`, of a model that has one, is float32 (N,).

    Raises:
        CorpusError: damaged.
    """
    try:
        for row in READERS[output](path):
            if "condition" in row:
                row["condition"] = np.array(row["condition"], np.float32)
            yield row
    except CodecError as error:
        raise CorpusError(f"{path}: damaged ({error}); run tokenize again") from None
    except (OSError, ValueError, KeyError, tarfile.TarError, EOFError) as error:
        raise CorpusError(f"{path}: damaged ({str(error).splitlines()[0]}); run tokenize again") from None


def file_key(name: str) -> str:
    """An id as a file name: `a/b.c` to `a/b%2Ec`. Different ids give different names, and none leads out of the folder.

    >>> file_key("a/b.c"), file_key("../x"), file_key("/x")
    ('a/b%2Ec', '%2E%2E/x', '%2F/x')
    """
    parts = [_short(quote(part, safe=" +=@,()'!").replace(".", "%2E")) for part in name.split("/")]
    # An empty part, as in `/x` and `a//b`, would make the path another one.
    return "/".join(part or "%2F" for part in parts)


def _short(part: str) -> str:
    """A quoted name as long as file systems take it; of a longer one its beginning and a hash, behind two `%`."""
    return part if len(part) <= LONGEST else f"{part[:100]}%%{hashlib.sha256(part.encode()).hexdigest()[:32]}"


def npy_bytes(row: Row) -> bytes:
    """The codes as the bytes of a `.npy` file."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(row.codes), allow_pickle=False)
    return file.getvalue()


def _read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    with import_parquet().ParquetFile(path) as file:
        names = [name for name in file.schema_arrow.names if name != "codes"]
        for batch in file.iter_batches(64):
            for row, codes in zip(batch.select(names).to_pylist(), batch.column("codes"), strict=True):
                yield row | {"codes": _unnested(codes.values)}


def _read_tar(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as raw:  # tarfile takes a tar without its end for a whole one
        raw.seek(-min(END, path.stat().st_size), os.SEEK_END)
        if raw.read() != bytes(END):
            raise CorpusError(f"{path}: truncated: the end of the tar is missing")
    with tarfile.open(path, "r:") as tar:
        codes = None
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]
            file = tar.extractfile(member)
            data = b"" if file is None else file.read()
            if member.name.endswith(".npy"):
                codes = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
            else:
                yield json.loads(data) | {"codes": codes}


def _read_folder(path: Path) -> Iterator[dict[str, Any]]:
    with (path / ROWS).open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            target = path / row.pop("file")
            codes = np.load(target, allow_pickle=False) if target.suffix == ".npy" else codesfile.read(target).codes
            yield row | {"codes": codes}


READERS: dict[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
    "parquet": _read_parquet,
    "webdataset": _read_tar,
    "codes": _read_folder,
    "npy": _read_folder,
}
