"""Files that others may read, too."""

import os
from pathlib import Path


def open_to_others(path: Path) -> None:
    """Give a file the permissions of any new file of this user; safetensors makes its files for their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
