"""A bound on this program's memory: what does not fit fails where it is asked for, with a line that says so.

Without it Linux promises memory that is not there, and kills whoever uses it: the program, or one beside it, without a
word, and without ``--batch-size auto`` having seen anything.
"""

import os
import resource
from pathlib import Path

# Drivers of GPUs reserve many times what they use. CUDA's; CUDA's under Windows; ROCm's.
DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))


def bound_memory() -> None:
    """Let this process have what is free now and not more, or its share of that; not where there may be a GPU."""
    if any(driver.exists() for driver in DRIVERS):
        return
    import psutil

    free = psutil.virtual_memory().available + psutil.swap_memory().free
    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    bound = free // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    for limit in (before, most):
        bound = bound if limit == resource.RLIM_INFINITY else min(bound, limit)
    resource.setrlimit(resource.RLIMIT_DATA, (bound, most))
