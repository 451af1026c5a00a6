"""Archives with audio inside: WebDataset tars, and Parquet files in the layout of Hugging Face datasets.

Source: WebDataset format (a sample is what shares a name up to the first dot of its last part); Hugging Face datasets,
`Audio` feature (a struct of `bytes` and `path`).
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from codec.corpus.manifests import DURATION_KEYS, ID_KEYS, TEXT_KEYS, first_of
from codec.corpus.utterance import BYTES_PER_SECOND, Place, Utterance
from codec.errors import CorpusError, MissingExtraError

AUDIO_MEMBERS = ("flac", "wav", "ogg", "opus", "mp3")
MAX_METADATA = 1 << 20  # bytes of a sample's .json or .txt; more is no transcript
BATCH = 1024  # rows of a Parquet file looked at in one go


def list_tar(path: Path, prefix: str) -> Iterator[Utterance]:
    """The samples of a WebDataset tar; `prefix` comes before their keys."""
    try:
        with tarfile.open(path, "r:") as archive:  # only headers are read, so that a large tar needs little memory
            key = ""
            members: dict[str, tarfile.TarInfo] = {}
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # tarfile would keep every header
                if not member.isfile():
                    continue
                stem, _, suffix = _split(member.name)
                if stem != key and members:
                    yield from _sample(path, prefix, key, members, archive)
                    members = {}
                key = stem
                members[suffix.lower()] = member
            if members:
                yield from _sample(path, prefix, key, members, archive)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise CorpusError(
            f"{path}: not a whole, uncompressed tar ({error}); unpack compressed ones, get damaged ones again"
        ) from None


def _split(name: str) -> tuple[str, str, str]:
    folder, slash, last = name.rpartition("/")
    stem, dot, suffix = last.partition(".")
    return folder + slash + stem, dot, suffix


def _sample(
    path: Path, prefix: str, key: str, members: dict[str, tarfile.TarInfo], archive: tarfile.TarFile
) -> Iterator[Utterance]:
    """One utterance, none where the sample has no audio."""
    kind = next((suffix for suffix in AUDIO_MEMBERS if suffix in members), None)
    if kind is None:
        return
    fields: dict[str, Any] = {}
    if "json" in members:
        try:
            data = json.loads(_small(archive, members["json"]))
            fields = dict(data) if isinstance(data, dict) else {}
        except ValueError:
            fields = {}
    text = first_of(fields, TEXT_KEYS)
    if text is None and "txt" in members:
        text = _small(archive, members["txt"]).decode(errors="replace").strip()
    seconds = first_of(fields, DURATION_KEYS)
    name = first_of(fields, ID_KEYS)
    audio = members[kind]
    place = Place(str(path), "tar", audio.name, offset=audio.offset_data, size=audio.size)
    length = float(seconds) if isinstance(seconds, int | float) else 0.0
    yield Utterance(prefix + key if name is None else str(name), place, text, fields, length)


def _small(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read(MAX_METADATA) if file is not None else b""


def import_parquet() -> Any:
    """`pyarrow.parquet`. Raises: MissingExtraError."""
    try:
        import pyarrow.parquet as parquet  # of the extra `tokens`
    except ModuleNotFoundError:
        raise MissingExtraError("pyarrow", "tokens", need="Parquet") from None
    return parquet


def list_parquet(path: Path, prefix: str) -> Iterator[Utterance]:
    """The rows of a Parquet file that has a column of audio bytes; without a column `id` they are numbered."""
    parquet = import_parquet()
    try:
        with parquet.ParquetFile(path) as file:
            column, others = _columns(file.schema_arrow, path)
            count = 0
            for group in range(file.num_row_groups):
                rows = 0
                size = _mean_size(file.metadata.row_group(group), column)
                for batch in file.iter_batches(BATCH, row_groups=[group], columns=[*others, f"{column}.path"]):
                    for data in batch.to_pylist():
                        yield _row(path, prefix, data, column, (group, rows, count, size))
                        rows, count = rows + 1, count + 1
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these kinds
        if isinstance(error, CorpusError):
            raise
        raise CorpusError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]})") from None


def _columns(schema: Any, path: Path) -> tuple[str, list[str]]:
    """The audio column, and those that are passed through."""
    import pyarrow as pa

    names = [f.name for f in schema if pa.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0]
    names = sorted(names, key=lambda name: name != "audio") or [
        f.name for f in schema if pa.types.is_binary(f.type) or pa.types.is_large_binary(f.type)
    ]
    if not names:
        raise CorpusError(f"{path}: no column of audio bytes; name one `audio`, of type struct<bytes, path>")
    heavy = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_struct)
    return names[0], [f.name for f in schema if not any(is_heavy(f.type) for is_heavy in heavy)]


def _mean_size(group: Any, column: str) -> int:
    columns = (group.column(i) for i in range(group.num_columns))
    total = sum(c.total_uncompressed_size for c in columns if c.path_in_schema.split(".")[0] == column)
    return int(total / max(1, group.num_rows))


def _row(path: Path, prefix: str, data: dict[str, Any], column: str, at: tuple[int, int, int, int]) -> Utterance:
    group, row, count, size = at
    audio = data.pop(column, None)
    name = audio.get("path") if isinstance(audio, dict) else None
    fields = {key: value for key, value in data.items() if value is not None}
    text, found = first_of(fields, TEXT_KEYS), first_of(fields, ID_KEYS)
    seconds = first_of(fields, DURATION_KEYS)
    length = float(seconds) if isinstance(seconds, int | float) else size / BYTES_PER_SECOND
    place = Place(str(path), "parquet", name or f"row {count}", group=group, row=row, column=column)
    return Utterance(f"{prefix}{count:06d}" if found is None else str(found), place, text, fields, length)
