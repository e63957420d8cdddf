"""Quantizers by the whole chain: how well 36 codes paint, how they are used, how well a GPT predicts and samples them.

    python -m benchmarks.quantizers --kinds fsq simvq --starts continuous at-once --seeds 0 1 2

Each cell trains a tokenizer on so many images, writes all pictures as codes, and trains a GPT of fixed size on them.
Run again, it goes on, and measures again what is trained.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from svq.cli.output import write_json
from svq.data import ImageSet, open_images
from svq.data.imageset import to_float
from svq.evaluation.codebook import codebook_use
from svq.evaluation.fid import distance_to
from svq.evaluation.order import measure_order
from svq.generator import Generator
from svq.generator.presets import PRESETS as GENERATORS
from svq.generator.task import GeneratorTask
from svq.provenance import versions
from svq.tokenizer import StyledTokenizer
from svq.tokenizer.config import TokenizerSettings
from svq.tokenizer.presets import PRESETS as TOKENIZERS
from svq.tokenizer.task import TokenizerTask
from svq.tokenizer.tokenize import tokenize
from svq.training.runs import train_run
from svq.training.settings import resolve

SAMPLES, BATCH = 1024, 64
KINDS = ("fsq", "vq", "simvq", "lfq", "kmeans")
STARTS: dict[str, dict[str, float]] = {
    "continuous": {},  # as the preset has it: quantized from 30 to 40 % of the run on
    "at-once": {"train.continuous_share": 0.0, "train.ramp_share": 0.0},
    "after": {"train.continuous_share": 1.0, "train.ramp_share": 0.0},  # codes for a finished VAE
}


def distance_of_samples(images: ImageSet, tokenizer: StyledTokenizer, generator: Generator) -> float:
    """Return the Fréchet distance on random features of new pictures, sampled as learnt, to those of training."""
    train = to_float(images.batch(images.indices("train")))
    painted = [tokenizer.decode(generator.sample(BATCH, seed=0, first=i)) for i in range(0, SAMPLES, BATCH)]
    with distance_to(train, "random-conv") as distance:
        return distance(torch.cat(painted))


def chain(settings: TokenizerSettings, data: str, sequences: int, out: Path) -> dict[str, Any]:
    """Train a tokenizer and a GPT on its codes; return what was measured of both."""
    images = open_images(data, settings.model.image_size)
    task = TokenizerTask(settings.model, settings.train, images)
    run = train_run("tokenizer", lambda: task, settings.train, out / "tokenizer")
    model = StyledTokenizer.from_pretrained(out / "tokenizer")
    with torch.no_grad():
        held_out = torch.cat([model.encode(part) for part in task.held_out.split(128)])
    order = measure_order(model.decode, held_out, task.held_out)
    codes = tokenize(model, images)
    use = codebook_use(torch.from_numpy(codes.codes.astype("int64")), codes.codebook_size)

    options = {"train.images": sequences, "train.seed": settings.train.seed, "train.evaluate_every": sequences}
    writer = resolve(GENERATORS["nano"](), options=options)
    gpt = train_run(
        "generator",
        lambda: GeneratorTask(writer.model, writer.train, codes, model),
        writer.train,
        out / "generator",
    )
    return {
        "data": images.fingerprint,
        "seconds": run["seconds"],
        "psnr": order.psnr,
        "last_half": order.last_half,
        "matter": order.matter,
        "codes": codes.codebook_size,
        "used": use.used,
        "perplexity": use.perplexity,
        "least_entropy": min(use.entropy),
        "nats": gpt["metrics"]["validation_nats"],
        "frechet_of_samples": distance_of_samples(images, model, Generator.from_pretrained(out / "generator")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=["continuous"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--images", type=int, default=18_600)
    parser.add_argument("--sequences", type=int, default=20_000)
    parser.add_argument("--data", default="openmoji")
    parser.add_argument("--set", dest="assignments", action="append", default=[])
    parser.add_argument("--out", type=Path, default=Path("runs/quantizers"))
    arguments = parser.parse_args()

    for seed in arguments.seeds:
        for kind in arguments.kinds:
            for start in arguments.starts:
                out = arguments.out / f"{kind}-{start}-{seed}"
                options = {
                    "model.quantizer.kind": kind,
                    "train.images": arguments.images,
                    "train.evaluate_every": arguments.images,
                    "train.evaluation_images": 512,
                    "train.seed": seed,
                    **STARTS[start],
                }
                settings = resolve(TOKENIZERS["nano"](), assignments=arguments.assignments, options=options)
                result = chain(settings, arguments.data, arguments.sequences, out)
                report = {"kind": kind, "start": start, "seed": seed, "images": arguments.images}
                write_json(out / "result.json", {**report, **result, "versions": versions()})


if __name__ == "__main__":
    main()
