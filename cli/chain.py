"""What `svq quickstart` does: every stage once, measured, and a page that shows it."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from svq.cli.output import say, write_json
from svq.data.codes import Codes
from svq.data.imageset import ImageSet
from svq.evaluation.codebook import codebook_use
from svq.evaluation.fid import PictureSet, distance
from svq.evaluation.order import measure_order
from svq.evaluation.pictures import PREFIXES, prefix_name, save_prefixes
from svq.evaluation.plots import plot_order
from svq.evaluation.report import Section, write_report
from svq.generator import Generator
from svq.generator.config import GeneratorSettings, SamplingConfig
from svq.generator.generate import generate
from svq.generator.task import GeneratorTask
from svq.pixels import to_float
from svq.provenance import versions
from svq.tokenizer import StyledTokenizer
from svq.tokenizer.config import TokenizerSettings
from svq.tokenizer.painting import check_replaceable
from svq.tokenizer.task import TokenizerTask
from svq.tokenizer.tokenize import tokenize
from svq.training.log import bar
from svq.training.runs import train_run

SAMPLES = 512
SAMPLING = SamplingConfig(temperature=0.9, top_p=0.95)  # a small generator is surer of its likelier codes
MEASURED = 128  # held-out pictures, at most


class Chain:
    """Pictures -> tokenizer -> codes -> generator -> samples -> report, all in one folder."""

    def __init__(
        self, images: ImageSet, tokenizer: TokenizerSettings, generator: GeneratorSettings, out: Path, command: str
    ) -> None:
        self.images, self.first, self.second, self.out, self.command = images, tokenizer, generator, out, command

    def run(self) -> dict[str, Any]:
        """Run all stages, or what is left of them, and return the metrics as in ``metrics.json``."""
        began, resumed = time.perf_counter(), (self.out / "tokenizer" / "log.jsonl").exists()
        check_replaceable(self.out / "samples")  # now, and not when all is trained
        say("1/4 Train the tokenizer.")
        first = train_run("tokenizer", self._stage_one, self.first.train, self.out / "tokenizer")
        tokenizer = StyledTokenizer.from_pretrained(self.out / "tokenizer")

        say("2/4 Write the pictures as codes.")
        with bar("tokenize", len(self.images)) as advance:
            codes = tokenize(tokenizer, self.images, advance=advance)
        codes.save(self.out / "codes.safetensors")

        say("3/4 Train the generator.")

        def stage_two() -> GeneratorTask:
            return GeneratorTask(self.second.model, self.second.train, codes, tokenizer)

        second = train_run("generator", stage_two, self.second.train, self.out / "generator")
        generator = Generator.from_pretrained(self.out / "generator")

        say("4/4 Paint new pictures, and measure.")
        with bar("generate", SAMPLES) as advance:
            seed = self.second.train.seed
            generate(generator, tokenizer, self.out / "samples", SAMPLES, seed, SAMPLING, advance=advance)
        metrics = self._measure(tokenizer, codes)
        result = {
            "seconds": round(time.perf_counter() - began, 1),
            "resumed": resumed,  # then these seconds, and those by stage, are of the last start alone
            "numbers": self._numbers(metrics, second["metrics"]),
            **metrics,
            "generator": second["metrics"],
            "settings": {
                "tokenizer": self.first.model_dump(mode="json"),
                "generator": self.second.model_dump(mode="json"),
            },
            "seconds_by_stage": {"tokenizer": first["seconds"], "generator": second["seconds"]},
            "data": {"source": self.images.name, "fingerprint": self.images.fingerprint},
            "command": self.command,
            "versions": versions(),
        }
        write_json(self.out / "metrics.json", result)
        self._report(result)
        return result

    def _stage_one(self) -> TokenizerTask:
        return TokenizerTask(self.first.model, self.first.train, self.images)

    def _measure(self, tokenizer: StyledTokenizer, codes: Codes) -> dict[str, Any]:
        chosen = self.images.sample("val", MEASURED)
        originals = to_float(self.images.batch(chosen))
        rows = codes.rows()
        held_out = rows[torch.from_numpy(chosen)]
        with bar("measure", 2 * self.first.model.tokens * len(chosen)) as advance:
            order = measure_order(tokenizer.decode, held_out, originals, advance=advance)
        plot_order(self.out / "order.png", order)
        save_prefixes(self.out / "reconstructions.png", tokenizer.decode, held_out, originals, PREFIXES)
        return {
            "order": order._asdict(),
            "codebook": codebook_use(rows, codes.codebook_size)._asdict(),
            "distance": self._distance(),
        }

    def _distance(self) -> dict[str, float]:
        """Compare samples and as many held-out pictures with the pictures of training, on random features.

        As many, because the distance of fewer pictures is larger, whatever they show.
        """
        from svq.data import open_images

        def part(name: str, chosen: NDArray[np.int64]) -> PictureSet:
            return PictureSet(self.images.images, name, f"{self.images.fingerprint}-{name}", chosen)

        painted = open_images(str(self.out / "samples"), self.images.image_size)
        chosen = self.images.sample("val", len(painted))
        samples = PictureSet(painted.images[: len(chosen)], "samples", painted.fingerprint)
        train = part("train", self.images.indices("train"))
        frechet = {
            name: distance(judged, train, features="random-conv")["metrics"]["frechet_random_conv"]
            for name, judged in (("samples", samples), ("held_out", part("val", chosen)))
        }
        return {
            "frechet_random_conv_samples": frechet["samples"],
            "frechet_random_conv_held_out": frechet["held_out"],
        }

    def _numbers(self, metrics: dict[str, Any], generator: dict[str, float]) -> dict[str, str]:
        order, use, tokens = metrics["order"], metrics["codebook"], self.first.model.tokens
        size = self.first.model.quantizer.codebook_size
        psnr = {k: order["psnr"][k] for k in (*PREFIXES, tokens)}
        samples, held_out = (metrics["distance"][f"frechet_random_conv_{part}"] for part in ("samples", "held_out"))
        return {
            **{f"PSNR, held-out, {prefix_name(k)}": f"{value:.2f} dB" for k, value in psnr.items()},
            "positions that matter": f"{order['matter']} of {tokens}",
            "codes in use": f"{use['used']:.0%} of {size:,}",
            "bits by position": f"{min(use['entropy']):.1f} to {max(use['entropy']):.1f}",
            "generator, held-out": f"{generator['validation_nats']:.3f} nats per code",
            "Fréchet distance on random features, samples to training pictures": f"{samples:.3f}",
            "the same, held-out to training pictures": f"{held_out:.3f}",
        }

    def _report(self, result: dict[str, Any]) -> None:
        tokens = self.first.model.tokens
        how = f"temperature {SAMPLING.temperature}, top-p {SAMPLING.top_p}"
        sections = [
            Section(
                f"Held-out pictures, painted again from 1, 4, 12 and {tokens} codes",
                "The tokenizer never saw these. Each row knows more of the picture than the one above it.",
                "reconstructions.png",
            ),
            Section(
                "New pictures",
                f"64 samples of the generator, not chosen ({how}).",
                "samples/grid.png",
            ),
            Section(
                "What each code is worth",
                "Left: quality by number of codes. Right: what is lost when one code comes from another picture.",
                "order.png",
                plot=True,
            ),
            Section("Tokenizer: learning curve", "PSNR from the first k codes.", "tokenizer/curve.png", plot=True),
            Section(
                "Generator: learning curve",
                "Cross-entropy per code, in nats.",
                "generator/curve.png",
                plot=True,
            ),
        ]
        write_report(
            self.out / "report.html",
            title="svq quickstart",
            subtitle=(
                f"{len(self.images):,} pictures from {self.images.name}, {self.images.image_size} px; "
                f"{tokens} codes each; {result['seconds'] / 60:.1f} minutes"
                f"{' since the last start' if result['resumed'] else ''}"
            ),
            numbers=result["numbers"],
            sections=sections,
            command=self.command,
            provenance={"data": self.images.fingerprint[:16], **result["versions"]},
        )
