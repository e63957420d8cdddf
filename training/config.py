"""The base of all configurations, and the configuration of a training run."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt


class Config(BaseModel):
    """A frozen configuration; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Share = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Config):
    """The optimizer and the course of its learning rate."""

    name: Literal["muon", "adamw"] = Field("adamw", description="muon: Muon for matrices, AdamW for the rest")
    learning_rate: float = Field(1e-3, gt=0)
    final_share: float = Field(0.02, ge=0, le=1, description="last learning rate as a share of the first")
    warmup_share: float = Field(0.02, ge=0, lt=1, description="share of the run with a rising learning rate")
    betas: tuple[Share, Share] = (0.9, 0.95)
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")


class TrainConfig(Config):
    """How long to train, on how much at a time, and how often to look."""

    images: PositiveInt = Field(60_000, description="how many images (with repeats) the run sees")
    batch_size: PositiveInt = 64
    seed: int = Field(0, ge=0, lt=2**32)
    ema_share: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="half-life of the weights' moving average, as a share of the images so far",
    )
    evaluate_every: PositiveInt = Field(10_000, description="images between two evaluations")
    save_every: PositiveInt = Field(20_000, description="images between two checkpoints")
    optimizer: OptimizerConfig = OptimizerConfig()
