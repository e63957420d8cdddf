"""The training step of stage one."""

import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from svq.data import ImageSet
from svq.errors import DataError
from svq.pixels import to_float
from svq.tokenizer.config import KMeansConfig, TokenizerConfig, TokenizerTrainConfig, VQConfig
from svq.tokenizer.task import TokenizerTask
from tests.steps import draws


def test_quantization_begins_late_and_grows() -> None:
    train = TokenizerTrainConfig(continuous_share=0.4, ramp_share=0.2)
    assert [train.quantized_share(p) for p in (0, 0.39, 0.5, 0.7, 1)] == [0, 0, pytest.approx(0.5), 1, 1]


def test_quantization_can_begin_at_once_or_never() -> None:
    at_once = TokenizerTrainConfig(continuous_share=0, ramp_share=0)
    never = TokenizerTrainConfig(continuous_share=1)
    assert [at_once.quantized_share(p) for p in (0, 0.5)] == [1, 1]
    assert [never.quantized_share(p) for p in (0, 0.999)] == [0, 0]


def test_the_wanted_share_of_pictures_is_truncated(config: TokenizerConfig, pictures: ImageSet) -> None:
    task = TokenizerTask(config, TokenizerTrainConfig(truncated_share=0.3), pictures)
    keep = task._keep(draws(20_000))
    assert abs((keep < 8).float().mean() - 0.3) < 0.02
    counts = keep[keep < 8].bincount(minlength=8)
    assert counts[0] == 0
    wanted = torch.tensor([math.log((k + 1) / k, 8) for k in range(1, 8)])  # each doubling equally likely
    torch.testing.assert_close(counts[1:] / counts.sum(), wanted, atol=0.02, rtol=0)


def test_the_wanted_share_of_pictures_is_jittered(config: TokenizerConfig, pictures: ImageSet) -> None:
    seen: list[torch.Tensor] = []
    for share in (0.0, 0.5, 0.5):
        task = TokenizerTask(config, TokenizerTrainConfig(jitter_share=share, flip=False), pictures)
        task.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        task.losses((pictures.batch(pictures.indices("train")),), 0.0, draws(len(pictures.indices("train"))))
    changed = (seen[0] != seen[1]).flatten(1).any(1)
    assert 0.2 < changed.float().mean() < 0.8
    assert torch.equal(seen[1], seen[2])


@pytest.mark.parametrize(("kind", "distance"), [("l2", F.mse_loss), ("l1", F.l1_loss)])
def test_what_a_step_shows_the_model_and_what_it_asks_of_it(
    config: TokenizerConfig, pictures: ImageSet, kind: Any, distance: Any
) -> None:
    train = TokenizerTrainConfig(
        reconstruction=kind, truncated_share=0.3, continuous_share=0.4, ramp_share=0.2, kl_weight=0.5
    )
    task = TokenizerTask(config, train, pictures)
    given: list[tuple[Any, ...]] = []
    painted: list[Any] = []
    task.model.register_forward_pre_hook(lambda _, inputs: given.append(inputs))
    task.model.register_forward_hook(lambda *of: painted.append(of[2]))
    count = 4000
    originals = pictures.batch(pictures.indices("train"))[torch.arange(count) % task.size]
    with torch.no_grad():
        losses = task.losses((originals,), 0.45, draws(count))
    (images, eps, quantized, keep), result = given[0], painted[0]
    as_they_are = (images == to_float(originals)).flatten(1).all(1)
    assert torch.equal(images[~as_they_are], to_float(originals)[~as_they_are].flip(-1))  # half of them mirrored
    assert abs(as_they_are.float().mean() - 0.5) < 0.05
    assert eps.shape == (count, 8, config.latent_dim)
    assert abs(eps.mean()) < 0.02
    assert abs(eps.std() - 1) < 0.02
    assert abs(quantized.float().mean() - train.quantized_share(0.45)) < 0.03
    assert train.quantized_share(0.45) == pytest.approx(0.25)
    assert abs((keep < 8).float().mean() - 0.3) < 0.03
    torch.testing.assert_close(losses.parts["reconstruction"], distance(result.images, images))
    torch.testing.assert_close(
        losses.total,
        losses.parts["reconstruction"] + 0.5 * losses.parts["kl"] + result.quantizer_loss,
    )


