"""The styled decoder against two other ways to use 36 codes: equal bits, equal data, equal time.

    python -m benchmarks.rate_distortion --minutes 8 --seeds 0 1 2 --out runs/rate_distortion

First each model's speed is measured; then each trains on as many images as it can see in the given time. A model that
was trained without prefixes (`--set train.truncated_share=0`) is then taught what stands for codes that are missing.
"""

import json
import statistics
import time

from benchmarks.baselines import RasterVQ, TiTokArrangement
from benchmarks.trials import add_refine, add_set, painter, parser, refined, seconds_of
from svq.cli.output import write_json
from svq.data import open_images
from svq.evaluation.pictures import save_prefixes
from svq.provenance import versions
from svq.tokenizer import StyledTokenizer
from svq.tokenizer.presets import PRESETS
from svq.tokenizer.task import TokenizerTask
from svq.training.config import TrainConfig
from svq.training.device import products_in, start_engine
from svq.training.settings import resolve
from svq.training.step import Trainer

MODELS = {"styled": StyledTokenizer, "titok": TiTokArrangement, "raster": RasterVQ}


def images_per_second(task: TokenizerTask, config: TrainConfig, seconds: float = 15.0) -> float:
    """Return how fast a task trains near the end of its run, where codes are in use; two steps are a warm-up."""
    trainer = Trainer(task, config, start_engine(config))
    times: list[float] = []
    with products_in(config.tf32):
        while len(times) < 5 or sum(times[2:]) < seconds:
            began = time.perf_counter()
            trainer.step(config.images - config.batch_size, config.images, trainer.feed.next())  # waits for a GPU
            times.append(time.perf_counter() - began)
    return config.batch_size / statistics.mean(times[2:])


def main() -> None:
    words = parser(__doc__, out="runs/rate_distortion")
    add_set(words)
    add_refine(words)
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
            made = painter(settings, images, out, arguments.refine, build, name)
            strip = out / f"{refined('prefixes', arguments.refine)}.png"
            save_prefixes(strip, made.model.decode, made.codes, made.originals, (1, 2, 4, 8, 16, 24))
            result = {
                "model": name,
                "seed": seed,
                "parameters": made.run["parameters"],
                "device": made.model.device.type,
                "precision": made.run["precision"],
                "images": count,
                "refine": arguments.refine,
                "images_per_s": speed,
                "seconds": seconds_of(out),
                **made.order._asdict(),
            }
            minutes = arguments.minutes if arguments.images is None else None
            used = {"model": made.model.config.model_dump(mode="json"), "train": settings.train.model_dump(mode="json")}
            result |= {"minutes": minutes, "settings": used, "data": images.fingerprint}
            write_json(out / f"{refined('result', arguments.refine)}.json", {**result, "versions": versions()})


if __name__ == "__main__":
    main()
