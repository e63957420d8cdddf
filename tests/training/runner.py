"""A small run as a program, for tests that start several processes or kill one.

python runner.py STAGE OUT FOLDER KEY=VALUE ...
"""

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from svq.data import open_images
from svq.data.codes import Codes
from svq.errors import RunStopped
from svq.generator.config import GeneratorShape, GeneratorTrainConfig
from svq.generator.task import GeneratorTask
from svq.tokenizer import StyledTokenizer
from svq.tokenizer.config import (
    FSQConfig,
    KMeansConfig,
    QuantizerConfig,
    TokenizerConfig,
    TokenizerTrainConfig,
    VQConfig,
)
from svq.tokenizer.task import TokenizerTask
from svq.training.checkpoint import fingerprint
from svq.training.config import Config, OptimizerConfig
from svq.training.device import build_seeded
from svq.training.runs import train_run
from svq.training.settings import resolve
from svq.training.sharding import is_shared
from svq.training.step import Taken, Trainer
from svq.training.task import Losses, Task

SHAPE: dict[str, Any] = {
    "image_size": 16, "patch_size": 8, "tokens": 8, "encoder_width": 32, "encoder_depth": 2, "encoder_heads": 2,
    "decoder_width": 32, "decoder_heads": 2, "plain_layers": 1, "mlp_ratio": 2, "looks": 2, "ahead": 2,
}  # fmt: skip
QUANTIZERS: dict[str, QuantizerConfig] = {
    "fsq": FSQConfig(),
    "vq": VQConfig(codebook_size=16),
    "kmeans": KMeansConfig(codebook_size=16),
}
COMMON: dict[str, Any] = {"images": 96, "batch_size": 8, "evaluate_every": 96, "save_every": 8}


class Settings(Config):
    """What the tests change."""

    stop_at: int = 0  # images, at which the process sends itself SIGTERM
    stops: int = 1  # how often
    pause: float = 0  # seconds before each
    kill_at: int = 0  # images, at which the process kills itself
    nan_at: int = 0  # images, at which the loss of the process is NaN
    rank_stops: int = 0  # which process
    quantizer: str = "fsq"
    normalize: str = "position"
    dropout: float = 0.1
    train: TokenizerTrainConfig | GeneratorTrainConfig


taken: list[int] = []  # images before each step of this process


def harm(settings: Settings) -> None:
    """Take note of steps, and let this process be stopped or killed at a certain image."""
    step = Trainer.step

    def stepped(self: Trainer, seen: int, *rest: Any) -> Taken:
        taken.append(seen)
        if settings.nan_at and seen == settings.nan_at and self.rank == settings.rank_stops:
            losses = self.task.losses

            def spoilt(*given: Any) -> Losses:
                found = losses(*given)
                return found._replace(total=found.total * float("nan"))

            self.task.losses = spoilt  # type: ignore[method-assign]
            try:
                return step(self, seen, *rest)
            finally:
                self.task.losses = losses  # type: ignore[method-assign]
        if self.rank == settings.rank_stops:
            if settings.stop_at and seen == settings.stop_at:
                for _ in range(settings.stops):
                    time.sleep(settings.pause)
                    os.kill(os.getpid(), signal.SIGTERM)
            if settings.kill_at and seen == settings.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return step(self, seen, *rest)

    Trainer.step = stepped  # type: ignore[method-assign]


def build(stage: str, settings: Settings, folder: Path) -> Task:
    quantizer = QUANTIZERS[settings.quantizer]
    config = TokenizerConfig(**SHAPE, normalize=settings.normalize, quantizer=quantizer)
    if stage == "tokenizer":
        assert isinstance(settings.train, TokenizerTrainConfig)
        return TokenizerTask(config, settings.train, open_images(str(folder), 16))
    assert isinstance(settings.train, GeneratorTrainConfig)
    tokenizer = build_seeded(0, lambda: StyledTokenizer(config)).eval()
    rng = np.random.default_rng(0)
    codes = Codes(
        codes=rng.integers(0, 1000, (40, 8)), labels=np.arange(40) % 2, validation=np.arange(40) >= 30,
        captions=("",) * 40, classes=("a", "b"), codebook_size=1000, tokenizer=fingerprint(tokenizer), data="random",
        source="random",
    )  # fmt: skip
    return GeneratorTask(
        GeneratorShape(width=32, depth=2, heads=2, dropout=settings.dropout), settings.train, codes, tokenizer
    )


def run_in_child(environment: dict[str, str], words: list[str]) -> None:
    """Run in a process that was forked; what it says goes into its folder."""
    os.environ |= environment
    sys.stderr = spoken(Path(words[1]), environment.get("RANK", "0")).open("w", buffering=1)  # until it ends
    main(words)


def spoken(out: Path, rank: str | int) -> Path:
    return out.with_name(f"{out.name}.stderr{rank}")


def main(words: list[str]) -> None:
    stage, out, folder, *assignments = words
    muon = OptimizerConfig(name="muon")
    train = (
        TokenizerTrainConfig(**COMMON, optimizer=muon, continuous_share=0.4, ramp_share=0.2)
        if stage == "tokenizer"
        else GeneratorTrainConfig(**COMMON)
    )
    settings = resolve(Settings(train=train), assignments=assignments)
    harm(settings)
    torch.set_num_threads(1)
    tasks: list[Task] = []

    def make() -> Task:
        tasks.append(build(stage, settings, Path(folder)))
        return tasks[0]

    try:
        result = train_run(stage, make, settings.train, Path(out))
    except RunStopped:
        sys.exit(RunStopped.EXIT_CODE)
    # What each process holds whole: of sharded weights, the codebooks and statistics.
    held = [t for t in tasks[0].model.state_dict().values() if not is_shared(t)]
    mark = hashlib.sha256(b"".join(t.cpu().numpy().tobytes() for t in held)).hexdigest()
    device = next(tasks[0].model.parameters()).device.type
    report = {"model": mark, "steps": taken, "device": device, "precision": result["precision"]}
    (Path(out) / f"process{os.environ.get('RANK', '0')}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1:])
