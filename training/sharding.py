"""Weights shared out among the processes: torch's FSDP2, `fully_shard` (Zhao et al. 2023, arXiv:2304.11277).

What is special: nothing else has to know of it. Tensors leave here whole and come in whole, so a checkpoint
is the same as that of a run whose processes each hold all weights.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn

if TYPE_CHECKING:  # it takes a second to import, which only runs that shard should wait for
    from torch.distributed.tensor import DTensor


def shard(model: nn.Module, layers: Iterable[nn.Module], called: Sequence[str], device: torch.device) -> None:
    """Leave in each process only its share of a model's weights; those of a layer meet when the layer runs.

    Args:
        model: on `device`, the same in all processes.
        layers: the parts whose weights are gathered one after another; the rest is gathered as one.
        called: methods of the model, beside its forward, that need its weights.
        device: this process's own.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    # Nothing that our layers return is changed in place where it would matter, which is what it warns of.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    for name in called:
        register_fsdp_forward_method(model, name)


def is_shared(tensor: Tensor | None) -> "TypeGuard[DTensor]":
    """Say whether a tensor is shared out."""
    return hasattr(tensor, "full_tensor")


def local(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return what this process holds of each tensor; writing to it changes the tensor."""
    return [t.to_local() if is_shared(t) else t for t in tensors]


def gather(tensor: Tensor) -> Tensor:
    """Return a tensor whole; all processes must call this together."""
    return tensor.full_tensor() if is_shared(tensor) else tensor


def whole(tensors: Mapping[str, Tensor], wanted: bool) -> dict[str, Tensor]:
    """Return whole tensors, moved to the CPU if they were shared out; all processes must call this together.

    Args:
        tensors: by name.
        wanted: whether this process wants them; if not, it helps the others and gets none.
    """
    kept = {}
    for name, tensor in tensors.items():  # one after another: a GPU need not hold them all
        full = gather(tensor)
        if wanted:
            kept[name] = full.cpu() if full is not tensor else tensor
    return kept


def share(tensor: Tensor, like: Tensor | None) -> Tensor:
    """Return a whole tensor, the same in all processes, shared out as `like` is, if it is and has its shape."""
    if not is_shared(like) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def load_whole(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load whole tensors into a model, whether its weights are shared out or not."""
    like = model.state_dict()
    model.load_state_dict({name: share(tensor, like.get(name)) for name, tensor in tensors.items()})
