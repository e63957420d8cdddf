"""Quantizers by the whole chain: how well 36 codes paint, how they are used, how well a GPT predicts and samples them.

    python -m benchmarks.quantizers --kinds fsq simvq --starts continuous at-once --seeds 0 1 2

Each cell trains a tokenizer on so many images, writes all pictures as codes, and trains a GPT of fixed size on them.
Run again, it goes on, and measures again what is trained.
"""

from pathlib import Path
from typing import Any

import torch

from benchmarks.trials import Trial, add_refine, add_set, parser, refined, trial
from svq.cli.output import write_json
from svq.data import ImageSet
from svq.evaluation.fid import distance_to
from svq.generator import Generator
from svq.generator.presets import PRESETS as GENERATORS
from svq.generator.task import GeneratorTask
from svq.pixels import to_uint8
from svq.provenance import versions
from svq.tokenizer import StyledTokenizer
from svq.tokenizer.presets import PRESETS as TOKENIZERS
from svq.training.device import choose_device
from svq.training.runs import train_run
from svq.training.settings import resolve

SAMPLES, BATCH = 1024, 64
KINDS = ("fsq", "vq", "simvq", "lfq", "kmeans")
STARTS: dict[str, tuple[str, ...]] = {
    "continuous": ("train.continuous_share=0.3",),  # quantized from 30 to 40 % of the run on
    "late": ("train.continuous_share=0.8",),  # codes for a VAE that is nearly finished
    "after": ("train.continuous_share=1", "train.ramp_share=0"),  # for one that is
    "at-once": ("train.continuous_share=0", "train.ramp_share=0"),
}


def distance_of_samples(images: ImageSet, tokenizer: StyledTokenizer, generator: Generator) -> float:
    """Return the Fréchet distance on random features of new pictures, sampled as learnt, to those of training."""
    train = images.batch(images.indices("train"))
    painted = [tokenizer.decode(generator.sample(BATCH, seed=0, first=i)).cpu() for i in range(0, SAMPLES, BATCH)]
    with distance_to(train, "random-conv") as distance:
        return distance(to_uint8(torch.cat(painted)))


def generator_on(made: Trial, seed: int, sequences: int, out: Path) -> dict[str, Any]:
    """Train a GPT of fixed size on a trial's codes; return how well it predicts held-out ones, and paints new ones."""
    options = {"train.images": sequences, "train.seed": seed, "train.evaluate_every": sequences}
    settings = resolve(GENERATORS["nano"](), options=options)
    task = GeneratorTask(settings.model, settings.train, made.codes, made.tokenizer)
    run = train_run("generator", lambda: task, settings.train, out)
    generator = Generator.from_pretrained(out).to(choose_device())
    distance = distance_of_samples(made.images, made.tokenizer, generator)
    return {
        "generator": settings.model_dump(mode="json"),
        "nats": run["metrics"]["validation_nats"],
        "frechet_of_samples": distance,
    }


def main() -> None:
    words = parser(__doc__, out="runs/quantizers")
    add_set(words)
    add_refine(words)
    words.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    words.add_argument("--starts", nargs="+", choices=STARTS, default=["continuous"])
    words.add_argument("--images", type=int, default=18_600)
    words.add_argument("--sequences", type=int, default=20_000)
    arguments = words.parse_args()

    for seed in arguments.seeds:
        for kind in arguments.kinds:
            for start in arguments.starts:
                out = arguments.out / f"{kind}-{start}-{seed}"
                options = {
                    "train.images": arguments.images,
                    "train.evaluate_every": arguments.images,
                    "train.evaluation_images": 512,
                    "train.seed": seed,
                }
                assignments = [f"model.quantizer.kind={kind}", *STARTS[start], *arguments.assignments]
                settings = resolve(TOKENIZERS["nano"](), assignments=assignments, options=options)
                made = trial(settings, arguments.data, out / "tokenizer", arguments.refine)
                generated = generator_on(made, seed, arguments.sequences, out / refined("generator", arguments.refine))
                report = {"kind": kind, "start": start, "seed": seed, "images": arguments.images}
                report["continuous_share"] = settings.train.continuous_share  # --set has the last word, not the start
                report |= {**made.measured, **generated, "versions": versions()}
                write_json(out / f"{refined('result', arguments.refine)}.json", report)


if __name__ == "__main__":
    main()
