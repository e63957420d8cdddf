"""LPIPS equals a plain transcription, with VGG16 weights that the test writes."""

from importlib.resources import files
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor

from svq.errors import UserError
from svq.evaluation.lpips import LPIPS

RELUS = (3, 8, 15, 22, 29)  # the last activation of each of VGG16's five stages


def transcription(vgg16: Path, a: Tensor, b: Tensor) -> Tensor:
    weights = torch.load(vgg16, weights_only=True)
    with (files("torchmetrics.functional.image") / "lpips_models" / "vgg.pth").open("rb") as file:
        linear = torch.load(file, weights_only=True, map_location="cpu")
    network = torchvision.models.vgg16(weights=None).features
    network.load_state_dict({name.removeprefix("features."): t for name, t in weights.items()})
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    a, b = (a - shift) / scale, (b - shift) / scale
    total = torch.zeros(len(a))
    stage = 0
    for i, layer in enumerate(network):
        a, b = layer(a), layer(b)
        if i in RELUS:
            unit_a = a / (a.square().sum(1, keepdim=True).sqrt() + 1e-8)
            unit_b = b / (b.square().sum(1, keepdim=True).sqrt() + 1e-8)
            w = linear[f"lin{stage}.model.1.weight"].flatten()[:, None, None]
            total = total + ((unit_a - unit_b).square() * w).sum(1).mean((1, 2))
            stage += 1
    return total


def test_it_equals_the_transcription(vgg16: Path) -> None:
    a, b = torch.rand(3, 3, 32, 32) * 2 - 1, torch.rand(3, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(LPIPS(vgg16)(a, b), transcription(vgg16, a.clone(), b.clone()), atol=1e-5, rtol=1e-4)


def test_equals_have_no_distance_and_the_gradient_leads_to_them(vgg16: Path) -> None:
    network = LPIPS(vgg16).train()
    reference = torch.rand(1, 3, 16, 16) * 2 - 1
    assert network(reference, reference).item() == 0
    image = (reference + 0.3 * torch.randn_like(reference)).requires_grad_()
    before = network(image, reference)
    (gradient,) = torch.autograd.grad(before.sum(), image)
    assert network(image - 0.5 * gradient / gradient.norm(), reference).item() < before.item()


def test_the_wrong_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file of weights at .* expected those of VGG16"):
        LPIPS(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("no")
    with pytest.raises(UserError, match="is not a file of weights; expected those of VGG16"):
        LPIPS(tmp_path / "text.pth")
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="holds other weights; expected those of VGG16"):
        LPIPS(tmp_path / "other.pth")
