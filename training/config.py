"""The base of all configurations, and the configuration of a training run."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator


class Config(BaseModel):
    """A frozen configuration; an unknown key is an error, and so is a number that is none."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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
    """How long to train, on how much at a time, on what hardware, and how often to look."""

    images: PositiveInt = Field(60_000, description="how many images (with repeats) the run sees")
    batch_size: PositiveInt = Field(64, description="images in one step, over all processes")
    micro_batch: PositiveInt | Literal["auto"] | None = Field(
        None, description="images at a time in one process; None: all of its share, auto: as many as fit, by trial"
    )
    seed: int = Field(0, ge=0, lt=2**32)
    ema_share: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="half-life of the weights' moving average, as a share of the images so far",
    )
    evaluate_every: PositiveInt = Field(10_000, description="images between two evaluations")
    save_every: PositiveInt = Field(20_000, description="images between two checkpoints")
    keep: PositiveInt = Field(2, description="checkpoints to keep, beside the best one")
    skip_at_most: PositiveInt = Field(10, description="steps in a row with a NaN gradient before giving up")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the GPU has it, else fp32")
    tf32: bool = Field(True, description="let a GPU multiply fp32 matrices in TF32")
    shard: bool = Field(False, description="FSDP: share weights, their average and optimizer out among processes")
    compile: bool = Field(False, description="torch.compile the model; minutes on a CPU")
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field((), description="where else to log")
    optimizer: OptimizerConfig = OptimizerConfig()

    @model_validator(mode="after")
    def _can_be_sharded(self) -> "TrainConfig":
        if self.shard and self.optimizer.name == "muon":
            raise ValueError("Muon works on whole matrices; with shard, set optimizer.name=adamw")
        if self.shard and self.micro_batch == "auto":
            raise ValueError("micro_batch=auto tries with whole weights; with shard, give a number")
        return self
