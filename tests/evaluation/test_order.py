"""PSNR, the order of the codes, and the use of the codebook, on decoders whose answers are known."""

import pytest
import torch
from torch import Tensor

from svq.evaluation.codebook import codebook_use
from svq.evaluation.order import effect_by_position, measure_order, psnr_by_prefix
from svq.evaluation.reconstruction import psnr, reconstruction_quality


def paint(codes: Tensor) -> Tensor:
    """Code i of 4 sets the brightness of row i; rows without a code are grey."""
    image = torch.zeros(len(codes), 3, 4, 4)
    image[:, :, : codes.shape[1]] = (codes / 5 - 1).float()[:, None, :, None]
    return image


def test_psnr_of_a_known_error() -> None:
    images = torch.zeros(2, 3, 4, 4)
    assert psnr(images + 0.2, images).tolist() == pytest.approx([20.0, 20.0], abs=1e-4)
    assert psnr(images + 2, images).tolist() == pytest.approx([0.0, 0.0], abs=1e-4)


def test_a_perfect_decoder_gets_better_with_every_code() -> None:
    codes = torch.randint(0, 11, (50, 4))
    measured = measure_order(paint, codes, paint(codes))
    values = list(measured.psnr.values())
    assert values == sorted(values)
    assert values[-1] > 90
    assert measured.matter == 4


def test_a_position_that_is_ignored_has_no_effect() -> None:
    codes = torch.randint(0, 11, (50, 4))

    def deaf(codes: Tensor) -> Tensor:
        image = paint(codes)
        image[:, :, 2] = 0
        return image

    images = paint(codes) + 0.1
    effects = effect_by_position(deaf, codes, images)
    assert effects[2] == 0
    assert min(effects[0], effects[1], effects[3]) > 0.5
    assert measure_order(deaf, codes, images).matter == 3
    assert psnr_by_prefix(deaf, codes, images, [2, 3])[2] == psnr_by_prefix(deaf, codes, images, [3])[3]


def test_quality_of_a_known_error() -> None:
    codes = torch.randint(0, 11, (300, 4))
    quality = reconstruction_quality(paint, codes, paint(codes) + 0.2)
    assert quality.psnr == pytest.approx(20, abs=1e-3)
    assert quality.psnr_spread == pytest.approx(0, abs=1e-3)
    assert quality.l1 == pytest.approx(0.2, abs=1e-5)


def test_use_of_a_codebook_in_closed_form() -> None:
    # Position 0 always says 0; position 1 says 0 to 3 equally often.
    codes = torch.stack([torch.zeros(8).long(), torch.arange(8) % 4], dim=1)
    use = codebook_use(codes, codebook_size=8)
    assert use.used == 0.5
    assert use.entropy == pytest.approx([0.0, 2.0])
    assert use.used_at == [1, 4]
    p = torch.tensor([10 / 16, 2 / 16, 2 / 16, 2 / 16], dtype=torch.float64)
    assert use.perplexity == pytest.approx(2 ** float(-(p * p.log2()).sum()))
