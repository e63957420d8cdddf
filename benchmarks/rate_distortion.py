"""The styled decoder against two other ways to use 36 codes: equal bits, equal data, equal time.

    python -m benchmarks.rate_distortion --minutes 8 --seeds 0 1 2 --out runs/rate_distortion

First each model's speed is measured; then each trains on as many images as it can see in the given time.
"""

import json
import time

import torch

from benchmarks.baselines import RasterVQ, TiTokArrangement
from benchmarks.trials import parser
from svq.cli.output import write_json
from svq.data import open_images
from svq.evaluation.fid import distance_to
from svq.evaluation.order import measure_order
from svq.evaluation.pictures import save_prefixes
from svq.provenance import versions
from svq.tokenizer import StyledTokenizer
from svq.tokenizer.presets import PRESETS
from svq.tokenizer.task import TokenizerTask
from svq.training.checkpoint import find, load_model
from svq.training.config import TrainConfig
from svq.training.device import choose_device
from svq.training.draws import Draws
from svq.training.optimizer import build_optimizers
from svq.training.runs import train_run
from svq.training.settings import resolve

MODELS = {"styled": StyledTokenizer, "titok": TiTokArrangement, "raster": RasterVQ}


def images_per_second(task: TokenizerTask, config: TrainConfig, seconds: float = 15.0) -> float:
    """Return how fast a task trains, quantizer and optimizer included."""
    device = choose_device()
    optimizers = build_optimizers(task.model.to(device), config.optimizer)
    indices, rounds = torch.arange(config.batch_size), 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        draws = Draws(config.seed, 0, config.batch_size, slice(None), device)
        batch = tuple(part.to(device) for part in task.batch(indices))
        task.losses(batch, 1.0, draws).total.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        rounds += 1
        if rounds == 2:  # the first two are a warm-up
            began = time.perf_counter()
    return (rounds - 2) * config.batch_size / (time.perf_counter() - began)


def main() -> None:
    words = parser(__doc__, out="runs/rate_distortion")
    words.add_argument("--minutes", type=float, default=8)
    words.add_argument("--images", type=int, help="see so many images; nothing is measured then")
    words.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    arguments = words.parse_args()

    for name in arguments.models:
        for seed in arguments.seeds:
            build, out = MODELS[name], arguments.out / f"{name}-{seed}"
            settings = resolve(PRESETS["nano"](), assignments=arguments.assignments, options={"train.seed": seed})
            images = open_images(arguments.data, settings.model.image_size)
            note = out / "speed.json"  # kept, so that a run that was stopped goes on with the same number of images
            if arguments.images is None and not note.exists():
                rate = images_per_second(TokenizerTask(settings.model, settings.train, images, build), settings.train)
                write_json(note, {"images_per_s": rate})
            speed = json.loads(note.read_text())["images_per_s"] if arguments.images is None else None
            count = arguments.images or int((speed or 0) * 60 * arguments.minutes)
            settings = resolve(settings, options={"train.images": count, "train.evaluate_every": count})
            task = TokenizerTask(settings.model, settings.train, images, build)
            run = train_run(name, lambda: task, settings.train, out)  # noqa: B023
            model = load_model(find(out), lambda _: build(settings.model)).eval().to(choose_device())  # noqa: B023
            originals = task.held_out
            codes = torch.cat([model.encode(part, arguments.refine) for part in originals.split(128)])
            with distance_to(originals, "random-conv") as distance:
                measured = measure_order(model.decode, codes, originals, distance)
            suffix = f"-refine-{arguments.refine}" if arguments.refine else ""  # of the same model
            save_prefixes(out / f"prefixes{suffix}.png", model.decode, codes, originals, (1, 2, 4, 8, 16, 24))
            result = {
                "model": name,
                "seed": seed,
                "parameters": run["parameters"],
                "device": model.device.type,
                "precision": run["precision"],
                "images": count,
                "refine": arguments.refine,
                "images_per_s": speed,
                "seconds": run["seconds"],
                **measured._asdict(),
            }
            minutes = arguments.minutes if arguments.images is None else None
            report = {"minutes": minutes, "set": arguments.assignments, "data": task.identity["data"]}
            write_json(out / f"result{suffix}.json", {**report, **result, "versions": versions()})


if __name__ == "__main__":
    main()
