"""How many images fit into memory at a time, found by trial."""

import ctypes
import resource
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import find_executable_batch_size, gather_object

from svq.errors import TrainingError
from svq.training import checkpoint
from svq.training.config import TrainConfig
from svq.training.step import Trainer
from svq.training.task import Task


def settle_micro_batch(task: Task, config: TrainConfig, engine: Accelerator, out: Path | None) -> TrainConfig:
    """Return the configuration with a number for ``micro_batch``, if it says ``auto``.

    A run that goes on keeps the number it began with. Else the largest is taken, of a process's share, its half
    and so on, with which a step does not run out of memory. Several GPUs must be alike and free: where one has room
    and another has not, the one would wait for the other.
    """
    if config.micro_batch != "auto":
        return config
    folder = checkpoint.newest_sound(out) if out is not None else None
    if folder is not None:
        found = checkpoint.read_json(folder / "state" / "run.json")["identity"]["train"]["micro_batch"]
    else:
        found = _largest(task, config, engine)
    return config.model_copy(update={"micro_batch": found})


def _largest(task: Task, config: TrainConfig, engine: Accelerator) -> int:
    parts = [part for part in (task.model, task.critic) if part is not None]
    before = [{name: t.clone() for name, t in part.state_dict().items()} for part in parts]

    def attempt(batch_size: int) -> int:
        _clear(engine)  # of an attempt before
        trainer = Trainer(task, config.model_copy(update={"micro_batch": batch_size}), engine)
        for optimizer in trainer.optimizers:
            optimizer.zero_grad()  # of an attempt that did not fit
        # The end of a run needs most: codes and a discriminator; and a second step, for then the optimizer's state
        # is there while activations are.
        for _ in range(2):
            try:
                trainer.step(config.images - config.batch_size, config.images, trainer.feed.next())
            except TrainingError as error:  # so few that a part of them has no statistics; a smaller number may do
                raise RuntimeError(f"{error}; as good as out of memory.") from error
        return batch_size

    # On a CPU oneDNN, once out of memory, fails in all that follows: trials go without it, and leave the run some room
    # for it, below the bound that `svq` has set.
    onednn, *_ = torch.backends.mkldnn.set_flags(_enabled=False, _fp32_precision=None)
    bound = resource.getrlimit(resource.RLIMIT_DATA)[0]
    reserve = torch.empty(0 if bound == resource.RLIM_INFINITY else bound // 16, dtype=torch.uint8)
    share = config.batch_size // engine.num_processes
    smaller = iter([share >> i for i in range(1, share.bit_length() + 1)])
    try:
        found: int = find_executable_batch_size(attempt, share, lambda: next(smaller))()
    except RuntimeError as error:
        if "No executable batch size" not in str(error):
            raise
        raise TrainingError("not even the fewest images at a time fit into memory; give a smaller model") from error
    finally:
        del reserve
        torch.backends.mkldnn.set_flags(_enabled=onednn, _fp32_precision=None)
        for part, state in zip(parts, before, strict=True):
            part.load_state_dict(state)
        _clear(engine)
    return min(gather_object([found])) if engine.num_processes > 1 else found


def _clear(engine: Accelerator) -> None:
    """Give back the memory of an attempt; of a CPU's, glibc would keep much, in pieces that are of little use."""
    engine.free_memory()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