def test_stage_one_never_trains_on_held_out_pictures(config: TokenizerConfig, pictures: ImageSet) -> None:
    task = TokenizerTask(config, TokenizerTrainConfig(), pictures)
    (shown,) = task.batch(torch.arange(task.size))
    assert torch.equal(shown, pictures.batch(np.flatnonzero(~pictures.validation)))
    known = {picture.numpy().tobytes() for picture in pictures.batch(np.flatnonzero(pictures.validation))}
    assert {picture.numpy().tobytes() for picture in task.held_out} == known


def test_a_codebook_starts_from_pictures_of_training(
    config: TokenizerConfig, pictures: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config.model_copy(update={"quantizer": KMeansConfig(codebook_size=16)})
    task = TokenizerTask(config, TokenizerTrainConfig(continuous_share=0), pictures)
    known = {picture.numpy().tobytes() for picture in to_float(pictures.batch(pictures.indices("train")))}
    seen: set[bytes] = set()
    real = task.model.latents
    monkeypatch.setattr(task.model, "latents", lambda x: seen.update(p.numpy().tobytes() for p in x) or real(x))
    task.prepare(1.0)
    assert seen == known


@pytest.mark.parametrize("kind", [VQConfig(codebook_size=16), KMeansConfig(codebook_size=16)])
def test_the_codebook_starts_when_it_is_needed(
    config: TokenizerConfig, pictures: ImageSet, kind: VQConfig | KMeansConfig
) -> None:
    config = config.model_copy(update={"quantizer": kind})
    task = TokenizerTask(config, TokenizerTrainConfig(continuous_share=0.5), pictures)
    task.model.train()
    task.prepare(0.49)
    assert not task.model.quantizer.started
    task.prepare(0.51)
    assert task.model.quantizer.started
    assert task.model.training
    assert len(task.model.eval().encode(to_float(pictures.batch(pictures.indices("all")))).unique()) > 4


def test_a_vae_gets_its_codebook_at_the_end(config: TokenizerConfig, pictures: ImageSet) -> None:
    config = config.model_copy(update={"quantizer": KMeansConfig(codebook_size=16)})
    task = TokenizerTask(config, TokenizerTrainConfig(continuous_share=1), pictures)
    task.prepare(0.999)
    assert not task.model.quantizer.started
    average = deepcopy(task.model)
    task.prepare(1.0, model=average)  # its codes are to be those of the model that is kept
    assert average.quantizer.started
    assert not task.model.quantizer.started
    task.prepare(1.0)
    assert task.model.quantizer.started


def test_to_start_a_codebook_moves_no_statistics(config: TokenizerConfig, pictures: ImageSet) -> None:
    config = config.model_copy(update={"quantizer": KMeansConfig(codebook_size=16)})
    task = TokenizerTask(config, TokenizerTrainConfig(continuous_share=0), pictures)
    task.model.train()
    before = task.model.norm.norm.running_mean.clone()
    task.prepare(1.0)
    assert torch.equal(task.model.norm.norm.running_mean, before)
    assert task.model.training


def test_the_perceptual_loss_joins_the_others(config: TokenizerConfig, pictures: ImageSet, vgg16: Path) -> None:
    batch = torch.arange(8)
    losses = []
    for weight in (0.0, 0.5):
        train = TokenizerTrainConfig(perceptual_weight=weight, perceptual_vgg16=vgg16)
        task = TokenizerTask(config, train, pictures)
        losses.append(task.losses(task.batch(batch), 1.0, draws(8)))
    plain, both = losses
    assert "perceptual" not in plain.parts
    assert both.parts["perceptual"] > 0
    torch.testing.assert_close(both.total, plain.total + 0.5 * both.parts["perceptual"])
    assert not any("perception" in name for name in task.model.state_dict())


def test_the_perceptual_loss_needs_its_weights() -> None:
    with pytest.raises(ValueError, match=r"needs the weights of VGG16; name torchvision's file"):
        TokenizerTrainConfig(perceptual_weight=0.1)


def test_pictures_of_another_size_are_refused(config: TokenizerConfig, pictures: ImageSet) -> None:
    with pytest.raises(DataError, match="the pictures have 16 px, the tokenizer 32"):
        TokenizerTask(config.model_copy(update={"image_size": 32}), TokenizerTrainConfig(), pictures)
