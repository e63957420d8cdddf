"""Whether the files of a packed set are what its index says.

Structure, which is what keeps a reader from harm: the records follow each other from the first byte to the
last, and the ``.idx`` names the beginning of each of them and no other place. Beyond that: sizes and SHA-256
as in the index, labels as its layout says, one line of texts for each record, and pictures that decode.

What is special: a set that was found in order once is not read again. A receipt in the cache holds the size,
the time of change and the SHA-256 of each file; a file that differs from its receipt is read anew.
"""

import hashlib
import json
import os
import time
from array import array
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from svq.data.encoding import decode, is_flawless, look
from svq.data.imageset import Advance, nothing
from svq.data.labels import WIDTHS
from svq.data.packed import FileEntry, PackedSet, Shard
from svq.data.prepared import cache_root
from svq.data.recordio import read_offsets, read_records, unpack_image
from svq.errors import DataError
from svq.files import write_text
from svq.provenance import file_sha256

MOST_PROBLEMS = 1000
# File systems count time in steps: a file that was changed a moment ago may change again without a new time.
SETTLED_NS = 2 * 10**9
State = list[tuple[str, int, int, str]]  # of each file of a shard: name, bytes, time of change in ns, SHA-256 or ""


class Verification(NamedTuple):
    """What a look at all files of a set has shown; without problems all is well."""

    records: int
    problems: tuple[str, ...]


def ensure_verified(packed: PackedSet, advance: Advance = nothing) -> PackedSet:
    """Return the set if its files are what its index says; the first time this reads all of them.

    What reads records without checks of its own, such as DALI, must be given a set that came out of here.

    Args:
        packed: a set as `svq.data.packed.open_index` returns it.
        advance: called with the number of bytes read since the last call.

    Raises:
        DataError: a file is missing, damaged, or not the one that was packed; the message names the first problem.
    """
    for shard in packed.shards("all"):
        state = _state(shard)
        identity = hashlib.sha256(os.fsencode(shard.rec.resolve()) + f"|{packed.layout}|{shard.count}".encode())
        receipt = cache_root() / "verified" / f"{identity.hexdigest()}.json"
        if state and _receipt(receipt) == state:
            advance(shard.rec.stat().st_size)
            continue
        problem = next(check_shard(shard, packed, advance=advance), None)
        if problem:
            raise DataError(f"{problem}; 'svq data verify {packed.path}' says more")
        if state and max(changed for _, _, changed, _ in state) < time.time_ns() - SETTLED_NS:
            write_text(receipt, json.dumps(state))
    return packed


def verify_packed(packed: PackedSet, advance: Advance = nothing) -> Verification:
    """Look at every byte of a set, and decode every picture; stop at `MOST_PROBLEMS` problems.

    Args:
        packed: a set as `svq.data.packed.open_index` returns it.
        advance: called with the number of bytes read since the last call.
    """
    problems = (p for shard in packed.shards("all") for p in check_shard(shard, packed, advance, pictures=True))
    return Verification(packed.count("all"), tuple(islice(problems, MOST_PROBLEMS)))


def check_shard(shard: Shard, packed: PackedSet, advance: Advance = nothing, pictures: bool = False) -> Iterator[str]:
    """Yield what is wrong with a shard.

    Args:
        shard: one of the set's shards.
        packed: the set.
        advance: called with the number of bytes read since the last call.
        pictures: decode each picture, too.
    """
    for file, entry in _files(shard):
        if not file.is_file():
            yield f"no such file: {file}"
            return
        if entry and file.stat().st_size != entry.bytes:
            yield f"{file} has {file.stat().st_size} bytes, {entry.bytes} in the index"
        elif entry and file_sha256(file) != entry.sha256:
            yield f"{file} has changed since it was packed: its SHA-256 is not that of the index"
    begins = array("q")  # 8 bytes a record
    try:
        for offset, payload in read_records(shard.rec):
            advance(offset - (begins[-1] if begins else 0))
            begins.append(offset)
            if problem := _problem(payload, packed, pictures):
                yield f"{shard.rec}: record {len(begins) - 1} at offset {offset}: {problem}"
        advance(shard.rec.stat().st_size - (begins[-1] if begins else 0))
    except DataError as error:
        yield str(error)
    if len(begins) != shard.count:
        yield f"{shard.rec} holds {len(begins)} records, {shard.count} announced"
    yield from _offset_problems(shard, np.array(begins, np.int64))
    try:
        if shard.texts and (lines := sum(1 for _ in shard.read_texts())) != shard.count:
            yield f"{shard.texts} has {lines} lines, {shard.count} announced"
    except DataError as error:
        yield str(error)


def _problem(payload: bytes, packed: PackedSet, pictures: bool) -> str:
    """Return what is wrong with a record, or nothing."""
    try:
        record = unpack_image(payload)
        if packed.index and len(record.labels) != WIDTHS[packed.layout]:
            return f"{len(record.labels)} labels, {WIDTHS[packed.layout]} in the layout '{packed.layout}'"
        if pictures:
            decode(record.data)
            if not is_flawless(record.data):
                return "a flaw that DALI may stop at; pack the set anew"
        elif packed.index is None:  # nobody has looked at its pictures yet; DALI itself allows any size
            look(record.data)
    except DataError as error:
        return str(error)
    return ""


def _offset_problems(shard: Shard, begins: NDArray[np.int64]) -> Iterator[str]:
    """Compare the offsets in the ``.idx`` file with where records really begin."""
    try:
        _, named = read_offsets(shard.idx)
    except DataError as error:
        yield str(error)
        return
    astray = np.setdiff1d(named, begins)
    left_out = len(np.setdiff1d(begins, named))
    if len(astray):
        yield f"{shard.idx}: {len(astray)} offsets at which no record begins, the first {astray[0]}"
    if left_out:
        yield f"{shard.idx}: {left_out} of {len(begins)} records are not named"


def _files(shard: Shard) -> list[tuple[Path, FileEntry | None]]:
    """Return the files of a shard, each with what the index says of it."""
    if shard.entry is None or shard.texts is None:
        return [(shard.rec, None), (shard.idx, None)]
    return [(shard.rec, shard.entry.rec), (shard.idx, shard.entry.idx), (shard.texts, shard.entry.texts)]


def _state(shard: Shard) -> State | None:
    """Return what identifies the files of a shard without reading them; None if one is missing or of another size."""
    state: State = []
    for file, entry in _files(shard):
        if not file.is_file() or (entry and file.stat().st_size != entry.bytes):
            return None
        stat = file.stat()
        state.append((file.name, stat.st_size, stat.st_mtime_ns, entry.sha256 if entry else ""))
    return state


def _receipt(path: Path) -> State | None:
    try:
        return [(str(name), int(size), int(time), str(sha)) for name, size, time, sha in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError):
        return None
