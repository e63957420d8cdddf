"""How fast pictures come: DALI and svq's torch loader against ImageFolder, webdataset and the bare JPEG decoder.

    pip install 'svq[benchmarks]'
    python -m benchmarks.loading

Synthetic photographs (smooth shapes, edges, fine grain), JPEG of quality 90, in two cases: stored at the size
that is asked for, as `svq data pack --resize` does; and larger, cropped at random, scaled and flipped. All
contenders run in this one process and its workers, turn by turn; each figure is the median of several rounds,
after a warm-up that fills whatever they read ahead. The limit is simplejpeg (libjpeg-turbo) decoding files that lie
in memory, each as it is stored, and doing nothing else. At the end, how fast a file of codes is read for stage two.
"""

import argparse
import io
import itertools
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import nvidia.dali as dali
import simplejpeg
import torch
from PIL import Image
from torch.utils.data import DataLoader, RandomSampler
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from svq.data.codes import Codes, load_codes
from svq.data.loaders import Augmentation, Kind, LoaderSettings, open_loader
from svq.data.packing import PackSettings, pack
from svq.data.sources import list_pictures
from svq.provenance import versions

SIZE, BATCH = 256, 64
CPU = torch.device("cpu")


class Case(NamedTuple):
    """What is stored, and what is asked for."""

    name: str
    stored: tuple[int, int]  # width, height
    crop: Augmentation


CASES = (
    Case("stored at 341 x 256, central 256 x 256", (341, 256), Augmentation("centre")),
    Case(
        "stored at 400 x 300, random crop scaled to 256, flipped at random",
        (400, 300),
        Augmentation("random", flip=True),
    ),
)


def photo(seed: int, size: tuple[int, int]) -> bytes:
    """Return a JPEG with large and small forms, as photographs have them: about 0.3 bytes a pixel."""
    rng = np.random.default_rng(seed)

    def noise(cells: int) -> np.ndarray[Any, Any]:
        pixels = rng.integers(0, 256, (cells * 3 // 4, cells, 3), dtype=np.uint8)
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC), dtype=np.float32)

    edges = np.asarray(Image.fromarray(noise(8).mean(2).astype(np.uint8)).point(lambda v: 255 * (v > 128)))
    pixels = 0.5 * noise(6) + 0.15 * noise(40) + 0.1 * noise(150) + 0.25 * edges[..., None]
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def prepare(folder: Path, size: tuple[int, int], count: int) -> None:
    """Write photographs in folders of ten classes, the same as a packed set, and as a tar file."""
    import webdataset as wds

    shutil.rmtree(folder, ignore_errors=True)  # of a preparation that was stopped
    folder.mkdir(parents=True)
    with wds.TarWriter(str(folder / "photos.tar")) as tar:
        for i in range(count):
            data, file = photo(i, size), folder / "photos" / f"class{i % 10}" / f"{i:05d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
            tar.write({"__key__": f"{i:05d}", "jpg": data, "cls": i % 10})
    pack(list_pictures(str(folder / "photos")), folder / "set.rec", "photos", PackSettings())


def transform(crop: Augmentation) -> Callable[[Any], torch.Tensor]:
    """Return torchvision's way to do the same, on Pillow's images, as its examples do it."""
    bicubic = v2.InterpolationMode.BICUBIC
    square = (
        [v2.RandomResizedCrop(SIZE, scale=(crop.smallest_area, 1), interpolation=bicubic)]
        if crop.crop == "random"
        else [v2.Resize(SIZE, interpolation=bicubic), v2.CenterCrop(SIZE)]
    )
    return v2.Compose([*square, *([v2.RandomHorizontalFlip()] if crop.flip else []), v2.PILToTensor()])


def with_pillow(data: bytes) -> None:
    Image.open(io.BytesIO(data)).load()


