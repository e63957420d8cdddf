"""The training step of stage one."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svq.data.imageset import ImageSet
from svq.data.jitter import NUMBERS, jitter
from svq.data.loaders import Augmentation, Loader
from svq.data.pictures import PackedPictures, Pictures
from svq.errors import DataError
from svq.evaluation.lpips import LPIPS
from svq.evaluation.pictures import PREFIXES, prefix_name, save_rows
from svq.evaluation.reconstruction import psnr
from svq.pixels import to_float
from svq.tokenizer.config import TokenizerConfig, TokenizerTrainConfig
from svq.tokenizer.critic import PatchCritic, balance
from svq.tokenizer.layers import PlainLayer, StyledLayer
from svq.tokenizer.look import Look
from svq.tokenizer.model import StyledTokenizer
from svq.training.config import TrainConfig
from svq.training.device import build_seeded
from svq.training.draws import Draws
from svq.training.task import Feed, Losses, Task

START_IMAGES = 2048  # pictures whose latents start a codebook
SHOWN = 12  # pictures in a grid
EVALUATION_BATCH = 128


class TokenizerTask(Task):
    """Trains a `StyledTokenizer` on the training split of a set of pictures."""

    model: StyledTokenizer
    critic: PatchCritic | None
    called = ("latents",)

    def __init__(
        self,
        config: TokenizerConfig,
        train: TokenizerTrainConfig,
        images: Pictures,
        build: Callable[[TokenizerConfig], StyledTokenizer] = StyledTokenizer,
    ) -> None:
        if images.image_size != config.image_size:
            raise DataError(f"the pictures have {images.image_size} px, the tokenizer {config.image_size}")
        self.config, self.images = train, images
        self.size, held_out = images.count("train"), images.count("val")
        if self.size < 2 or held_out < 2:
            raise DataError(
                f"{images.name} has {self.size} pictures to train on and {held_out} held out; "
                "2 or more of both are needed, give more pictures (a tenth is held out)"
            )
        if train.crop == "random" and not isinstance(images, PackedPictures):
            raise DataError(
                f"train.crop=random is for packed sets that are streamed, and {images.name} is prepared at one size; "
                "pack it with 'svq data pack' and give --loader torch or dali"
            )
        if isinstance(images, ImageSet):
            self._training = images.indices("train")
        self.held_out = images.some("val", train.evaluation_images)  # (N, 3, S, S) uint8, for there may be many
        vgg16 = train.perceptual_vgg16 if train.perceptual_weight else None
        self.perception = LPIPS(vgg16) if vgg16 is not None else None
        self.model = build_seeded(train.seed, lambda: build(config))
        self.critic = None
        if train.critic_weight:
            self.critic = build_seeded(train.seed, lambda: PatchCritic(train.critic_width, config.image_size))
        self.model_config = self.model.config.model_dump(mode="json")
        if train.recompute:
            self.model.encoder.recompute = self.model.decoder.recompute = True
        self.identity = {"data": images.fingerprint}

    @property
    def best(self) -> tuple[str, Literal["max", "min"]] | None:  # type: ignore[override]
        # Without a codebook there are no codes yet, and pictures from latents are better ones.
        return (f"psnr_{self.model.config.tokens}", "max") if self.model.quantizer.started else None

    @property
    def prefixes(self) -> list[int]:
        """Numbers of codes to evaluate from."""
        return [k for k in PREFIXES if k < self.model.config.tokens] + [self.model.config.tokens]

    def layers(self, model: nn.Module) -> list[nn.Module]:
        return [m for m in model.modules() if isinstance(m, PlainLayer | StyledLayer | Look)]

    def batch(self, indices: Tensor) -> tuple[Tensor, ...]:
        assert isinstance(self.images, ImageSet)  # others have a feed of their own
        return (self.images.batch(self._training[indices.numpy()]),)

    def feed(self, config: TrainConfig, rank: int, processes: int, device: torch.device) -> Feed:
        if isinstance(self.images, ImageSet):
            return super().feed(config, rank, processes, device)
        assert isinstance(self.images, PackedPictures)
        share, augmentation = config.batch_size // processes, Augmentation(crop=self.config.crop)
        return _Streamed(self.images.open(share, config.seed, rank, processes, device, augmentation))

    def losses(self, batch: tuple[Tensor, ...], progress: float, draws: Draws) -> Losses:
        images = to_float(batch[0])
        if self.config.flip:
            mirrored = (draws.uniform() < 0.5)[:, None, None, None]  # (B, 1, 1, 1)
            images = torch.where(mirrored, images.flip(-1), images)
        if self.config.jitter_share:
            changed = (draws.uniform() < self.config.jitter_share)[:, None, None, None]  # (B, 1, 1, 1)
            images = torch.where(changed, jitter(images, draws.uniform(NUMBERS)), images)
        share = self.config.quantized_share(progress)
        quantized = draws.uniform() < share if 0 < share < 1 else share == 1  # (B,), or all or none
        eps = draws.normal(self.model.config.tokens, self.model.config.latent_dim)
        result = self.model(images, eps, quantized, self._keep(draws))
        distance = F.l1_loss if self.config.reconstruction == "l1" else F.mse_loss
        reconstruction = distance(result.images, images)
        kl = result.posterior.kl()
        total = reconstruction + self.config.kl_weight * kl + result.quantizer_loss
        parts = {"reconstruction": reconstruction, "kl": kl, "quantizer": result.quantizer_loss}
        if self.perception is not None:
            parts["perceptual"] = self.perception.to(images.device)(result.images, images).mean()
            total = total + self.config.perceptual_weight * parts["perceptual"]
        if self.critic is not None and progress >= self.config.critic_start:
            total = total + self._criticism(result.images, images, reconstruction, parts)
        return Losses(total, parts)

    def _criticism(self, painted: Tensor, images: Tensor, reconstruction: Tensor, parts: dict[str, Tensor]) -> Tensor:
        """Return the discriminator's share of the loss, both sides of it, and note its parts."""
        assert self.critic is not None
        verdict = self.critic.judge(painted, images, self.config.critic_lecam)
        weight = images.new_tensor(self.config.critic_weight)
        if self.config.critic_adaptive:
            weight = weight * balance(reconstruction, verdict.painter, self.model.decoder.output.weight)
        parts |= {"critic": verdict.critic, "painter": verdict.painter, "critic_weight": weight}
        return weight * verdict.painter + verdict.critic

    def _keep(self, draws: Draws) -> Tensor:
        """Draw how many conditions of each picture count (B,): mostly all, else a prefix, short ones more often.

        Each doubling of the length is equally likely: P(k) is about 1 / k, as what a code adds to the picture is.
        """
        tokens = self.model.config.tokens
        truncated = draws.uniform() < self.config.truncated_share
        return torch.where(truncated, (tokens ** draws.uniform()).long(), tokens)

    def prepare(self, progress: float, rank: int = 0, processes: int = 1, model: nn.Module | None = None) -> None:
        """Start the codebook from latents of real pictures, just before it is needed, or after the last step.

        Each process encodes its share of them.
        """
        model = self.model if model is None else model
        assert isinstance(model, StyledTokenizer)
        quantizer = model.quantizer
        if self.config.quantized_share(progress) == 0 and progress < 1:
            if quantizer.needs_start:  # a finished run that is to see more images has a codebook of before
                quantizer.started.fill_(False)
            return
        if quantizer.started:
            return
        images = self.images.some("train", START_IMAGES)
        # As many for each: with shared-out weights, all encode together, batch by batch.
        images = images[: len(images) // processes * processes].tensor_split(processes)[rank]
        device = next(model.parameters()).device
        model.eval()
        with torch.no_grad():
            parts = [model.latents(to_float(part.to(device))) for part in images.split(EVALUATION_BATCH)]
            quantizer.start(torch.cat(parts))
        model.train()

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return PSNR in dB on held-out pictures from 1, 4, 12 and all codes, as ``psnr_k``, and the error from all."""
        found: dict[int, list[Tensor]] = {k: [] for k in self.prefixes}
        squares = 0.0
        for part in self.held_out.split(EVALUATION_BATCH):
            pictures = to_float(part.to(next(model.parameters()).device))
            for k, painted in self._painted(model, pictures):
                found[k].append(psnr(painted, pictures))
            squares += float((painted - pictures).square().sum())  # the last ones are from all codes
        return {
            **{f"psnr_{k}": float(torch.cat(values).mean()) for k, values in found.items()},
            "validation_mse": squares / self.held_out.numel(),
        }

    def illustrate(self, model: nn.Module, path: Path) -> None:
        """Draw held-out originals above their reconstructions from 1, 4, 12 and all codes."""
        originals = to_float(self.held_out[:SHOWN].to(next(model.parameters()).device))
        painted = {prefix_name(k): pictures.cpu() for k, pictures in self._painted(model, originals)}
        save_rows(path, {"original": originals.cpu(), **painted})

    def _painted(self, model: nn.Module, pictures: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Paint pictures (B, 3, S, S) again from each number of codes that is evaluated, the fewest first."""
        assert isinstance(model, StyledTokenizer)
        # Codes that no decoder has learnt, and none will, say nothing of it.
        if self.config.quantized_share(1.0) == 0 and not model.quantizer.needs_start:
            latents = model.quantizer.continuous(model.latents(pictures, quantized=False))
        else:
            latents = model.code_latents(pictures)
        for k in self.prefixes:
            yield k, model.decoder(latents[:, :k]).clamp(-1, 1)


class _Streamed:
    """A loader of a packed set as the loop wants it."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def next(self) -> tuple[Tensor, ...]:
        return (next(self.loader).images,)

    def state(self) -> dict[str, Any]:
        return self.loader.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        self.loader.load_state_dict(state)
