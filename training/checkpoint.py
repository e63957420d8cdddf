"""Checkpoints: folders of safetensors and JSON, written whole or not at all, verified when read.

What is special: a folder is made under another name, flushed to the disk and published by a rename, so
that a checkpoint that can be seen is complete. Nothing that is loaded can execute code.

    config.json         what the model was built from
    model.safetensors   the weights; or model.safetensors.xz, the same packed
    ema.safetensors     their moving average, the ones to use
    state/              what training needs to go on: optimizers, position, configuration of the run
    manifest.json       SHA-256 of each file above
"""

import hashlib
import json
import lzma
import os
import shutil
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save_file
from torch import Tensor, nn

from svq.errors import CheckpointError, few
from svq.files import open_to_others
from svq.provenance import file_sha256
from svq.training.log import console

Model = TypeVar("Model", bound=nn.Module)
CHECKPOINTS = "checkpoints"
DIGITS = 12  # of a checkpoint's name, which is how many images it has seen
# LZMA that expects numbers of 16 bits: of float16 weights, a seventh is saved.
XZ = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 1, "pb": 1}]


def publish(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary folder, add the manifest, and rename it to `folder`; a link stays one."""
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = folder.parent / f".{folder.name}.writing"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        write(work)
        files = sorted(p for p in work.rglob("*") if p.is_file())
        manifest = {str(p.relative_to(work)): file_sha256(p) for p in files}
        (work / "manifest.json").write_text(json.dumps(manifest, indent=1))
        for path in [*files, work / "manifest.json", *(p for p in work.rglob("*") if p.is_dir()), work]:
            _flush(path)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)  # on a full disk it would keep the next one from being written
        raise
    replace(folder, work)
    _flush(folder.parent)


def replace(folder: Path, work: Path) -> None:
    """Rename `work` to `folder`; what was there before is removed only then."""
    old = folder.parent / f".{folder.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    work.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _manifest(folder: Path) -> dict[str, str]:
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} is not a checkpoint: manifest.json cannot be read ({error})") from error
    if not isinstance(manifest, dict):
        raise CheckpointError(f"{folder} is not a checkpoint: manifest.json holds no names of files")
    return manifest


def verify(folder: Path) -> None:
    """Compare a checkpoint with its manifest.

    Raises:
        CheckpointError: a file is missing or differs.
    """
    for name, expected in _manifest(folder).items():
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} is damaged: {name} is missing; use another checkpoint or train again")
        if file_sha256(folder / name) != expected:
            raise CheckpointError(f"{folder} is damaged: {name} has changed; use another checkpoint or train again")


def newest(run: Path) -> Path | None:
    """Return the newest checkpoint of a run, or None."""
    found = _all(run)
    return found[-1] if found else None


def _all(run: Path) -> list[Path]:
    return numbered(run / CHECKPOINTS)


def numbered(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, sorted; a copy that a user keeps there by another name is none."""
    return sorted(p for p in folder.glob("[0-9]" * DIGITS) if p.is_dir())


def newest_sound(run: Path) -> Path | None:
    """Return the newest checkpoint of a run that is as it was written, or None if there is none at all.

    Damaged ones are named on stderr and passed over.

    Raises:
        CheckpointError: all are damaged.
    """
    found = _all(run)
    for folder in reversed(found):
        try:
            verify(folder)
        except CheckpointError as error:
            console.print(f"{error}", style="yellow", markup=False, highlight=False, soft_wrap=True)
        else:
            return folder
    if found:
        raise CheckpointError(f"all checkpoints of {run} are damaged; train again in another folder")
    return None


def find(path: str | Path) -> Path:
    """Return the checkpoint that a path means: itself, or the newest sound one of a run.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = Path(path)
    if (path / "manifest.json").is_file():
        verify(path)
        return path
    checkpoint = newest_sound(path)
    if checkpoint is None:
        raise CheckpointError(f"no checkpoint in {path}; train one first, or name the folder of a run")
    return checkpoint


def read_json(path: Path) -> Any:
    """Read a JSON file of a checkpoint.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file of a checkpoint, or the packed one in its place.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    packed = _packed(path)
    try:
        return load(lzma.decompress(packed.read_bytes())) if packed.is_file() else load_file(path)
    except (OSError, lzma.LZMAError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors, which may share memory, as a safetensors file."""
    try:
        save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, path)
        open_to_others(path)
    except SafetensorError as error:  # what a full disk is called there
        raise OSError(f"{path} cannot be written: {error}") from error


def _packed(path: Path) -> Path:
    return path.with_name(f"{path.name}.xz")


def load_model(path: str | Path, build: Callable[[Any], Model]) -> Model:
    """Build a model from the ``config.json`` of a checkpoint and load its averaged weights.

    Raises:
        CheckpointError: there is no checkpoint, it is damaged, or the weights do not fit.
    """
    folder = find(path)
    try:
        model = build(read_json(folder / "config.json"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CheckpointError(
            f"{folder} holds another kind of model, or one of another version of svq ({where}: {first['msg']})"
        ) from error
    averaged = folder / "ema.safetensors"
    tensors = read_tensors(averaged if averaged.is_file() else folder / "model.safetensors")
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"the weights in {folder} do not fit its config.json: {misfit(error)}") from error
    return model


def misfit(error: Exception) -> str:
    """Return in one line what torch says of weights that do not fit: the first reasons, each not too long."""
    reasons = [textwrap.shorten(line, 160, placeholder=" …") for line in str(error).splitlines()]
    if len(reasons) > 1:
        reasons = reasons[1:]  # the first only says that there are errors
    return few(reasons)


def save_model(
    path: str | Path,
    model: nn.Module,
    config: dict[str, Any],
    half: bool = False,
    texts: Mapping[str, str] | None = None,
    xz: bool = False,
) -> None:
    """Publish a model without training state; `load_model` reads it.

    Args:
        path: the folder.
        model: the model.
        config: what it is built from.
        half: write parameters as float16; buffers stay as they are.
        texts: further files by name, such as a model card.
        xz: pack the weights.

    Raises:
        CheckpointError: the path is a file, or a folder that holds something that is not an earlier model.
    """
    path = Path(path)
    if path.exists() and not _only_a_checkpoint(path):
        raise CheckpointError(f"{path} holds other files, which would be lost; give another folder")
    tensors = dict(model.state_dict())
    if half:
        tensors |= {name: parameter.half() for name, parameter in model.named_parameters()}

    def write(folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps(config, indent=1))
        weights = folder / "model.safetensors"
        write_tensors(weights, tensors)
        if xz:
            _packed(weights).write_bytes(lzma.compress(weights.read_bytes(), filters=XZ))
            weights.unlink()
        for name, text in (texts or {}).items():
            (folder / name).write_text(text)

    publish(path, write)


def _only_a_checkpoint(folder: Path) -> bool:
    """Say whether a folder is empty, or holds a manifest and nothing that the manifest does not name.

    That of a run is not such a folder: with it, the state would be lost that the run goes on from.
    """
    if not folder.is_dir() or (folder / "state").exists():
        return False
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir()}
    return found <= {"manifest.json", *(_manifest(folder) if "manifest.json" in found else ())}


def fingerprint(model: nn.Module) -> str:
    """Return the SHA-256 over the names and values of all weights and buffers, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
