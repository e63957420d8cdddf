"""Packing: any source of pictures becomes shuffled shards of records with an index.

What is special: memory does not grow with the pictures, and no work is lost. The source is listed into a
file, of which only the place of each line is held in memory (12 bytes a picture); pictures are read and
encoded by worker processes, a few at a time, and appended to the shards in an order that the seed decides,
whatever the number of workers. A journal says how far the shards are good, so that the same command run
again goes on from there. The set appears when all is done, its index last; that index lies ready before the first
file is moved, so that moving goes on, too.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from decimal import Decimal
from glob import escape
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from svq.data.encoding import Encode, encode
from svq.data.entries import Entry, load, split_of
from svq.data.imageset import Advance, nothing
from svq.data.labels import Layout, clip_tokenizer, join_labels
from svq.data.listing import Listing
from svq.data.packed import Index, PackedSet, ShardEntry, open_index, read_index
from svq.data.parallel import in_order
from svq.data.recordio import ImageRecord, pack_image
from svq.data.shards import Journal, SplitWriter, Writer, open_at
from svq.errors import DataError, UserError
from svq.files import write_text
from svq.locking import lock

CHUNK = 16  # pictures that a worker gets at a time
JOURNAL_EVERY = 4096  # pictures


Progress = Callable[[int], AbstractContextManager[Advance]]


def no_progress(total: int) -> AbstractContextManager[Advance]:
    """Show nothing."""
    return nullcontext(nothing)


class PackSettings(BaseModel):
    """What decides the content of a packed set, beside its source.

    Attributes:
        layout: what the labels of the records hold.
        encode: keep the bytes of the pictures where possible, or encode as PNG or JPEG.
        quality: of JPEG.
        resize: shorter side in pixels to which larger pictures are scaled.
        shard_size: records of a shard.
        seed: of the order.
        writer: svq's own writer of RecordIO, or that of mxnet; both write the same bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Layout = "class"
    encode: Encode = "keep"
    quality: Annotated[int, Field(ge=1, le=100)] = 95
    resize: Annotated[int, Field(ge=1)] | None = None
    shard_size: Annotated[int, Field(ge=1)] = 100_000
    seed: Annotated[int, Field(ge=0)] = 0
    writer: Writer = "svq"


class Prepared(NamedTuple):
    """An entry that was read: what goes into a shard, or the problem."""

    key: str
    split: Literal["train", "val"]
    payload: bytes
    texts: str
    problem: str = ""


def pack(
    entries: Iterable[Entry],
    out: Path,
    source: str,
    settings: PackSettings | None = None,
    *,
    workers: int = 1,
    max_broken: str = "1%",
    progress: Progress = no_progress,
) -> PackedSet:
    """Write pictures as a packed set; if that was begun before, go on.

    Args:
        entries: the pictures, as `svq.data.sources.list_pictures` lists them.
        out: ``NAME.rec``, which stands for ``NAME.json`` and its shards.
        source: the source as the user named it.
        settings: what decides the content.
        workers: number of processes that read and encode.
        max_broken: how many pictures may be broken, as a share of all (``1%``) or as a number.
        progress: given the number of pictures once it is known, returns what takes the number just done.

    Raises:
        DataError: too many pictures are broken, none is readable, or something else stands at `out`.
    """
    settings = settings or PackSettings()
    if out.suffix != ".rec" or not out.name.isprintable():
        raise DataError(f"a packed set is named by a plain file name that ends in .rec, got {out.name!r}")
    if out.exists():
        raise DataError(f"{out} is there already and is no set of this command; give another --out")
    most_broken = _limit(max_broken)
    if settings.layout != "class":
        clip_tokenizer()  # if it is not installed, say so now
    work = out.with_name(f"{out.stem}.packing")
    with _locked(work), closing(Listing(work / "entries.jsonl", entries)) as listing:
        source = source.encode(errors="backslashreplace").decode()  # a name of odd bytes can be no JSON
        command = {**settings.model_dump(), "source": source, "listing": listing.digest}
        final = out.with_suffix(".json")
        if final.exists():
            shutil.rmtree(work)
            if read_index(final).settings != command:
                raise DataError(f"{final} is a set packed from another source or in another way; give another --out")
            return open_index(final)
        journal = Journal.open(work / "journal.json", command)
        ready = work / "index.json"  # written when all shards are whole
        if not ready.exists():
            if not journal.done:
                _refuse_strangers(out)
            with progress(len(listing)) as advance:
                splits = _write(listing, work, out.stem, settings, journal, workers, most_broken(len(listing)), advance)
            made = {"source": source, "settings": command, "layout": settings.layout, "classes": listing.classes}
            index = Index(**made, skipped=journal.skipped, splits=splits)
            write_text(ready, index.model_dump_json(indent=1))
        index = read_index(ready)
        if index.settings != command:  # the journal has told, but where mxnet writes
            raise DataError(
                f"{work} holds a packing that was begun otherwise; give the same options to go on, "
                "or delete that folder to begin anew"
            )
        _publish(work, out, index)
    return open_index(final)


def _refuse_strangers(out: Path) -> None:
    """Refuse to write shards where there are some that no index names."""
    patterns = (f"{escape(out.stem)}-{split}-?????.rec" for split in ("train", "val"))
    strangers = sorted(file for pattern in patterns for file in out.parent.glob(pattern))
    if strangers:
        raise DataError(f"{strangers[0]} is there already and belongs to no set; give another --out")


