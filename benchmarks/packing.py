"""Packing at scale: does memory stay flat and time linear as the number of records grows?

    python -m benchmarks.packing --counts 125k 250k 500k 1M --workers 2

A JSONL list names a few hundred small PNG files again and again, each row with a caption of its own, so that
a million records need no million files. Each count is packed by a process of its own; its highest memory is
the resident set of that process when the set is packed and verified, and of the largest of its workers.
Reading the set back in random order is timed, too, after that, for pages that are mapped count as resident.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from svq.cli.options import count
from svq.data.entries import Entry
from svq.data.lists import entries
from svq.data.packed import open_index
from svq.data.packing import PackSettings, pack
from svq.data.verify import ensure_verified
from svq.provenance import versions

FILES = 256
READS = 20_000


def make_list(folder: Path, records: int) -> Path:
    """Write a list of so many pictures."""
    rng = np.random.default_rng(0)
    for i in range(FILES):
        pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    with open(folder / "list.jsonl", "w") as file:
        for i in range(records):
            row = {"key": f"{i:09d}", "path": f"{i % FILES}.png", "class": i % 100, "caption": f"picture number {i}"}
            # A tenth is held out; by content it would be a tenth of the few files.
            file.write(json.dumps(row | {"split": "val" if i % 10 == 0 else "train"}) + "\n")
    return folder / "list.jsonl"


def peak_mib(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / 1024


def measure(records: int, workers: int) -> dict[str, Any]:
    """Pack so many records, and return what it took; runs in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["SVQ_CACHE"] = str(folder / "cache")
        listed: Iterator[Entry] = entries(make_list(folder, records))
        before = peak_mib(resource.RUSAGE_SELF)
        began = time.perf_counter()
        pack(listed, folder / "set.rec", "synthetic", PackSettings(shard_size=100_000), workers=workers)
        packed_s = time.perf_counter() - began

        began = time.perf_counter()
        packed = ensure_verified(open_index(folder / "set.rec"))
        verified_s = time.perf_counter() - began
        peak = peak_mib(resource.RUSAGE_SELF)

        files = [shard.open() for shard in packed.shards("all")]
        rng = random.Random(0)
        began = time.perf_counter()
        for _ in range(READS):
            file = rng.choice(files)
            assert file[rng.randrange(len(file))].data
        read_s = time.perf_counter() - began
        return {
            "records": packed.count("all"),
            "mib": round(packed.bytes / 2**20, 1),
            "seconds": round(packed_s, 1),
            "records_per_s": round(records / packed_s),
            "before_mib": round(before),
            "peak_mib": round(peak),
            "worker_mib": round(peak_mib(resource.RUSAGE_CHILDREN)),
            "verify_s": round(verified_s, 1),
            "random_reads_per_s": round(READS / read_s),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=count, nargs="+", default=[125_000, 250_000, 500_000, 1_000_000])
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    rows = []
    for records in arguments.counts:
        with ProcessPoolExecutor(1, context) as process:  # says so if it dies, where a queue would be waited for
            rows.append(process.submit(measure, records, arguments.workers).result())
        if len(rows) == 1:
            print("  ".join(f"{name:>18}" for name in rows[0]))
        print("  ".join(f"{value:>18,}" for value in rows[-1].values()), flush=True)
    print(json.dumps({"workers": arguments.workers, "rows": rows, "versions": versions()}, indent=1))


if __name__ == "__main__":
    main()
