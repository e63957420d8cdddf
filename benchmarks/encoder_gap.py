"""How much of a model's error is its encoder's, and how much it has learnt by heart.

    python -m benchmarks.encoder_gap --models styled titok --out runs/rate_distortion

For models that `benchmarks.rate_distortion` has trained into the same folder: PSNR from all codes on pictures of
training and as many held-out ones, as they are, jittered as in training, with continuous latents, and after a search
for better codes.
"""

import json

import torch

from benchmarks.rate_distortion import MODELS
from benchmarks.trials import add_refine, parser, refined, teach_null
from svq.cli.output import write_json
from svq.data import open_images
from svq.data.jitter import NUMBERS, jitter
from svq.evaluation.reconstruction import psnr
from svq.pixels import to_float
from svq.provenance import versions
from svq.tokenizer import StyledTokenizer
from svq.tokenizer.config import TokenizerConfig
from svq.training.checkpoint import find, load_model

PICTURES, BATCH = 286, 64


@torch.no_grad()
def gaps(model: StyledTokenizer, images: torch.Tensor, refine: int) -> dict[str, float]:
    """Return mean PSNR in dB of pictures (N, 3, S, S), painted from all codes in several ways."""
    numbers = torch.rand(len(images), NUMBERS, generator=torch.Generator().manual_seed(0))
    sums = dict.fromkeys(("plain", "jittered", "continuous", "refined"), 0.0)
    for x, draws in zip(images.split(BATCH), numbers.split(BATCH), strict=True):
        moved = jitter(x, draws)
        continuous = model.quantizer.continuous(model.latents(x, quantized=False))
        painted = {
            "plain": (model.decode(model.encode(x)), x),
            "jittered": (model.decode(model.encode(moved)), moved),
            "continuous": (model.decoder(continuous).clamp(-1, 1), x),
            "refined": (model.decode(model.encode(x, refine)), x),
        }
        for name, (y, original) in painted.items():
            sums[name] += float(psnr(y, original).sum())
    return {name: total / len(images) for name, total in sums.items()}


def main() -> None:
    words = parser(__doc__, out="runs/rate_distortion")
    add_refine(words, default=4)
    words.add_argument("--models", nargs="+", choices=MODELS, default=["styled", "titok"])
    arguments = words.parse_args()

    for name in arguments.models:
        for seed in arguments.seeds:
            run, build = find(arguments.out / f"{name}-{seed}"), MODELS[name]
            model = load_model(run, lambda c: build(TokenizerConfig.model_validate(c))).eval()  # noqa: B023
            images = open_images(arguments.data, model.config.image_size)
            trained = json.loads((run / "state" / "run.json").read_text())["identity"]["train"]
            if not trained["truncated_share"]:  # the search paints from prefixes, too
                teach_null(model, to_float(images.batch(images.indices("train"))))
            measured = {
                split: gaps(model, to_float(images.some(split, PICTURES)), arguments.refine)
                for split in ("train", "val")
            }
            report = {"model": name, "seed": seed, "data": images.fingerprint, "refine": arguments.refine}
            file = arguments.out / f"{name}-{seed}" / f"{refined('gap', arguments.refine)}.json"
            write_json(file, {**report, **measured, "versions": versions()})
            print(name, seed, measured)


if __name__ == "__main__":
    main()
