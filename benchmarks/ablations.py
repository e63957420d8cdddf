"""What keeps late codes alive: the parts that are said to, each taken away by itself.

    python -m benchmarks.ablations --without truncation decoder-start --seeds 0 1 2

Run again, it goes on, and measures again what is trained.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.trials import add_set, parser, trial
from svq.cli.output import write_json
from svq.provenance import versions
from svq.tokenizer import model
from svq.tokenizer.decoder import StyledDecoder
from svq.tokenizer.layers import PlainLayer, StyledLayer, initialise
from svq.tokenizer.presets import PRESETS
from svq.tokenizer.task import TokenizerTask
from svq.training.draws import Draws
from svq.training.settings import resolve

# Codes from the first image on are no way to begin for k-means, which would fit them to an encoder that knows nothing.
FROM = ("model.quantizer.kind=fsq", "train.continuous_share=0.3")
SETTINGS: dict[str, tuple[str, ...]] = {  # parts that are a matter of settings
    "nothing": (),
    "looks": ("model.looks=0",),
    "ahead": ("model.ahead=null",),
    "position-norm": ("model.normalize=none",),
    "soft-switch": ("train.ramp_share=0",),
    "continuous-start": ("train.continuous_share=0", "train.ramp_share=0"),
    "muon": ("train.optimizer.name=adamw", "train.optimizer.learning_rate=1e-3"),
    "truncation": ("train.truncated_share=0",),
}


def _initialise_plainly(part: nn.Module) -> None:
    """Start a decoder with Xavier weights in styles and at the ends of residual branches, as is common elsewhere."""
    initialise(part)
    if not isinstance(part, StyledDecoder):
        return
    for module in part.modules():
        if isinstance(module, PlainLayer | StyledLayer):
            nn.init.xavier_uniform_(module.attention.out.weight)
            nn.init.xavier_uniform_(module.mlp.down.weight)
        if isinstance(module, StyledLayer):
            nn.init.xavier_uniform_(module.style1.weight)
            nn.init.xavier_uniform_(module.style2.weight)


def _keep_uniformly(task: TokenizerTask, draws: Draws) -> Tensor:
    """Truncate to all lengths equally often."""
    tokens = task.model.config.tokens
    truncated, length = draws.uniform() < task.config.truncated_share, 1 + (tokens - 1) * draws.uniform()
    return torch.where(truncated, length.long(), tokens)


PATCHES: dict[str, Callable[[], AbstractContextManager[object]]] = {  # parts that are a matter of code
    "decoder-start": lambda: patch.object(model, "initialise", _initialise_plainly),
    "short-prefixes": lambda: patch.object(TokenizerTask, "_keep", _keep_uniformly),
}


def main() -> None:
    words = parser(__doc__, out="runs/ablations")
    add_set(words)
    words.add_argument("--without", nargs="+", choices=[*SETTINGS, *PATCHES], default=[*SETTINGS, *PATCHES])
    words.add_argument("--images", type=int, default=18_600)
    arguments = words.parse_args()

    for seed in arguments.seeds:
        for part in arguments.without:
            out = arguments.out / f"{part}-{seed}"
            options = {
                "train.images": arguments.images,
                "train.evaluate_every": arguments.images,
                "train.evaluation_images": 512,
                "train.seed": seed,
            }
            assignments = [*FROM, *arguments.assignments, *SETTINGS.get(part, ())]
            settings = resolve(PRESETS["nano"](), assignments=assignments, options=options)
            with PATCHES.get(part, nullcontext)():
                measured = trial(settings, arguments.data, out).measured
            report = {"without": part, "seed": seed, "images": arguments.images}
            write_json(out / "result.json", {**report, **measured, "versions": versions()})


if __name__ == "__main__":
    main()
