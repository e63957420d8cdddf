"""LPIPS: the distance of two pictures as VGG16's features see it (Zhang et al. 2018, arXiv:1801.03924).

The network and its trained linear weights come from torchmetrics. The weights of VGG16 itself do not: they are
read from a file, so that nothing is ever fetched in the middle of a run.
"""

from pathlib import Path

from torch import Tensor, nn

from svq.errors import UserError
from svq.evaluation.weights import read_weights

VGG16 = "vgg16-397923af.pth"  # torchvision's name for the file


class LPIPS(nn.Module):
    """Pictures (B, 3, H, W) and references, in [-1, 1], H and W at least 16 -> distances (B,), with gradient."""

    def __init__(self, vgg16: Path) -> None:
        """Read the weights of VGG16 from a file of torchvision's.

        Raises:
            UserError: the file is missing or holds something else.
        """
        super().__init__()
        # Imported here: it takes seconds, and only this class needs it. The public class of torchmetrics fetches
        # weights; this one, behind it, lets us bring our own.
        from torchmetrics.functional.image.lpips import _LPIPS

        self.network = _LPIPS(pretrained=True, net="vgg", pnet_rand=True, use_dropout=True, eval_mode=True)
        what = f"VGG16 (torchvision's {VGG16})"
        weights = read_weights(vgg16, what, has="features.28.weight")
        backbone = self.network.net
        for name, tensor in backbone.state_dict().items():
            layer = name.split(".", 1)[1]  # slice1.0.weight is features.0.weight
            given = weights.get(f"features.{layer}")
            if given is None or given.shape != tensor.shape:
                raise UserError(f"{vgg16} holds other weights (features.{layer}); expected those of {what}")
            tensor.copy_(given)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor, references: Tensor) -> Tensor:
        distance: Tensor = self.network(images, references)
        return distance.flatten(1).mean(1)  # (B,)

    def train(self, mode: bool = True) -> "LPIPS":
        """Stay in evaluation mode: dropout has no place in a measure."""
        del mode
        return super().train(False)
