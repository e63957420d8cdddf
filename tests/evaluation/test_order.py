"""PSNR, the order of the codes, and the use of the codebook, on decoders whose answers are known."""

import math

import pytest
import torch
from torch import Tensor

from svq.evaluation.codebook import codebook_use, information
from svq.evaluation.order import effect_by_position, measure_order
from svq.evaluation.reconstruction import psnr, reconstruction_quality, ssim
from svq.pixels import to_float, to_uint8


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
    assert measured.psnr_area == pytest.approx(sum(values) / 4)
    assert measured.last_half == pytest.approx(values[3] - values[1])
    assert measured.frechet == {}
    assert measured.frechet_area is None


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
    measured = measure_order(deaf, codes, images)
    assert measured.matter == 3
    assert measured.psnr[2] == measured.psnr[3]


def test_a_distance_is_measured_for_every_length() -> None:
    codes = torch.randint(0, 11, (20, 4))
    images = paint(codes)
    pixels = to_uint8(images).int()

    def distance(painted: Tensor) -> float:
        return float((painted - pixels).abs().float().mean())

    measured = measure_order(paint, codes, images, distance)
    distances = list(measured.frechet.values())
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] == 0
    assert measured.frechet_area == pytest.approx(sum(distances) / 4)


def test_ssim_is_one_for_equals_and_knows_structure_from_noise() -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 3, 16, 16) * 2 - 1
    torch.testing.assert_close(ssim(images, images), torch.ones(4))
    assert ssim(torch.rand(4, 3, 16, 16) * 2 - 1, images).max() < 0.3
    # Two plain greys a and b on a scale from 0 to 1: (2 a b + c) / (a^2 + b^2 + c) with c = 0.01^2.
    a, b = torch.full((1, 3, 16, 16), 0.2), torch.full((1, 3, 16, 16), -0.4)  # 0.6 and 0.3
    assert ssim(a, b).item() == pytest.approx((2 * 0.18 + 1e-4) / (0.36 + 0.09 + 1e-4), abs=1e-3)


def test_quality_of_a_known_error() -> None:
    codes = torch.randint(0, 11, (300, 16))

    def bytes_of(codes: Tensor) -> Tensor:
        return (20 * codes).byte()[:, None, :, None].expand(-1, 3, -1, 16)

    def paint_16(codes: Tensor) -> Tensor:
        return to_float(bytes_of(codes))

    originals, done = bytes_of(codes) + 26, []  # by 0.2039 on a scale from -1 to 1
    quality = reconstruction_quality(paint_16, codes, originals, advance=done.append)
    assert 0.7 < quality.ssim < 1
    assert quality.psnr == pytest.approx(20 * math.log10(255 / 26), abs=1e-3)
    assert quality.psnr_spread == pytest.approx(0, abs=1e-3)
    assert quality.l1 == pytest.approx(26 / 127.5, abs=1e-5)
    assert quality.lpips is quality.frechet is None
    assert sum(done) == 300

    def perception(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).mean((1, 2, 3))

    seen: list[Tensor] = []
    again = reconstruction_quality(paint_16, codes, originals, perception, lambda painted: seen.append(painted) or 3.0)
    assert again.lpips == pytest.approx(-26 / 127.5, abs=1e-5)
    assert again.frechet == 3
    assert torch.equal(seen[0], bytes_of(codes))


def test_use_of_a_codebook_in_closed_form() -> None:
    # Position 0 always says 0; position 1 says 0 to 3 equally often.
    codes = torch.stack([torch.zeros(8).long(), torch.arange(8) % 4], dim=1)
    use = codebook_use(codes, codebook_size=8)
    assert use.used == 0.5
    assert use.entropy == pytest.approx([0.0, 2.0])
    assert use.used_at == [1, 4]
    p = torch.tensor([10 / 16, 2 / 16, 2 / 16, 2 / 16], dtype=torch.float64)
    assert use.perplexity == pytest.approx(2 ** float(-(p * p.log2()).sum()))


def test_information_about_the_class() -> None:
    torch.manual_seed(0)
    labels = torch.arange(4).repeat(500)
    told, noise = labels * 2 + torch.randint(0, 2, (2000,)), torch.randint(0, 500, (2000,))
    assert information(told, labels) == pytest.approx(2.0, abs=0.02)
    # 500 codes for 2,000 pictures: counted plainly, chance alone would give more than half a bit.
    assert information(noise, labels) == pytest.approx(0.0, abs=0.05)
    use = codebook_use(torch.stack([told, noise], dim=1), 500, labels)
    assert use.information == [information(told, labels), information(noise, labels)]
    assert codebook_use(told[:, None], 500, torch.full((2000,), -1)).information == []
