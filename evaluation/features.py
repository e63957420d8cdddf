"""The random features that stand in where there are no Inception weights.

A fixed convolutional network with random weights. The distance between two sets of pictures in its
features is a Fréchet distance, and sees colours, edges and textures, but it is not FID and is never called so.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_fidelity import register_feature_extractor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

RANDOM_CONV = "svq-random-conv"
SEED = 0
SIDE = 64  # every picture is brought to this size first
CHANNELS = (64, 128, 256)


class RandomConvFeatures(FeatureExtractorBase):
    """Three convolutions (5x5, 3x3, 3x3; stride 2; 64, 128, 256 channels; ReLU) with weights drawn from seed 0.

    The features are the spatial means of the three layers' activations, 448 numbers.
    """

    def __init__(self, name: str, features_list: list[str], **_: object) -> None:
        super().__init__(name, features_list)
        rng = torch.Generator().manual_seed(SEED)
        self.layers = nn.ModuleList()
        for inputs, outputs, kernel in zip((3, *CHANNELS), CHANNELS, (5, 3, 3), strict=False):
            layer = nn.Conv2d(inputs, outputs, kernel, stride=2, padding=kernel // 2)
            # He et al. 2015, arXiv:1502.01852: keeps the scale of the activations from layer to layer.
            nn.init.normal_(layer.weight, std=(2 / (inputs * kernel**2)) ** 0.5, generator=rng)
            nn.init.normal_(layer.bias, std=0.1, generator=rng)  # type: ignore[arg-type]
            self.layers.append(layer)

    @staticmethod
    def get_provided_features_list() -> tuple[str]:
        """Return the names of the features."""
        return (str(sum(CHANNELS)),)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """Return the features that a metric uses; there is one kind only."""
        return str(sum(CHANNELS))

    @staticmethod
    def can_be_compiled() -> bool:
        """Say that compiling is not worth it."""
        return False

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Map uint8 pictures (B, 3, H, W) to features (B, 448)."""
        x = images.float() / 127.5 - 1
        x = F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
        means = []
        for layer in self.layers:
            x = F.relu(layer(x))
            means.append(x.mean((2, 3)))
        return (torch.cat(means, dim=1),)


register_feature_extractor(RANDOM_CONV, RandomConvFeatures)
