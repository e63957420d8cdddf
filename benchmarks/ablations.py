"""What keeps late codes alive: the parts that are said to, each taken away by itself.

python -m benchmarks.ablations --without truncated-detached decoder-start --seeds 0 --images 18600
"""

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn

from svq.cli.output import write_json
from svq.data import open_images
from svq.evaluation.codebook import codebook_use
from svq.evaluation.order import measure_order
from svq.provenance import versions
from svq.tokenizer import StyledTokenizer, model
from svq.tokenizer.layers import PlainLayer, StyledLayer, initialise
from svq.tokenizer.presets import PRESETS
from svq.tokenizer.task import TokenizerTask
from svq.tokenizer.tokenize import tokenize
from svq.training.runs import train_run
from svq.training.settings import resolve

SETTINGS: dict[str, tuple[str, ...]] = {  # parts that are a matter of settings
    "nothing": (),
    "position-norm": ("model.normalize=none",),
    "soft-switch": ("train.ramp_share=0",),
    "continuous-start": ("train.continuous_share=0", "train.ramp_share=0"),
    "muon": ("train.optimizer.name=adamw", "train.optimizer.learning_rate=1e-3"),
    "truncation": ("train.truncated_share=0",),
}


def _initialise_plainly(part: nn.Module) -> None:
    """Start with Xavier weights in styles and at the ends of residual branches, as a transformer commonly does."""
    initialise(part)
    for module in part.modules():
        if isinstance(module, PlainLayer | StyledLayer):
            nn.init.xavier_uniform_(module.attention.out.weight)
            nn.init.xavier_uniform_(module.mlp.down.weight)
        if isinstance(module, StyledLayer):
            nn.init.xavier_uniform_(module.style1.weight)
            nn.init.xavier_uniform_(module.style2.weight)


def _paint_attached(self: StyledTokenizer, latents: Tensor, keep: Tensor | None) -> Tensor:
    """Let the gradient of truncated pictures reach the encoder."""
    return self.decoder(latents, keep)


PATCHES: dict[str, Callable[[], AbstractContextManager[object]]] = {  # parts that are a matter of code
    "decoder-start": lambda: patch.object(model, "initialise", _initialise_plainly),
    "truncated-detached": lambda: patch.object(StyledTokenizer, "_paint", _paint_attached),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without", nargs="+", choices=[*SETTINGS, *PATCHES], default=[*SETTINGS, *PATCHES])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--images", type=int, default=18_600)
    parser.add_argument("--data", default="openmoji")
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    arguments = parser.parse_args()

    for seed in arguments.seeds:
        for part in arguments.without:
            out = arguments.out / f"{part}-{seed}"
            if (out / "result.json").exists():
                continue
            options = {
                "train.images": arguments.images,
                "train.evaluate_every": arguments.images,
                "train.evaluation_images": 512,
                "train.seed": seed,
            }
            settings = resolve(PRESETS["nano"](), assignments=SETTINGS.get(part, ()), options=options)
            images = open_images(arguments.data, settings.model.image_size)
            with PATCHES.get(part, nullcontext)():
                task = TokenizerTask(settings.model, settings.train, images)
                run = train_run(part, lambda: task, settings.train, out)  # noqa: B023
            tokenizer = StyledTokenizer.from_pretrained(out)
            with torch.no_grad():
                codes = torch.cat([tokenizer.encode(batch) for batch in task.held_out.split(128)])
            order = measure_order(tokenizer.decode, codes, task.held_out)
            written = tokenize(tokenizer, images)
            use = codebook_use(torch.from_numpy(written.codes.astype("int64")), written.codebook_size)
            report = {"without": part, "seed": seed, "images": arguments.images, "data": images.fingerprint}
            measured = {**order._asdict(), "least_entropy": min(use.entropy), "perplexity": use.perplexity}
            write_json(out / "result.json", {**report, "seconds": run["seconds"], **measured, "versions": versions()})


if __name__ == "__main__":
    main()
