"""What a result was made with and from: versions and checksums, recorded beside each result."""

import hashlib
import platform
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


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a result, and the kind of machine."""
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        **{name: version(name) for name in PACKAGES},
    }


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
