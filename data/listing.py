"""The entries of a source in a file, so that millions of them can be read in any order."""

import hashlib
import json
from array import array
from collections.abc import Iterable
from pathlib import Path

from svq.data.entries import Entry
from svq.data.imageset import sorted_classes
from svq.errors import DataError


class Listing:
    """The entries of a source, one a line in a file, and what must be known of all of them.

    Attributes:
        digest: SHA-256 of the file.
        classes: names of the classes, in order.
    """

    def __init__(self, path: Path, entries: Iterable[Entry]) -> None:
        ends, digest, classes = array("Q", [0]), hashlib.sha256(), set()
        with open(path, "wb") as file:
            for entry in entries:
                line = json.dumps(entry).encode() + b"\n"
                file.write(line)
                digest.update(line)
                ends.append(ends[-1] + len(line))
                if entry.label is not None:
                    classes.add(entry.label)
        if len(ends) == 1:
            raise DataError("the source lists no picture")
        self._file, self._begins = open(path, "rb"), ends[:-1]  # noqa: SIM115
        self.digest, self.classes = digest.hexdigest(), tuple(sorted_classes(classes))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __len__(self) -> int:
        return len(self._begins)

    def __getitem__(self, number: int) -> Entry:
        self._file.seek(self._begins[number])
        key, place, *rest = json.loads(self._file.readline())
        return Entry(key, tuple(place), *rest)
