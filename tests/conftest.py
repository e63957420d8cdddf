"""What several tests share: a cache of their own, tiny configurations, and a folder of small pictures."""

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image, ImageDraw

from svq.data import ImageSet, open_images
from svq.tokenizer.config import TokenizerConfig

# Rounds of different length and luck would make a test of properties fail now and then.
hypothesis.settings.register_profile("svq", deadline=None, derandomize=True)
hypothesis.settings.load_profile("svq")

CLASSES = {"disc": "ellipse", "box": "rectangle"}


@pytest.fixture(autouse=True, scope="session")
def _session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give data sets a cache of this session."""
    patch = pytest.MonkeyPatch()
    patch.setenv("SVQ_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture
def config() -> TokenizerConfig:
    """A tokenizer that trains in seconds: 16 px, 8 tokens."""
    return TokenizerConfig(
        image_size=16,
        patch_size=8,
        tokens=8,
        encoder_width=32,
        encoder_depth=2,
        encoder_heads=2,
        looks=2,
        ahead=2,
        decoder_width=32,
        decoder_heads=2,
        plain_layers=1,
        mlp_ratio=2,
    )


def draw(path: Path, kind: str, rng: np.random.Generator, size: int = 24) -> None:
    """Draw a coloured shape on a coloured ground."""
    ground, colour = (tuple(int(v) for v in rng.integers(0, 256, 3)) for _ in range(2))
    image = Image.new("RGB", (size, size), ground)
    left, top = rng.integers(0, size // 2, 2)
    getattr(ImageDraw.Draw(image), CLASSES[kind])([left, top, left + size // 2, top + size // 2], fill=colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 64 pictures in two classes."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(32):
        for kind in CLASSES:
            draw(root / kind / f"{i:02d}.png", kind, rng)
    return root


@pytest.fixture(scope="session")
def pictures(folder: Path, _session: None) -> ImageSet:
    """The pictures of the folder at 16 px."""
    return open_images(str(folder), 16)


@pytest.fixture(scope="session")
def vgg16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of VGG16 weights, drawn at random."""
    torch.manual_seed(0)
    features = torchvision.models.vgg16(weights=None).features.state_dict()
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save({f"features.{name}": tensor for name, tensor in features.items()}, path)
    return path
