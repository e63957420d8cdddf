"""Pictures of a source as a stream of batches: files are read and decoded by threads while the last batch is used.

What is special: nothing is kept, on disk or in memory, but a few batches. The pixels are those of the prepared
set, `svq.data.prepared.cached`, which is made of such a stream.
"""

import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from svq.data.encoding import decode
from svq.data.entries import Entry, load, split_of
from svq.data.imageset import fit, pad
from svq.errors import DataError

AHEAD = 4  # batches


class Streamed(NamedTuple):
    """One picture: (3, S, S) uint8 and its split, or what was wrong with it."""

    entry: Entry
    pixels: NDArray[np.uint8] | None
    split: Literal["train", "val"]
    problem: str = ""


def stream(
    entries: Iterable[Entry], size: int, batch_size: int, workers: int | None = None
) -> Iterator[list[Streamed]]:
    """Yield the pictures of entries at `size` pixels, in their order, `batch_size` at a time.

    Args:
        entries: what to read; they may read files themselves, and are asked for by the caller's thread.
        size: side of the pictures in pixels.
        batch_size: how many come together; the last ones may be fewer.
        workers: threads; as many as there are cores, if None.
    """

    def prepare(entry: Entry) -> Streamed:
        try:
            content = load(entry.place)
            image = decode(content)
            if entry.place[0] == "idx":  # listed at its own size, which the prepared set pads and does not scale
                image = pad(image, size)
            return Streamed(entry, fit(image, size), split_of(entry, content))
        except (DataError, OSError) as error:
            return Streamed(entry, None, "train", str(error))

    remaining = iter(entries)
    waiting: deque[Future[Streamed]] = deque()
    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0)), "stream") as pool:
        try:
            while True:
                for entry in itertools.islice(remaining, AHEAD * batch_size - len(waiting)):
                    waiting.append(pool.submit(prepare, entry))
                if not waiting:
                    return
                yield [waiting.popleft().result() for _ in range(min(batch_size, len(waiting)))]
        finally:
            pool.shutdown(cancel_futures=True)
