"""The configuration of a tokenizer: its shapes and its quantizer."""

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from svq.training.config import Config, TrainConfig

MOST_CODES = 2**18
Size = Annotated[PositiveInt, Field(le=MOST_CODES)]  # of a codebook


class VQConfig(Config):
    """Cosine vector quantization with k-means start and dead-code revival."""

    kind: Literal["vq"] = "vq"
    codebook_size: Size = 1024
    dim: PositiveInt = 8
    decay: float = Field(0.95, gt=0, lt=1, description="EMA decay of the codes")
    commitment: float = Field(0.25, ge=0, description="weight of the commitment term")
    dead_below: float = Field(
        0.1, ge=0, lt=1, description="a code used less than this share of what an average one is (EMA) is revived"
    )


class FSQConfig(Config):
    """Finite scalar quantization (Mentzer et al. 2023, arXiv:2309.15505): a fixed grid, nothing to collapse."""

    kind: Literal["fsq"] = "fsq"
    levels: tuple[Annotated[int, Field(ge=3)], ...] = Field((8, 5, 5, 5), min_length=1)

    @model_validator(mode="after")
    def _can_be_held(self) -> "FSQConfig":
        if self.codebook_size > MOST_CODES:
            raise ValueError(f"levels {self.levels} make {self.codebook_size:,} codes; {MOST_CODES:,} or fewer fit")
        return self

    @property
    def dim(self) -> int:
        """Values per latent."""
        return len(self.levels)

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return math.prod(self.levels)


class SimVQConfig(Config):
    """SimVQ (Zhu et al. 2024, arXiv:2411.02038): a frozen random codebook behind a learned linear map."""

    kind: Literal["simvq"] = "simvq"
    codebook_size: Size = 1024
    dim: PositiveInt = 8
    commitment: float = Field(0.25, gt=0, description="weight of codes towards latents; of latents to codes a quarter")


class LFQConfig(Config):
    """Lookup-free quantization (Yu et al. 2023, arXiv:2310.05737): the sign of each value is one bit of the code."""

    kind: Literal["lfq"] = "lfq"
    bits: PositiveInt = Field(10, le=18, description="values per latent; the codebook has 2^bits codes")
    entropy_weight: float = Field(0.02, ge=0, description="weight of: sure of each code, all codes equally often")
    commitment: float = Field(0.1, ge=0, description="weight of the commitment term")

    @property
    def dim(self) -> int:
        """Values per latent."""
        return self.bits

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return 2**self.bits


class KMeansConfig(Config):
    """Codes by k-means on the latents, once and for all, when the continuous part of training is over.

    Meant for a VAE that is finished, ``continuous_share`` 1, or nearly so, 0.8. The earlier it is, the more the encoder
    moves away from codes that stay: it writes them less evenly, which is no loss to a picture, and one to samples.
    """

    kind: Literal["kmeans"] = "kmeans"
    codebook_size: Size = 1024
    dim: PositiveInt = 8
    iterations: PositiveInt = 30


QuantizerConfig = Annotated[VQConfig | FSQConfig | SimVQConfig | LFQConfig | KMeansConfig, Field(discriminator="kind")]


