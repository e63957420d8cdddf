"""The plainest of all: residual k-means on pixels, of about as many bits; and how new the held-out pictures really are.

    python -m benchmarks.residual_kmeans --tokenizers openmoji-32 --out runs/residual_kmeans

Code k is the nearest of 1,000 centroids of what the codes before it have left over, a picture is the sum of its
centroids. Nothing is learnt but the centroids, 3 M numbers a code: a yardstick for prefixes, not a tokenizer. A
held-out picture that is nearly one of training (its twin, mirrored or not) says little about new ones, so each
figure is given without those, too.
"""

import torch
from torch import Tensor
from vector_quantize_pytorch import ResidualVQ

from benchmarks.trials import nearest, parser
from svq.cli.output import write_json
from svq.data import ImageSet, open_images
from svq.data.jitter import NUMBERS, jitter
from svq.evaluation.reconstruction import Decode, decode_all, psnr
from svq.pixels import to_float
from svq.provenance import versions
from svq.tokenizer import StyledTokenizer

Prefixes = dict[str, dict[int, float]]
TWIN_DB = (25, 30)  # a picture of training that is so near, in PSNR, counts as a twin


def pictures_of_training(images: ImageSet, copies: int, seed: int) -> Tensor:
    """Return (N, 3, S, S): all pictures of training and their mirror images, then jittered copies of both."""
    x = to_float(images.batch(images.indices("train")))
    x = torch.cat([x, x.flip(-1)])
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([x, *(jitter(x, torch.rand(len(x), NUMBERS, generator=generator)) for _ in range(copies))])


def fit(x: Tensor, codes: int, codebook_size: int, iterations: int, seed: int) -> ResidualVQ:
    """Fit centroids to pictures (N, 3, S, S), code by code."""
    torch.manual_seed(seed)
    quantizer = ResidualVQ(
        dim=x[0].numel(),
        num_quantizers=codes,
        codebook_size=codebook_size,
        kmeans_init=True,
        kmeans_iters=iterations,
        decay=1.0,  # the centroids stay where k-means put them
    )
    with torch.no_grad():
        quantizer.train()(x.flatten(1)[None])
    return quantizer.eval()


def sum_of(centroids: Tensor, shape: torch.Size) -> Decode:
    """Return what paints codes (B, k): the sum of their centroids, which are (36, n, pixels) in all."""

    def decode(codes: Tensor) -> Tensor:
        painted = torch.stack([centroids[i][code] for i, code in enumerate(codes.T)]).sum(0)
        return painted.view(-1, *shape).clamp(-1, 1)

    return decode


def by_prefix(decode: Decode, codes: Tensor, originals: Tensor, kinds: dict[str, Tensor]) -> Prefixes:
    """Return the mean PSNR in dB from the first k codes, by k, of each kind of picture."""
    measured: Prefixes = {kind: {} for kind in kinds}
    for k in range(1, codes.shape[1] + 1):
        db = psnr(decode_all(decode, codes[:, :k]), originals)
        for kind, chosen in kinds.items():
            measured[kind][k] = float(db[chosen].mean())
    return measured


@torch.no_grad()
def main() -> None:
    words = parser(__doc__, out="runs/residual_kmeans")
    words.add_argument("--size", type=int, default=32, help="side of the pictures")
    words.add_argument("--codes", type=int, default=36)
    words.add_argument("--codebook-size", type=int, default=1000)
    words.add_argument("--copies", type=int, default=2, help="jittered copies of each picture of training")
    words.add_argument("--iterations", type=int, default=10)
    words.add_argument("--tokenizers", nargs="*", default=[], help="measure these on the same pictures")
    arguments = words.parse_args()

    images = open_images(arguments.data, arguments.size)
    held_out = to_float(images.batch(images.indices("val")))
    db = nearest(held_out, pictures_of_training(images, 0, 0))[0]
    kinds = {"all": torch.ones(len(db), dtype=torch.bool)} | {f"no twin at {limit} dB": db < limit for limit in TWIN_DB}
    report = {"data": images.fingerprint, "pictures": {kind: int(chosen.sum()) for kind, chosen in kinds.items()}}
    settings = {k: v for k, v in vars(arguments).items() if k not in ("out", "tokenizers", "seeds")}
    report |= {"settings": settings, "versions": versions()}
    for name in arguments.tokenizers:
        tokenizer = StyledTokenizer.from_pretrained(name)
        codes = torch.cat([tokenizer.encode(part) for part in held_out.split(64)])
        measured = by_prefix(tokenizer.decode, codes, held_out, kinds)
        write_json(arguments.out / f"{name.replace('/', '-')}.json", {**report, "tokenizer": name, "psnr": measured})
    for seed in arguments.seeds if arguments.codes else ():
        x = pictures_of_training(images, arguments.copies, seed)
        quantizer = fit(x, arguments.codes, arguments.codebook_size, arguments.iterations, seed)
        codes = quantizer(held_out.flatten(1)[None])[1][0]  # (N, k)
        measured = by_prefix(sum_of(quantizer.codebooks, held_out.shape[1:]), codes, held_out, kinds)
        write_json(arguments.out / f"residual-kmeans-{seed}.json", {**report, "seed": seed, "psnr": measured})


if __name__ == "__main__":
    main()
