"""What a result was made with and from: versions and checksums, recorded beside each result."""

import hashlib
import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

PACKAGES = (
    "svq",
    "torch",
    "torchvision",
    "accelerate",
    "numpy",
    "pillow",
    "vector-quantize-pytorch",
    "x-transformers",
    "torch-fidelity",
)


def versions(*others: str) -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a result, of `others`, too, and the machine."""
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} x {processor()}",
        **{name: version(name) for name in (*PACKAGES, *others)},
    }


def processor() -> str:
    """Return the name of the processor, as Linux knows it."""
    known = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", known.read_text() if known.exists() else "", re.MULTILINE)
    return names[0] if names else "processor"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
