"""k-means in blocks against that of vector-quantize-pytorch: time, memory, and how near the codes come.

    OMP_NUM_THREADS=1 python -m benchmarks.kmeans_speed

Both begin a codebook with latents of the pictures that `openmoji-32` was trained on, one after the other in this one
process.
"""

import argparse
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from vector_quantize_pytorch.vector_quantize_pytorch import kmeans as kmeans_at_once

from svq.data import open_images
from svq.pixels import to_float
from svq.provenance import versions
from svq.tokenizer import StyledTokenizer
from svq.tokenizer.kmeans import kmeans

ROWS = 8192  # distances to all codes at a time, to measure the result


def memory(field: str) -> float:
    """Return the memory of this process in GiB: VmRSS is what it holds, VmHWM the most it held."""
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 2**20  # Linux says KiB


def distortion(latents: Tensor, means: Tensor) -> float:
    """Return the mean squared distance of latents (N, d) to the nearest of means (K, d)."""
    return torch.cat([torch.cdist(rows, means).amin(1).square() for rows in latents.split(ROWS)]).mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2048, help="pictures whose latents begin the codebook")
    parser.add_argument("--codes", type=int, default=1024)
    parser.add_argument("--iterations", type=int, default=30)
    arguments = parser.parse_args()

    tokenizer = StyledTokenizer.from_pretrained("openmoji-32")
    images = open_images("openmoji", tokenizer.config.image_size)

    @torch.no_grad()
    def latents(pictures: Tensor) -> Tensor:
        return torch.cat([tokenizer.latents(part) for part in to_float(pictures).split(128)]).flatten(0, 1)

    fitted, held_out = latents(images.some("train", arguments.images)), latents(images.some("val", arguments.images))

    def measured(fit: Callable[[], Tensor]) -> dict[str, float]:
        torch.manual_seed(0)
        Path("/proc/self/clear_refs").write_text("5")  # the most it held is forgotten
        before, began = memory("VmRSS"), time.perf_counter()
        means = fit()
        taken = time.perf_counter() - began
        return {"seconds": taken, "gib": memory("VmHWM") - before, "distortion": distortion(held_out, means)}

    blocks = measured(lambda: kmeans(fitted, arguments.codes, arguments.iterations)[0])
    at_once = measured(lambda: kmeans_at_once(fitted[None], arguments.codes, arguments.iterations)[0][0])
    result = {
        "latents": len(fitted),
        "codes": arguments.codes,
        "iterations": arguments.iterations,
        "threads": torch.get_num_threads(),
        "svq": blocks,
        "vector_quantize_pytorch": at_once,
        "speedup": at_once["seconds"] / blocks["seconds"],
        "data": images.fingerprint,
        "versions": versions(),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