class TokenizerConfig(Config):
    """Shapes of encoder, quantizer and styled decoder."""

    image_size: PositiveInt = 256
    patch_size: PositiveInt = 16
    tokens: PositiveInt = 36
    encoder_width: PositiveInt = 1024
    encoder_depth: PositiveInt = 24
    encoder_heads: PositiveInt = 16
    decoder_width: PositiveInt = 768
    decoder_heads: PositiveInt = 12
    plain_layers: int = Field(6, ge=0, description="plain layers after the styled ones")
    mlp_ratio: float = Field(4.0, gt=0)
    looks: int = Field(
        0,
        ge=0,
        description="in how many groups the latents are written, each after a look at what is painted from those "
        "before it; 0: all at once, unseen",
    )
    ahead: PositiveInt | None = Field(
        None,
        description="a placeholder joins the decoder's tokens so many layers before its own and leaves them after it, "
        "and with looks a query is there for its look alone; null: all of them are there, always",
    )
    normalize: Literal["position", "none"] = Field(
        "position", description="position: each (position, channel) of the latents to mean 0 and variance 1"
    )
    quantizer: QuantizerConfig = FSQConfig()

    @model_validator(mode="after")
    def _shapes_fit(self) -> "TokenizerConfig":
        size, patch = self.image_size, self.patch_size
        if size % patch:
            below, above = size // patch * patch, (size // patch + 1) * patch
            fits = f"{above} is" if below == 0 else f"{below} and {above} are"
            raise ValueError(f"image_size {size} is not a multiple of patch_size {patch}; {fits}")
        if self.tokens % 2:
            raise ValueError(f"tokens {self.tokens} is odd; every styled layer takes two, give an even number")
        if self.looks and self.tokens // 2 % self.looks:
            layers = self.tokens // 2
            fits = ", ".join(str(n) for n in range(1, layers + 1) if layers % n == 0)
            raise ValueError(f"looks {self.looks} does not divide {layers} styled layers; set model.looks to 0, {fits}")
        if self.looks and self.ahead is not None and self.ahead * self.looks < self.tokens // 2:
            fewest = self.tokens // 2 // self.looks
            raise ValueError(
                f"ahead {self.ahead} is too small for looks {self.looks}, each of which sees the placeholders of the "
                f"next {fewest} layers; set model.ahead to {fewest} or more, or to null"
            )
        for part in ("encoder", "decoder"):
            width, heads = getattr(self, f"{part}_width"), getattr(self, f"{part}_heads")
            if width % heads:
                raise ValueError(f"{part}_width {width} is not a multiple of {part}_heads {heads}")
        return self

    @property
    def latent_dim(self) -> int:
        """Values per latent."""
        return self.quantizer.dim

    @property
    def patches(self) -> int:
        """Number of patches of a picture."""
        return (self.image_size // self.patch_size) ** 2


class TokenizerTrainConfig(TrainConfig):
    """Training of stage one: first continuous, then quantized, now and then from a prefix only."""

    continuous_share: float = Field(
        0.3,
        ge=0,
        le=1,
        description="share of the run before quantization; 0: from the first image, 1: never, or for kmeans at the end",
    )
    ramp_share: float = Field(
        0.1, ge=0, le=1, description="share of the run over which more and more of the pictures are quantized"
    )
    truncated_share: float = Field(0.1, ge=0, le=1, description="share of the pictures painted from a prefix only")
    reconstruction: Literal["l1", "l2"] = "l2"
    kl_weight: float = Field(1e-6, ge=0)
    perceptual_weight: float = Field(0.0, ge=0, description="weight of LPIPS beside the reconstruction; 0: none")
    perceptual_vgg16: Path | None = Field(None, description="torchvision's file of VGG16 weights, which LPIPS needs")
    critic_weight: float = Field(
        0.0, ge=0, description="weight of a patch discriminator; 0: none, about 0.1 where there is to be one"
    )
    critic_start: float = Field(0.6, ge=0, lt=1, description="share of the run before the discriminator")
    critic_adaptive: bool = Field(
        True, description="scale its weight so that 1 pulls as hard as the reconstruction; false: as it is"
    )
    critic_lecam: float = Field(0.001, ge=0, description="weight of its LeCam regularisation")
    critic_width: PositiveInt = Field(64, description="channels of its first layer")
    recompute: bool = Field(False, description="activation checkpointing: less memory, a third more time")
    flip: bool = Field(True, description="mirror half of the training pictures")
    jitter_share: float = Field(
        0.0, ge=0, le=1, description="share of the training pictures turned, stretched and moved a little"
    )
    crop: Literal["centre", "random"] = Field(
        "centre", description="random: a part of the picture, stretched; of packed sets that are streamed only"
    )
    evaluation_images: PositiveInt = Field(512, description="held-out pictures to evaluate on, at most")

    @model_validator(mode="after")
    def _perception_has_weights(self) -> "TokenizerTrainConfig":
        if self.perceptual_weight and self.perceptual_vgg16 is None:
            raise ValueError(
                f"perceptual_weight {self.perceptual_weight} needs the weights of VGG16; name torchvision's file "
                "vgg16-397923af.pth with train.perceptual_vgg16"
            )
        return self

    @model_validator(mode="after")
    def _critic_sees_whole_weights(self) -> "TokenizerTrainConfig":
        if self.shard and self.critic_weight:
            raise ValueError("shard and a discriminator do not go together; set critic_weight=0")
        return self

    @model_validator(mode="after")
    def _quantization_is_reached(self) -> "TokenizerTrainConfig":
        if self.continuous_share < 1 and self.continuous_share + self.ramp_share > 1:
            raise ValueError(
                f"continuous_share {self.continuous_share} + ramp_share {self.ramp_share} is more than 1: the run "
                "would end before all pictures are quantized; lower one of them, or set continuous_share to 1"
            )
        return self

    def quantized_share(self, progress: float) -> float:
        """Return the share of pictures to quantize when `progress`, a share of the run, is done."""
        if self.continuous_share == 1 or progress < self.continuous_share:
            return 0.0
        if progress >= self.continuous_share + self.ramp_share:
            return 1.0
        return (progress - self.continuous_share) / self.ramp_share


class TokenizerSettings(Config):
    """A tokenizer and how to train it."""

    model: TokenizerConfig
    train: TokenizerTrainConfig

    @model_validator(mode="after")
    def _batch_has_statistics(self) -> "TokenizerSettings":
        if self.model.normalize == "position" and self.train.batch_size < 2:
            raise ValueError("train.batch_size 1 has no statistics to normalise latents by; give 2 or more")
        return self
