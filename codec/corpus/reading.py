"""An utterance's audio as a stream of chunks, from wherever its bytes lie."""

from __future__ import annotations

import contextlib
import hashlib
import io
import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from codec.audio import Audio, AudioReader, Channels
from codec.corpus.archives import import_parquet
from codec.corpus.utterance import Place, Utterance
from codec.errors import AudioError, CodecError, CorpusError
from codec.files import describe_os_error

CHUNK = 4.0  # seconds that one chunk brings; a few of them wait for the network, so memory stays flat
AHEAD = 8  # chunks that wait for the network: 2 MB of 16 kHz audio


class Reader:
    """Reads utterances one after the other; remembers the last row group of a Parquet file, whose rows come in turn."""

    def __init__(self, sample_rate: int) -> None:
        """`sample_rate` of the chunks, Hz."""
        self._rate = sample_rate
        self._group: tuple[tuple[str, int, str], Any] | None = None

    def chunks(self, item: Utterance) -> Generator[Audio, None, None]:
        """Its audio: (1, t) float32 at the wanted rate.

        Raises:
            AudioError: its bytes are missing or no audio, or the section or channel is not in it.
        """
        if item.problem is not None:
            raise AudioError(f"{item.place.label}: {item.problem}")
        place = item.place
        channels: Channels = "mix" if place.channel is None else "keep"
        section = (place.start or 0.0, place.end)
        source = self._open(place)
        with AudioReader(source, sample_rate=self._rate, channels=channels, chunk=CHUNK, section=section) as reader:
            if place.channel is not None and place.channel >= reader.n_channels:
                raise AudioError(f"{place.label}: has {reader.n_channels} channels, the manifest wants {place.channel}")
            for chunk in reader:
                yield chunk if place.channel is None else chunk[place.channel : place.channel + 1]

    def hash(self, item: Utterance) -> str | None:
        """SHA-256 of what the utterance is made of: its file's bytes and its section; None where it cannot be read."""
        place = item.place
        digest = hashlib.sha256(repr((place.start, place.end, place.channel)).encode())
        try:
            source = self._open(place)
            with open(source, "rb") if isinstance(source, str) else source as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except (OSError, AudioError):
            return None
        return digest.hexdigest()

    def _open(self, place: Place) -> str | BinaryIO:
        """A path, or the bytes as a file whose name is the archive's and the member's."""
        if place.kind == "file":
            return place.path
        try:
            data = self._row_bytes(place) if place.kind == "parquet" else _tar_bytes(place)
        except OSError as error:
            raise AudioError(f"{place.label}: cannot be read: {describe_os_error(error)}") from None
        return _Named(data, place.label)

    def _row_bytes(self, place: Place) -> bytes:
        key = (place.path, place.group, place.column)
        if self._group is None or self._group[0] != key:
            self._group = None  # frees the old one before the new one is read
            with import_parquet().ParquetFile(place.path) as file:
                table = file.read_row_group(place.group, columns=[place.column])
            self._group = (key, table.column(place.column))
        value = self._group[1][place.row].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not data:
            raise AudioError(f"{place.label}: the row has no bytes; embed the audio in the Parquet file")
        return bytes(data)


def _tar_bytes(place: Place) -> bytes:
    with open(place.path, "rb") as file:
        file.seek(place.offset)
        data = file.read(place.size)
    if len(data) < place.size:
        raise AudioError(f"{place.label}: truncated: {len(data)} of {place.size} bytes are there; get the whole tar")
    return data


class _Named(io.BytesIO):
    """Bytes with a name for messages."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


class ReadAhead:
    """Reads, decodes and resamples on a thread of its own, some chunks ahead of the network."""

    def __init__(
        self,
        items: Iterable[Utterance],
        sample_rate: int,
        *,
        skip: Mapping[int, str] | None = None,
        is_careful: bool = False,
    ) -> None:
        """Begin to read.

        Args:
            items: what to read, in order; taken on the thread.
            sample_rate: of the chunks, Hz.
            skip: items by their number that are not to be read, and why.
            is_careful: read nothing ahead: an item only when it is asked for.
        """
        self._queue: queue.Queue[Any] = queue.Queue(AHEAD)
        self._skip, self._is_careful = skip or {}, is_careful
        self._ended, self._asked = threading.Event(), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._read, args=(items, sample_rate), daemon=True)
        self._thread.start()

    def items(self) -> Iterator[Utterance]:
        """The utterances; `chunks` gives the audio of the last one and must be used up before the next."""
        self._asked.release()
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
            self._asked.release()

    def chunks(self) -> Iterator[Audio]:
        """Chunks (1, t). Raises: AudioError: bad audio."""
        while (chunk := self._queue.get()) is not None:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        self._asked.release()
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._queue.get(timeout=0.01)

    def _read(self, items: Iterable[Utterance], sample_rate: int) -> None:
        try:
            reader = Reader(sample_rate)
            for number, item in enumerate(items):
                if self._is_careful:
                    self._asked.acquire()
                if self._ended.is_set():
                    return
                self._queue.put(item)
                reason = self._skip.get(number)
                self._queue.put(self._read_one(reader, item) if reason is None else CorpusError(reason))
            self._queue.put(None)
        except BaseException as error:  # whatever it is, the network's thread must hear of it
            self._queue.put(error)

    def _read_one(self, reader: Reader, item: Utterance) -> CodecError | None:
        try:
            with contextlib.closing(reader.chunks(item)) as chunks:
                for chunk in chunks:
                    self._queue.put(chunk)
                    if self._ended.is_set():
                        return None
        except CodecError as error:
            return error
        return None
