"""Sets prepared once, cached on disk and mapped into memory.

What is special: whatever the source, it is read once, cropped and scaled once, and written next to an
index of labels, captions and splits. Training then reads bytes, and two runs on the same set see the
same fingerprint. Nothing is published before it is complete: the folder appears by a rename.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from svq.data.entries import Entry
from svq.data.imageset import Advance, ImageSet, nothing, sorted_classes
from svq.data.stream import stream
from svq.errors import DataError

DAY_S = 24 * 60 * 60
INDEX_VERSION = 4  # another one when the same source gives other pictures
BATCH = 16  # pictures at a time


def cache_root() -> Path:
    """Return the folder for prepared data sets: ``$SVQ_CACHE``, or ``svq`` in the user's cache folder."""
    base = os.environ.get("SVQ_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "svq"


def cached(
    name: str, key: str, size: int, entries: Iterable[Entry], advance: Advance = nothing, count: int = 0
) -> ImageSet:
    """Return the data set `key` from the cache, or read its pictures and put it there.

    Args:
        name: the source as the user wrote it, for messages.
        key: what decides the content: source, versions, file listing.
        size: side of the pictures in pixels.
        entries: the pictures; looked at only if the cache does not hold the set.
        advance: called with the number of pictures read since the last call.
        count: how many there are, where that is known; then room for them is looked for first.

    Raises:
        DataError: there is no readable picture in the source, no room for the set, or nothing may be written there.
    """
    digest = hashlib.sha256(f"{INDEX_VERSION}|{key}|{size}".encode()).hexdigest()[:16]
    folder = cache_root() / "datasets" / f"{digest}-{size}"
    if not (folder / "index.json").exists():
        work = _begin(folder.parent, name, size, count)
        try:
            work.chmod(0o755)  # others may share the cache
            _build(name, size, entries, work, advance)
            _publish(work, folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return _load(name, folder)


def _begin(root: Path, name: str, size: int, count: int) -> Path:
    """Make a folder to build a set of so many pictures in, if there is room."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        _remove_remains(root)
        _check_room(root, name, size, count)
        return Path(tempfile.mkdtemp(prefix=".building-", dir=root))
    except OSError as error:
        raise DataError(
            f"prepared pictures are kept in {root}, where nothing can be written ({error.strerror}); let SVQ_CACHE "
            "name another folder"
        ) from error


def _remove_remains(root: Path) -> None:
    """Remove what preparations left that were killed: none has been written to for a day."""
    for work in root.glob(".building-*"):
        try:
            if time.time() - max(path.stat().st_mtime for path in (work, *work.iterdir())) > DAY_S:
                shutil.rmtree(work, ignore_errors=True)
        except FileNotFoundError:  # another process was quicker
            continue


def _check_room(root: Path, name: str, size: int, count: int) -> None:
    wanted, disk = count * 3 * size**2, shutil.disk_usage(root)
    if disk.total and wanted > disk.free:  # some file systems know nothing of their size
        raise DataError(
            f"{name} at {size} px takes {wanted / 2**30:.1f} GiB in {root}, and {disk.free / 2**30:.1f} are free; make "
            "room, let SVQ_CACHE name a folder with more, or pack the set with 'svq data pack' and stream it"
        )


def _publish(work: Path, folder: Path) -> None:
    """Rename a finished set into its place, unless another process was quicker."""
    try:
        work.rename(folder)
    except OSError:
        if (folder / "index.json").exists():
            return
        shutil.rmtree(folder)  # the remains of a set whose index is gone
        work.rename(folder)


def _build(name: str, size: int, entries: Iterable[Entry], folder: Path, advance: Advance) -> None:
    keys: list[str] = []
    labels: list[str | None] = []
    captions: list[str] = []
    validation: list[bool] = []
    skipped: list[tuple[str, str]] = []
    content = hashlib.sha256()
    with open(folder / "images.u8", "wb") as file:
        for batch in stream(entries, size, BATCH):
            for entry, pixels, split, problem in batch:
                if pixels is None:
                    skipped.append((entry.key, problem))
                    continue
                content.update(pixels.tobytes())
                file.write(pixels.tobytes())
                keys.append(entry.key)
                labels.append(entry.label)
                captions.append(entry.caption or entry.synthetic)
                validation.append(split == "val")
            advance(len(batch))
    if not keys:
        reason = f"; {len(skipped)} skipped, the first: {': '.join(skipped[0])}" if skipped else ""
        raise DataError(f"no readable picture in {name}{reason}")
    classes = sorted_classes({label for label in labels if label is not None})
    number = {label: i for i, label in enumerate(classes)}
    index = {
        "size": size,
        "classes": classes,
        "labels": [-1 if label is None else number[label] for label in labels],
        "captions": captions,
        "keys": keys,
        "validation": validation,
        "skipped": [key for key, _ in skipped],
    }
    content.update(json.dumps(index, sort_keys=True).encode())
    index["fingerprint"] = content.hexdigest()
    # Why a file was skipped is worded by the version of a library; it is no part of the fingerprint.
    index["skipped"] = [": ".join(one) for one in skipped]
    (folder / "index.json").write_text(json.dumps(index))


def _load(name: str, folder: Path) -> ImageSet:
    try:
        return _read(name, folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"the cached data set {folder} is damaged; delete that folder and run again") from error


def _read(name: str, folder: Path) -> ImageSet:
    index = json.loads((folder / "index.json").read_text())
    count, size = len(index["keys"]), index["size"]
    if (folder / "images.u8").stat().st_size != count * 3 * size * size:
        raise ValueError("images.u8 has the wrong size")
    return ImageSet(
        name=name,
        images=np.memmap(folder / "images.u8", np.uint8, "r", shape=(count, 3, size, size)),
        labels=np.array(index["labels"], dtype=np.int64),
        classes=tuple(index["classes"]),
        captions=tuple(index["captions"]),
        keys=tuple(index["keys"]),
        validation=np.array(index["validation"], dtype=bool),
        skipped=tuple(index["skipped"]),
        fingerprint=index["fingerprint"],
    )
