"""A run's state in its folder: what is saved, what is kept, and where it goes on.

checkpoints/000000020000    by number of images; the newest ones and the best one are kept
best                        a link to the best of them
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from accelerate.utils import gather_object
from torch import Tensor

from svq.errors import CheckpointError, TrainingError, few
from svq.provenance import versions
from svq.training import checkpoint
from svq.training.log import console
from svq.training.optimizer import load_optimizer_state, optimizer_state
from svq.training.sharding import load_whole, whole
from svq.training.step import Trainer

BEST = "best"


# Keys of a run's configuration that may change at any time.
FREE = {"evaluate_every", "save_every", "keep", "trackers"}


class Position(NamedTuple):
    """How far a run has come.

    Attributes:
        seen: images.
        skipped: steps that were skipped because of their gradient, in all.
        in_a_row: how many of them were the last ones.
        best: the best value of the task's metric so far, or None.
        best_at: the number of images at which it was measured.
    """

    seen: int = 0
    skipped: int = 0
    in_a_row: int = 0
    best: float | None = None
    best_at: int = 0


def identity(trainer: Trainer) -> dict[str, Any]:
    """Return all that must be the same when a run is resumed: what its result depends on."""
    content = {
        "model": trainer.task.model_config,
        "train": trainer.config.model_dump(mode="json", exclude=FREE),
        "processes": trainer.processes,
        "precision": trainer.engine.mixed_precision,
        **trainer.task.identity,
    }
    return json.loads(json.dumps(content))


def save(trainer: Trainer, out: Path, position: Position) -> None:
    """Publish a checkpoint, then tidy up.

    Raises:
        TrainingError: it cannot be written, as on a full disk; the checkpoints before it are as they were.
    """
    feeds = _gather(trainer, trainer.feed.state())
    files = _tensors(trainer)
    trouble = None
    if trainer.rank == 0:
        try:
            _publish(trainer, out, position, feeds, files)
        except OSError as error:
            kept = checkpoint.newest(out)
            trouble = (
                f"no checkpoint could be written at image {position.seen}: {error}; "
                f"{f'the one before, {kept}, is intact' if kept else 'there is none before it'}; "
                "make room and run the same command again"
            )
        else:
            _tidy(trainer, out, position)
    trouble = trainer.from_first(trouble)
    if trouble:
        raise TrainingError(trouble)


def _tensors(trainer: Trainer) -> dict[str, dict[str, Tensor]]:
    """Return what each file of a checkpoint holds, whole, in the first process; all call this together."""
    task = trainer.task
    files = {"model": task.model.state_dict(), "ema": trainer.average.state_dict()}
    if task.critic is not None:
        files["state/critic"] = task.critic.state_dict()
    for i, optimizer in enumerate(trainer.optimizers):
        files[f"state/optimizer{i}"] = optimizer_state(optimizer)
    return {f"{name}.safetensors": whole(tensors, wanted=trainer.rank == 0) for name, tensors in files.items()}


def _publish(
    trainer: Trainer,
    out: Path,
    position: Position,
    feeds: list[dict[str, Any]],
    files: dict[str, dict[str, Tensor]],
) -> None:
    def write(folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps(trainer.task.model_config, indent=1))
        state = folder / "state"
        state.mkdir()
        for name, tensors in files.items():
            checkpoint.write_tensors(folder / name, tensors)
        (state / "run.json").write_text(
            json.dumps(
                {"position": position._asdict(), "feeds": feeds, "identity": identity(trainer), "versions": versions()},
                indent=1,
            )
        )

    checkpoint.publish(out / checkpoint.CHECKPOINTS / _name(position.seen), write)


def _tidy(trainer: Trainer, out: Path, position: Position) -> None:
    """Point to the best checkpoint, and remove those that are no longer to be kept, and leftovers.

    The checkpoint is written by then, so no trouble here ends the run.
    """
    folder = out / checkpoint.CHECKPOINTS
    best = folder / _name(position.best_at)
    if position.best is not None and best.is_dir():
        try:
            _point(out, best)
        except OSError as error:
            console.print(f"no link '{BEST}' to {best}: {error}", style="yellow", markup=False, soft_wrap=True)
    # Not those beyond: a run that went back behind damaged ones must keep its own, not them.
    reached = [p for p in checkpoint.numbered(folder) if p.name <= _name(position.seen)]
    for old in reached[: -trainer.config.keep]:
        if old != best:
            shutil.rmtree(old, ignore_errors=True)
    for left in (*folder.glob(".*.writing"), *folder.glob(".*.old")):  # by a run that was killed
        shutil.rmtree(left, ignore_errors=True)


def _point(out: Path, best: Path) -> None:
    if (out / BEST / "manifest.json").exists() and not (out / BEST).is_symlink():
        shutil.rmtree(out / BEST)  # a run that was copied may hold a copy of that checkpoint
    link = out / f".{BEST}.writing"
    link.unlink(missing_ok=True)
    link.symlink_to(best.relative_to(out))
    os.replace(link, out / BEST)


def _name(seen: int) -> str:
    return f"{seen:0{checkpoint.DIGITS}d}"


def resume(trainer: Trainer, out: Path, accept_changes: bool, say: Callable[[str], None]) -> Position:
    """Load the newest sound checkpoint of a run, if there is one, and return how far it has come.

    Args:
        trainer: what to load into.
        out: the folder of the run.
        accept_changes: go on with other settings than before; else they are refused.
        say: is told of accepted changes.

    Raises:
        CheckpointError: all checkpoints are damaged, the run had other settings or other data, or it is finished
            and could not learn from what has changed.
    """
    folder = checkpoint.newest_sound(out)
    if folder is None:
        return Position()
    state = checkpoint.read_json(folder / "state" / "run.json")
    changes = differences(state["identity"], identity(trainer))
    if changes and not accept_changes:
        raise CheckpointError(
            f"{out} holds a run with other settings ({few(changes)}); give another --out, the same settings "
            "to go on, or, to 'svq tokenizer train' and 'svq generator train', --accept-changes"
        )
    position = Position(**state["position"])
    unlearnt = [change for change in changes if not change.startswith(("train.", "processes:", "precision:"))]
    if unlearnt and position.seen >= trainer.config.images:
        raise CheckpointError(
            f"{out} is finished, and would learn nothing of what has changed ({few(unlearnt)}); "
            "give more --images, or another --out"
        )
    if changes:
        say(f"{out}: going on with changes: {'; '.join(changes)}")
    anew = _optimizers_begin_anew(state["identity"]["train"], trainer)
    if anew:
        say(f"{out}: the optimizer begins anew, for what it remembers is another's")
    try:
        _load(trainer, folder, anew)
        _restore_feed(trainer, state["feeds"], accept_changes=accept_changes, say=lambda text: say(f"{out}: {text}"))
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(f"{folder} does not fit these settings: {checkpoint.misfit(error)}") from error
    return position


def _restore_feed(
    trainer: Trainer, feeds: list[dict[str, Any]], accept_changes: bool, say: Callable[[str], None]
) -> None:
    """Go on in the order of the pictures, or begin it anew where changed settings have another order."""
    try:  # one for each process; of another number of them, the first speaks for all
        trainer.feed.restore(feeds[trainer.rank if len(feeds) == trainer.processes else 0])
    except (CheckpointError, KeyError) as error:
        if not accept_changes:
            raise
        say(f"the order of the pictures begins anew ({error})")


def _optimizers_begin_anew(old: dict[str, Any], trainer: Trainer) -> bool:
    """Say whether the optimizers own other parameters than before, by the configuration of training before."""
    new = trainer.config.model_dump(mode="json")
    with_critic = [bool(train.get("critic_weight")) for train in (old, new)]
    return old["optimizer"]["name"] != new["optimizer"]["name"] or with_critic[0] != with_critic[1]


def _load(trainer: Trainer, folder: Path, optimizers_begin_anew: bool) -> None:
    task, critic = trainer.task, folder / "state" / "critic.safetensors"
    load_whole(task.model, checkpoint.read_tensors(folder / "model.safetensors"))
    load_whole(trainer.average, checkpoint.read_tensors(folder / "ema.safetensors"))
    if task.critic is not None and critic.exists():
        task.critic.load_state_dict(checkpoint.read_tensors(critic))
    if optimizers_begin_anew:
        return
    for i, optimizer in enumerate(trainer.optimizers):
        load_optimizer_state(optimizer, checkpoint.read_tensors(folder / "state" / f"optimizer{i}.safetensors"))


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Return ``key: old -> new`` for all leaves in which two nested mappings differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [d for k in keys for d in differences(old.get(k), new.get(k), f"{path}.{k}" if path else k)]
    return [] if old == new else [f"{path}: {old} -> {new}"]


def _gather(trainer: Trainer, state: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the states of all processes, in their order."""
    return gather_object([state]) if trainer.processes > 1 else [state]
