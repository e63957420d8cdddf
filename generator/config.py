"""The configuration of a generator and of its training."""

from pydantic import Field, PositiveInt, model_validator

from svq.generator.sampling import Schedule, TopK
from svq.training.config import Config, TrainConfig


class GeneratorShape(Config):
    """The shape of the GPT; all that a user chooses."""

    width: PositiveInt = 768
    depth: PositiveInt = 12
    heads: PositiveInt = 12
    dropout: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _shapes_fit(self) -> "GeneratorShape":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class GeneratorConfig(GeneratorShape):
    """A GPT, and what its codes mean; that comes from the file of codes."""

    codebook_size: PositiveInt = 1024
    tokens: PositiveInt = 36
    classes: tuple[str, ...] = Field((), description="names of the classes; empty: unconditional")
    tokenizer: str = Field("", description="fingerprint of the tokenizer whose codes these are")


class SamplingConfig(Config):
    """How codes are drawn. Each may be one number, or a list with one for each position."""

    temperature: Schedule = Field(1.0, description="0: the likeliest code")
    top_k: TopK = Field(None, description="only the k likeliest codes")
    top_p: Schedule = Field(1.0, description="only the likeliest codes that together reach this probability")
    min_p: Schedule = Field(0.0, description="only codes of this share of the likeliest one's probability")
    guidance: Schedule = Field(1.0, description="scale of classifier-free guidance; needs a class")
    class_name: str | None = Field(None, description="the class to draw; None: any")


class GeneratorTrainConfig(TrainConfig):
    """Training of stage two; an image is one sequence of codes."""

    condition_dropout: float = Field(
        0.1, gt=0, le=1, description="share of sequences without class, to sample without one and for guidance"
    )
    evaluation_sequences: PositiveInt = Field(10_000, description="held-out sequences to evaluate on, at most")


class GeneratorSettings(Config):
    """A generator and how to train it."""

    model: GeneratorShape
    train: GeneratorTrainConfig