def _write(
    listing: Listing,
    work: Path,
    name: str,
    settings: PackSettings,
    journal: Journal,
    workers: int,
    most_broken: int,
    advance: Advance,
) -> dict[Literal["train", "val"], tuple[ShardEntry, ...]]:
    """Read what the journal does not know to be done yet, append it to the shards, and return all of them."""
    writers: dict[Literal["train", "val"], SplitWriter] = {
        "train": SplitWriter(work, f"{name}-train", settings.shard_size, settings.writer, journal.splits["train"]),
        "val": SplitWriter(work, f"{name}-val", settings.shard_size, settings.writer, journal.splits["val"]),
    }
    order = np.random.default_rng(settings.seed).permutation(np.arange(len(listing), dtype=np.uint32))
    numbers = {label: i for i, label in enumerate(listing.classes)}
    advance(journal.done)

    def tasks() -> Iterator[tuple[PackSettings, list[tuple[int, int, Entry]]]]:
        for start in range(journal.done, len(order), CHUNK):
            chosen = [(int(i), listing[int(i)]) for i in order[start : start + CHUNK]]
            yield settings, [(i, numbers.get(entry.label or "", -1), entry) for i, entry in chosen]

    with ExitStack() as stack:
        skipped = stack.enter_context(open_at(work / "skipped.jsonl", journal.skipped_bytes))
        for writer in writers.values():
            stack.callback(writer.close)
        for chunk in in_order(_prepare, tasks(), workers):
            for number, prepared in chunk:
                journal.done += 1
                if prepared.problem:
                    journal.skipped += 1
                    skipped.write(json.dumps({"key": prepared.key, "problem": prepared.problem}).encode() + b"\n")
                else:
                    writers[prepared.split].add(number, prepared.payload, prepared.texts)
            advance(len(chunk))
            too_many = journal.skipped > most_broken
            if too_many or journal.done % JOURNAL_EVERY < len(chunk) or journal.done == len(order):
                skipped.flush()
                journal.skipped_bytes = skipped.tell()
                for writer in writers.values():
                    writer.sync()
                journal.save(work / "journal.json")
            if too_many:
                raise DataError(_too_many(journal, most_broken, len(order), work / "skipped.jsonl"))
        if journal.skipped == len(order):
            raise DataError(f"no readable picture; {work / 'skipped.jsonl'} names all {journal.skipped}")
        return {split: writer.finish() for split, writer in writers.items()}


def _too_many(journal: Journal, most: int, total: int, listed: Path) -> str:
    with open(listed, "rb") as file:
        first = json.loads(file.readline())
    if journal.skipped == journal.done:
        return (
            f"all of the first {journal.done} pictures are broken (the first: {first['key']}: {first['problem']}); "
            f"{listed} names them; mend them, give a higher --max-broken, or --root, if a list's paths begin elsewhere"
        )
    return (
        f"{journal.skipped} of the first {journal.done} pictures are broken, more than the {most} allowed of {total} "
        f"(the first: {first['key']}: {first['problem']}); {listed} names them; "
        f"run again with a higher --max-broken to go on, or mend them and delete {listed.parent} to begin anew"
    )


def _prepare(task: tuple[PackSettings, list[tuple[int, int, Entry]]]) -> list[tuple[int, Prepared]]:
    """Read and encode a few pictures; runs in a worker process."""
    settings, chosen = task
    return [(number, _prepare_one(settings, number, label, entry)) for number, label, entry in chosen]


def _prepare_one(settings: PackSettings, number: int, label: int, entry: Entry) -> Prepared:
    try:
        content = load(entry.place)
        data = encode(content, settings.encode, settings.quality, settings.resize)
    except (DataError, OSError) as error:
        return Prepared(entry.key, "train", b"", "", problem=str(error))
    labels = join_labels(settings.layout, label, entry.caption, entry.synthetic)
    texts = {"key": entry.key, "class": entry.label, "caption": entry.caption, "synthetic": entry.synthetic}
    return Prepared(
        key=entry.key,
        split=split_of(entry, content),
        payload=pack_image(ImageRecord(number, labels, data)),
        texts=json.dumps(texts, ensure_ascii=False),
    )


def _limit(text: str) -> Callable[[int], int]:
    """Read ``1%`` or ``100``: how many of a number of pictures may be broken."""
    try:
        if text.endswith("%") and 0 <= (percent := Decimal(text[:-1])) <= 100:  # exact: 29% of 100 are 29
            return lambda total: int(percent * total / 100)
        if int(text) >= 0:
            return lambda total: int(text)
    except (ValueError, ArithmeticError):
        pass
    raise UserError(f"expected a share such as 1% or a number of pictures such as 100, got '{text}'")


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Hold a folder against another process that packs to the same place; without a journal it is not kept."""
    work.mkdir(parents=True, exist_ok=True)
    with open(work / "lock", "w") as file:
        lock(file, DataError(f"another process is at work in {work}"))
        try:
            yield
        finally:
            if not (work / "journal.json").exists():
                shutil.rmtree(work, ignore_errors=True)


def _publish(work: Path, out: Path, index: Index) -> None:
    """Move finished files into their place, the index last; what an earlier try has moved is there already."""
    shards = (shard for entries in index.splits.values() for shard in entries)
    places = {file.name: file.name for shard in shards for file in (shard.rec, shard.idx, shard.texts)}
    listed = out.with_name(f"{out.stem}.skipped.jsonl")
    if index.skipped:
        places["skipped.jsonl"] = listed.name
    else:
        listed.unlink(missing_ok=True)
    for name, place in places.items():
        if (work / name).exists():
            (work / name).rename(out.with_name(place))
    (work / "index.json").rename(out.with_suffix(".json"))
    shutil.rmtree(work)
