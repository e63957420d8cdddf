"""What the two training commands share: several processes, the dry run, and the run itself."""

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from svq.cli.output import show
from svq.errors import RunStopped, UserError

if TYPE_CHECKING:
    from svq.training.config import TrainConfig
    from svq.training.task import Task


SAVING_S = 600  # that a process may take, when asked to stop, to end its step and to save


def batch_options(batch_size: int | str | None) -> dict[str, Any]:
    """Return the configuration's keys that ``--batch-size`` means."""
    return {"train.micro_batch": "auto"} if batch_size == "auto" else {"train.batch_size": batch_size}


def in_processes(count: int) -> bool:
    """Run this very command in `count` processes of this machine; False where there is nothing to do.

    Raises:
        RunStopped: they were asked to stop, and have saved all.
        UserError: one of them failed, and has said why.
    """
    if count == 1 or "RANK" in os.environ:
        return False
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=count, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0
    )
    if hasattr(config, "shutdown_timeout"):  # not in all versions of torch, whose processes then have 30 s
        config.shutdown_timeout = SAVING_S
    # As torchrun does: the processes share the cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(len(os.sched_getaffinity(0)) // count, 1)))
    try:
        elastic_launch(config, sys.executable)("-m", "svq", *sys.argv[1:])
    except SignalException as error:
        raise RunStopped("stopped; the same command goes on") from error
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        if codes == {RunStopped.EXIT_CODE}:
            raise RunStopped("stopped; the same command goes on") from error
        raise UserError(f"the run ended in one of its {count} processes; the line above says why") from error
    return True


def show_dry(build: Callable[[], "Task"], config: "TrainConfig", as_json: bool) -> None:
    """Take a step and print what a run would need."""
    from svq.training.dry import dry_run

    result = dry_run(build, config)
    rows = {
        "parameters": f"{result['parameters'] / 1e6:.1f} M",
        "device": f"{result['device']}, {result['precision']}, {result['processes']} process(es)",
        "batch": f"{result['batch_size']} images, {result['micro_batch']} at a time in a process",
        "memory": f"{result['memory'] / 2**30:.2f} GiB at most",
        "speed": f"{result['images_per_s']:.0f} images/s",
        "a run takes": f"{timedelta(seconds=round(result['seconds']))} (h:mm:ss) for {config.images:,} images",
    }
    show(result, rows, as_json)