def decoding(photos: list[bytes], decode: Callable[[bytes], object], threads: int) -> Iterator[int]:
    """Decode as many pictures at a time as a batch has, with threads, and throw them away."""
    chunks = itertools.cycle([photos[i : i + 16] for i in range(0, len(photos) // 16 * 16, 16)])

    def work(chunk: list[bytes]) -> None:
        for data in chunk:
            decode(data)

    with ThreadPoolExecutor(threads) as pool:
        waiting = deque(pool.submit(work, next(chunks)) for _ in range(2 * BATCH // 16))
        while True:
            for _ in range(BATCH // 16):
                waiting.popleft().result()
                waiting.append(pool.submit(work, next(chunks)))
            yield BATCH


def ours(kind: Kind, rec: Path, crop: Augmentation, workers: int) -> Iterator[int]:
    from svq.data.packed import open_index

    settings = LoaderSettings(SIZE, BATCH, "all", augmentation=crop)
    loader = open_loader(kind, open_index(rec), settings, CPU, workers)
    try:
        while True:
            yield len(next(loader).images)
    finally:
        loader.close()


def image_folder(folder: Path, crop: Augmentation, workers: int) -> Iterator[int]:
    images = ImageFolder(folder, transform(crop))
    sampler = RandomSampler(images, replacement=True, num_samples=10**6)
    for batch, _ in DataLoader(images, BATCH, sampler=sampler, num_workers=workers):
        yield len(batch)


def webdataset(tar: Path, crop: Augmentation, workers: int) -> Iterator[int]:
    import webdataset as wds

    pictures = wds.WebDataset(str(tar), resampled=True, shardshuffle=False, nodesplitter=None).shuffle(1000)
    pictures = pictures.decode("pil").to_tuple("jpg", "cls").map_tuple(transform(crop), None).batched(BATCH)
    for batch, _ in wds.WebLoader(pictures, batch_size=None, num_workers=workers):
        yield len(batch)


def contenders(case: Case, folder: Path) -> dict[str, Callable[[], Iterator[int]]]:
    """Return who runs in a case that is prepared."""
    photos = [file.read_bytes() for file in sorted((folder / "photos").rglob("*.jpg"))]
    rec, tar = folder / "set.rec", folder / "photos.tar"
    return {
        "bare decode, 1 thread": lambda: decoding(photos, simplejpeg.decode_jpeg, 1),
        "bare decode, 2 threads": lambda: decoding(photos, simplejpeg.decode_jpeg, 2),
        "bare decode with Pillow, 1 thread": lambda: decoding(photos, with_pillow, 1),
        "bare decode with Pillow, 2 threads": lambda: decoding(photos, with_pillow, 2),
        "svq torch loader, 1 worker": lambda: ours("torch", rec, case.crop, 1),
        "svq torch loader, 2 workers": lambda: ours("torch", rec, case.crop, 2),
        "svq DALI loader on the CPU, 1 thread": lambda: ours("dali", rec, case.crop, 1),
        "svq DALI loader on the CPU, 2 threads": lambda: ours("dali", rec, case.crop, 2),
        "ImageFolder + DataLoader, in the process": lambda: image_folder(folder / "photos", case.crop, 0),
        "ImageFolder + DataLoader, 2 workers": lambda: image_folder(folder / "photos", case.crop, 2),
        "webdataset, 2 workers": lambda: webdataset(tar, case.crop, 2),
    }


def rate(start: Callable[[], Iterator[int]], warm_up: int, batches: int) -> float:
    """Return images per second over some batches behind the first ones."""
    stream = start()
    for _ in range(warm_up):
        next(stream)
    began, seen = time.perf_counter(), 0
    for _ in range(batches):
        seen += next(stream)
    seconds = time.perf_counter() - began
    stream.close()  # type: ignore[attr-defined]
    return seen / seconds


def measure(case: Case, folder: Path, rounds: int, batches: int) -> dict[str, int]:
    runs = contenders(case, folder)
    rates: dict[str, list[float]] = {who: [] for who in runs}
    for _ in range(rounds):
        for who, start in runs.items():
            rates[who].append(rate(start, 6, batches))
    return {who: round(statistics.median(values)) for who, values in rates.items()}


def measure_codes(count: int = 1_000_000, batch: int = 512, batches: int = 2000) -> dict[str, int]:
    """Return sequences per second of opening a file of codes and of taking batches from it in random order."""
    rng = np.random.default_rng(0)
    captions = tuple(f"a picture with the number {i}" for i in range(count))
    codes = Codes(
        codes=rng.integers(0, 1024, (count, 36)), labels=np.zeros(count, np.int64), validation=np.zeros(count, bool),
        captions=captions, classes=("one",), codebook_size=1024, tokenizer="", data="", source="",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        codes.save(Path(name) / "codes.safetensors")
        began = time.perf_counter()
        loaded = load_codes(Path(name) / "codes.safetensors")
        opened = time.perf_counter()
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).numpy()
        chosen = [order[(i * batch) % (count - batch) :][:batch] for i in range(batches)]
        start = time.perf_counter()
        for indices in chosen:
            torch.from_numpy(loaded.codes[indices].astype("int64"))  # as the generator's task does
        taken = time.perf_counter() - start
    return {
        "opened and verified, with captions": round(count / (opened - began)),
        f"random batches of {batch}": round(batch * batches / taken),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=12, help="of 64 pictures, in each round")
    parser.add_argument("--folder", type=Path, help="keep what is prepared here, and find it there the next time")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        root = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ["SVQ_CACHE"] = str(root / "cache")
        folders = [root / f"{'x'.join(map(str, case.stored))}-{arguments.pictures}" for case in CASES]
        for case, folder in zip(CASES, folders, strict=True):
            if not (folder / "set.json").exists():
                prepare(folder, case.stored, arguments.pictures)
        print("prepared", file=sys.stderr)
        result: dict[str, Any] = {
            "pictures": arguments.pictures,
            "rounds": arguments.rounds,
            "batches": arguments.batches,
            "threads_of_torch": torch.get_num_threads(),
            "versions": {**versions("simplejpeg", "webdataset"), "dali": dali.__version__},
            "cases": {},
        }
        for case, folder in zip(CASES, folders, strict=True):
            rates = result["cases"][case.name] = measure(case, folder, arguments.rounds, arguments.batches)
            one, two = rates["bare decode, 1 thread"], rates["bare decode, 2 threads"]
            print(f"\n{case.name}\n{'':42}images/s  of the decode with 1, 2 threads", file=sys.stderr)
            for who, value in rates.items():
                print(f"{who:42}{value:8,}{value / one:10.0%}{value / two:6.0%}", file=sys.stderr)
    result["codes"] = measure_codes()
    print("\nfile of codes, a million sequences of 36", file=sys.stderr)
    for what, value in result["codes"].items():
        print(f"{what:42}{value:12,} sequences/s", file=sys.stderr)
    if arguments.json:
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
