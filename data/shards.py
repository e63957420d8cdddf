"""Shards in the making: files that only grow, and a journal of the lengths up to which they are good.

What is special: whatever moment a process dies at, what lies behind the lengths of the last journal is cut
off by the next one, and nothing before them is written again.
"""

import os
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

from pydantic import BaseModel, ValidationError

from svq.data.packed import FileEntry, ShardEntry
from svq.data.recordio import write_record
from svq.errors import DataError
from svq.files import write_text
from svq.provenance import file_sha256

Writer = Literal["svq", "mxnet"]


class RecordWriter(Protocol):
    """What writes a ``.rec`` and its ``.idx``."""

    def write(self, key: int, payload: bytes) -> None:
        """Append a record."""

    def sync(self) -> tuple[int, int]:
        """Make sure that all is on the disk, and return the bytes of both files."""

    def close(self) -> None:
        """Finish both files."""


class Progress(BaseModel):
    """How far a split is: its finished shards, and the count and lengths up to which the open one is good."""

    finished: list[ShardEntry] = []
    count: int = 0
    lengths: tuple[int, int, int] = (0, 0, 0)  # bytes of .rec, .idx, .jsonl


class Journal(BaseModel):
    """How far a packing is."""

    command: dict[str, Any]  # what was asked for
    done: int = 0  # pictures of the order that are dealt with
    skipped: int = 0
    skipped_bytes: int = 0
    splits: dict[Literal["train", "val"], Progress]

    @classmethod
    def open(cls, path: Path, command: dict[str, Any]) -> "Journal":
        """Read the journal of a packing, or begin one; where all pictures were broken, nothing would be gone on with.

        Raises:
            DataError: it belongs to another command.
        """
        begun = cls(command=command, splits={"train": Progress(), "val": Progress()})
        if not path.exists() or command["writer"] == "mxnet":  # whose files cannot be opened again to go on
            return begun
        try:
            journal = cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise DataError(f"{path} is damaged; delete the folder {path.parent} to begin anew") from error
        if journal.skipped == journal.done:
            return begun
        changed = {name: value for name, value in command.items() if journal.command.get(name) != value}
        if changed.keys() == {"listing"}:
            raise DataError(
                f"{path.parent} holds a packing that was begun when the source listed other pictures; bring those back "
                "to go on, or delete that folder to begin anew"
            )
        if changed:
            differences = [f"{name} {journal.command.get(name)}, now {value}" for name, value in changed.items()]
            raise DataError(
                f"{path.parent} holds a packing that was begun otherwise ({'; '.join(differences)}); "
                "give the same options to go on, or delete that folder to begin anew"
            )
        return journal

    def save(self, path: Path) -> None:
        """Write the journal, whole or not at all."""
        write_text(path, self.model_dump_json())


class SplitWriter:
    """Writes the records of one split as shards of at most `size` records.

    Args:
        folder: where the shards grow.
        name: what their names begin with.
        size: records of a full shard.
        writer: whose RecordIO.
        progress: where to go on; kept up to date by `sync`.
    """

    def __init__(self, folder: Path, name: str, size: int, writer: Writer, progress: Progress) -> None:
        self.folder, self.name, self.size, self.writer, self.progress = folder, name, size, writer, progress
        self._count = progress.count
        self._files: tuple[RecordWriter, BinaryIO] | None = None

    def add(self, key: int, payload: bytes, texts: str) -> None:
        """Append a record and its line of texts."""
        records, lines = self._files = self._files or self._open()
        records.write(key, payload)
        lines.write(texts.encode() + b"\n")
        self._count += 1
        if self._count == self.size:
            self._finish_shard()

    def sync(self) -> None:
        """Make sure that all records are on the disk, and take note of it in the progress."""
        if self._files:
            records, lines = self._files
            lines.flush()
            os.fsync(lines.fileno())
            self.progress.count = self._count
            self.progress.lengths = (*records.sync(), lines.tell())

    def finish(self) -> tuple[ShardEntry, ...]:
        """Close the last shard and return all of them."""
        if self._files or self._count:
            self._files = self._files or self._open()
            self._finish_shard()
        return tuple(self.progress.finished)

    def close(self) -> None:
        """Close the open shard as it is, to go on later."""
        for file in self._files or ():
            file.close()
        self._files = None

    def _paths(self) -> tuple[Path, Path, Path]:
        name = f"{self.name}-{len(self.progress.finished):05d}"
        rec, idx, texts = (self.folder / f"{name}.{ending}" for ending in ("rec", "idx", "jsonl"))
        return rec, idx, texts

    def _open(self) -> tuple[RecordWriter, BinaryIO]:
        rec, idx, texts = self._paths()
        lines = open_at(texts, self.progress.lengths[2])
        if self.writer == "mxnet":
            from svq.data.mxnet_recordio import MxnetRecords

            return MxnetRecords(rec, idx), lines
        return OwnRecords(rec, idx, self.progress.lengths[:2]), lines

    def _finish_shard(self) -> None:
        self.sync()
        self.close()
        rec, idx, texts = (
            FileEntry(name=path.name, bytes=path.stat().st_size, sha256=file_sha256(path)) for path in self._paths()
        )
        self.progress.finished.append(ShardEntry(rec=rec, idx=idx, texts=texts, count=self._count))
        self.progress.count, self.progress.lengths, self._count = 0, (0, 0, 0), 0


class OwnRecords:
    """Writes a ``.rec`` and its ``.idx`` with svq's own codec, from given lengths on."""

    def __init__(self, rec: Path, idx: Path, lengths: tuple[int, int] = (0, 0)) -> None:
        self._rec, self._idx = open_at(rec, lengths[0]), open_at(idx, lengths[1])

    def write(self, key: int, payload: bytes) -> None:
        """Append a record."""
        offset = write_record(self._rec, payload)
        self._idx.write(b"%d\t%d\n" % (key, offset))

    def sync(self) -> tuple[int, int]:
        """Make sure that all is on the disk, and return the bytes of both files."""
        for file in (self._rec, self._idx):
            file.flush()
            os.fsync(file.fileno())
        return self._rec.tell(), self._idx.tell()

    def close(self) -> None:
        """Finish both files."""
        self._rec.close()
        self._idx.close()


def open_at(path: Path, length: int) -> BinaryIO:
    """Open a file for appending behind its first `length` bytes, and cut off the rest.

    Raises:
        DataError: it is shorter.
    """
    file = open(path, "r+b" if path.exists() else "w+b")  # noqa: SIM115
    if file.seek(0, os.SEEK_END) < length:
        file.close()
        raise DataError(f"{path} is shorter than its journal says; delete the folder {path.parent} to begin anew")
    file.truncate(length)
    file.seek(length)
    return file
