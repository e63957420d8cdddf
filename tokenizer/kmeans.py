"""k-means (Lloyd 1982) of many latents, over all processes of a run.

What is special: distances are taken in blocks. That of vector-quantize-pytorch holds those of all latents to all codes,
several times over: 19 GB for 16,384 codes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 2**22  # distances at a time


@torch.no_grad()
def kmeans(latents: Tensor, clusters: int, iterations: int, cosine: bool = False) -> tuple[Tensor, Tensor]:
    """Fit clusters to latents (N, d), of which each process gives its own.

    Args:
        latents: what to fit; of unit length, if `cosine`.
        clusters: how many, K.
        iterations: how often all latents are assigned, and the means moved to the middle of theirs.
        cosine: keep the means on the unit sphere.

    Returns:
        Means (K, d), and how many latents each had (K,), the same in all processes. A mean that has none stays.
    """
    several = torch.distributed.is_initialized()
    processes = torch.distributed.get_world_size() if several else 1
    wanted = -(-clusters // processes)  # of each process: one alone may have fewer latents than there are clusters
    # Drawn again and again, where there are fewer in all.
    chosen = torch.randperm(len(latents), device=latents.device).repeat(-(-wanted // len(latents)))[:wanted]
    begun = [latents[chosen]]
    if several:
        begun = [torch.empty_like(begun[0]) for _ in range(processes)]
        torch.distributed.all_gather(begun, latents[chosen])
    means, counts = torch.cat(begun)[:clusters], latents.new_zeros(clusters)
    for _ in range(iterations):
        blocks, lengths = latents.split(max(1, BLOCK // clusters)), means.square().sum(1)  # (K,)
        # Squared distances, less the length of the latent, which is the same for all means.
        nearest = torch.cat([torch.addmm(lengths, block, means.T, alpha=-2).min(1).indices for block in blocks])  # (N,)
        sums = torch.zeros_like(means).index_add_(0, nearest, latents)
        counts = nearest.bincount(minlength=clusters).to(latents.dtype)
        if several:
            torch.distributed.all_reduce(sums)
            torch.distributed.all_reduce(counts)
        moved = sums / counts[:, None].clamp(min=1)
        moved = F.normalize(moved, dim=-1) if cosine else moved
        means = torch.where(counts[:, None] > 0, moved, means)
    return means, counts
