"""The training step of stage two."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from x_transformers import Attention, FeedForward

from svq.data.codes import Codes
from svq.errors import CheckpointError, DataError
from svq.evaluation.pictures import save_grid
from svq.generator.config import GeneratorConfig, GeneratorShape, GeneratorTrainConfig
from svq.generator.model import Generator
from svq.tokenizer.model import StyledTokenizer
from svq.training.checkpoint import fingerprint
from svq.training.device import build_seeded
from svq.training.draws import Draws
from svq.training.task import Losses, Task

EVALUATION_BATCH = 256
SHOWN = 32


def taught_classes(codes: Codes, dropout: float) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the classes that training shows, and all labels as indices into them, -1 for any other.

    A class whose pictures are all held out, or all of them if no condition is kept, would have a token that
    nothing teaches, and to sample it would give noise without a word.
    """
    shown = codes.labels[~codes.validation]
    taught = np.unique(shown[shown >= 0]) if dropout < 1 else shown[:0]
    number = np.full(len(codes.classes) + 1, -1)  # the last one for -1
    number[taught] = np.arange(len(taught))
    return tuple(codes.classes[i] for i in taught), number[codes.labels]


class GeneratorTask(Task):
    """Trains a `Generator` on the training split of a file of codes."""

    model: Generator

    def __init__(
        self, shape: GeneratorShape, train: GeneratorTrainConfig, codes: Codes, tokenizer: StyledTokenizer
    ) -> None:
        if codes.tokenizer != fingerprint(tokenizer):
            raise CheckpointError(
                "these codes were written by another tokenizer; name theirs with --tokenizer, "
                "or run 'svq tokenize' again"
            )
        if codes.validation.all() or not codes.validation.any():
            raise DataError(
                f"of these {len(codes)} codes, {int(codes.validation.sum())} are held out; "
                "some to train on and some held out are both needed, write them with 'svq tokenize --split all'"
            )
        self.config, self.tokenizer = train, tokenizer
        classes, all_labels = taught_classes(codes, train.condition_dropout)
        # As they are stored: int64, codes of millions of pictures would be gigabytes.
        self.codes, self.labels = codes.codes[~codes.validation], torch.from_numpy(all_labels[~codes.validation])
        held_out = codes.validation.nonzero()[0]
        spread = np.linspace(0, len(held_out) - 1, min(len(held_out), train.evaluation_sequences)).astype(int)
        rows, labels = codes.codes[held_out[spread]].astype("int64"), all_labels[held_out[spread]]
        self.held_out = torch.from_numpy(rows), torch.from_numpy(labels)
        self.size = len(self.codes)
        config = GeneratorConfig(
            **shape.model_dump(),
            codebook_size=codes.codebook_size,
            tokens=codes.codes.shape[1],
            classes=classes,
            tokenizer=codes.tokenizer,
        )
        self.model = build_seeded(train.seed, lambda: Generator(config))
        self.model_config = config.model_dump(mode="json")
        # None for 0, as runs that began before there was a search have it.
        self.identity = {"data": codes.data, "examples": self.size, "refine": codes.refine or None}
        self.best = ("validation_nats", "min")

    def layers(self, model: nn.Module) -> list[nn.Module]:
        return [m for m in model.modules() if isinstance(m, Attention | FeedForward)]

    def batch(self, indices: Tensor) -> tuple[Tensor, ...]:
        return torch.from_numpy(self.codes[indices.numpy()].astype("int64")), self.labels[indices]

    def losses(self, batch: tuple[Tensor, ...], progress: float, draws: Draws) -> Losses:
        codes, labels = batch
        dropped = draws.uniform() < self.config.condition_dropout
        loss = self.model.loss(codes, torch.where(dropped, -1, labels))
        return Losses(loss, {})

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return the mean cross-entropy per code of held-out sentences in nats, as ``validation_nats``."""
        assert isinstance(model, Generator)
        device, total = next(model.parameters()).device, 0.0
        for codes, labels in zip(*(t.split(EVALUATION_BATCH) for t in self.held_out), strict=True):
            total += float(model.loss(codes.to(device), labels.to(device))) * len(codes)
        return {"validation_nats": total / len(self.held_out[0])}

    def illustrate(self, model: nn.Module, path: Path) -> None:
        """Draw samples; the same seeds each time."""
        assert isinstance(model, Generator)
        device = next(model.parameters()).device
        save_grid(path, self.tokenizer.to(device).decode(model.sample(SHOWN, seed=0)))
