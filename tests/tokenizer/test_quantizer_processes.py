"""What quantizers sum up over two processes is what one finds in the pictures of both."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from svq.tokenizer.config import LFQConfig
from svq.tokenizer.kmeans import kmeans
from svq.tokenizer.position_norm import PositionNorm
from svq.tokenizer.quantizer import LFQ

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.tokenizer.test_quantizer_processes"])
Found = dict[str, Tensor]


def normalised(z: Tensor, processes: int) -> Found:
    """Latents around 100 with a spread of 0.01: the mean of squares less the square of the mean would be noise."""
    norm, z = PositionNorm(tokens=4, dim=2), (z[:, :, :2] * 0.01 + 100).requires_grad_()
    for _ in range(3):
        x = norm(z)
    (x.pow(3).mean() / processes).backward()  # DDP takes the mean of what processes find
    assert z.grad is not None
    return {"x": x.detach(), "gradient": z.grad, **norm.state_dict()}


def entropies(z: Tensor, processes: int) -> Found:
    """LFQ's loss: each latent is to be sure of its code, and all together are to use many."""
    z = (0.01 * z).requires_grad_()
    loss = LFQ(LFQConfig(bits=6)).learn(z)
    (loss / processes).backward()
    assert z.grad is not None
    return {"gradient": z.grad}


def clusters(z: Tensor, processes: int) -> Found:
    """One mean, which does not depend on the latent that it begins with; more than a process has latents."""
    means, counts = kmeans(z.flatten(0, 1), 1, 2)
    begun = kmeans(z.flatten(0, 1), 200, 0)[0]  # nothing has moved yet
    return {"means": means, "counts": counts, "agreed": kmeans(z.flatten(0, 1), 200, 5)[0], "begun": begun}


def work(rank: int, what: Callable[[Tensor, int], Found], meet: str, results: "Queue[tuple[int, Any]]") -> None:
    """Do it with this process's half."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=2)
    found = what(pictures().chunk(2)[rank], 2)
    results.put((rank, {name: tensor.numpy() for name, tensor in found.items()}))
    torch.distributed.destroy_process_group()


def pictures() -> Tensor:
    """Latents (64, 4, 6)."""
    return torch.randn(64, 4, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("what", [normalised, entropies, clusters])
def test_two_processes_find_what_one_does(what: Callable[[Tensor, int], Found], tmp_path: Path) -> None:
    alone = what(pictures(), 1)
    results = FORKS.Queue()
    workers = [FORKS.Process(target=work, args=(i, what, str(tmp_path / "meet"), results)) for i in range(2)]
    for worker in workers:
        worker.start()
    found = sorted((results.get(timeout=60) for _ in workers), key=lambda pair: pair[0])
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    first, second = ({name: torch.from_numpy(array) for name, array in part.items()} for _, part in found)
    for name, expected in alone.items():
        if name in ("x", "gradient"):
            both = torch.cat([first[name], second[name]])
            torch.testing.assert_close(both, expected, rtol=1e-2, atol=1e-3 * float(expected.abs().max()))
        else:
            torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
            if name == "begun":  # with latents of both, none of them twice
                assert len(first[name].unique(dim=0)) == len(expected.unique(dim=0)) == 200
            elif name != "agreed":
                torch.testing.assert_close(first[name], expected, rtol=1e-3, atol=1e-5)
