"""The GPT: its cache, its conditions, its files."""

from pathlib import Path

import numpy as np
import pytest
import torch

from svq.errors import UserError
from svq.generator import Generator
from svq.generator.config import GeneratorConfig


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    config = GeneratorConfig(codebook_size=20, tokens=8, classes=("a", "b"), width=32, depth=2, heads=2)
    model = Generator(config).eval()
    for parameter in model.parameters():
        parameter.data.mul_(3)  # opinions, so that differences show
    return model


def test_a_code_is_predicted_from_those_before_it_alone(generator: Generator) -> None:
    codes, labels = torch.randint(0, 20, (2, 8)), torch.tensor([0, -1])
    logits = generator(codes, labels)
    changed = codes.clone()
    changed[:, 4] = (codes[:, 4] + 1) % 20
    torch.testing.assert_close(generator(changed, labels)[:, :5], logits[:, :5])
    assert (generator(changed, labels)[:, 5:] - logits[:, 5:]).abs().max() > 1e-3


def test_the_cache_changes_nothing(generator: Generator) -> None:
    codes, labels = torch.randint(0, 20, (3, 8)), torch.tensor([0, 1, -1])
    expected = generator(codes, labels)
    for start in (0, 3):
        logits, cache = generator.prefill(labels, codes[:, :start])
        torch.testing.assert_close(logits, expected[:, start])
        for i in range(start, 7):
            logits, cache = generator.decode_next(codes[:, i], cache)
            torch.testing.assert_close(logits, expected[:, i + 1])


def test_greedy_sampling_is_the_argmax_of_the_full_pass(generator: Generator) -> None:
    codes = generator.sample(4, labels=torch.tensor([0, 1, -1, 0]), temperature=0)
    assert torch.equal(generator(codes, torch.tensor([0, 1, -1, 0])).argmax(-1), codes)


def test_an_image_does_not_depend_on_the_batch(generator: Generator) -> None:
    together = generator.sample(12, seed=5)
    assert torch.equal(torch.cat([generator.sample(1, seed=5, first=i) for i in range(12)]), together)
    assert torch.equal(torch.cat([generator.sample(n, seed=5, first=f) for f, n in ((0, 5), (5, 7))]), together)


def test_samples_begin_with_their_prefix(generator: Generator) -> None:
    prefix = torch.randint(0, 20, (3, 5))
    assert torch.equal(generator.sample(3, prefix=prefix)[:, :5], prefix)
    whole = torch.randint(0, 20, (3, 8))
    assert torch.equal(generator.sample(3, prefix=whole), whole)
    stored = prefix.to(torch.uint16)  # as a file of codes has it
    assert torch.equal(generator.sample(3, prefix=stored), generator.sample(3, prefix=prefix))


def test_continuing_its_own_prefix_gives_the_same_image(generator: Generator) -> None:
    whole = generator.sample(3, seed=1)
    assert torch.equal(generator.sample(3, seed=1, prefix=whole[:, :4]), whole)


def test_guidance_one_is_the_plain_condition_and_zero_is_none(generator: Generator) -> None:
    labels = torch.tensor([0, 1, 1, 0])
    plain = generator.sample(4, seed=2, labels=labels)
    assert torch.equal(generator.sample(4, seed=2, labels=labels, guidance=1.0), plain)
    assert torch.equal(generator.sample(4, seed=2, labels=labels, guidance=0.0), generator.sample(4, seed=2))
    assert not torch.equal(generator.sample(4, seed=2, labels=labels, guidance=5.0), plain)
    assert torch.equal(generator.sample(4, seed=2, guidance=[1.0] * 8), generator.sample(4, seed=2))  # needs no class


def test_guidance_moves_the_logits_as_written(generator: Generator) -> None:
    labels = torch.tensor([1])
    free = generator.prefill(torch.tensor([-1]), torch.empty(1, 0, dtype=torch.int64))[0]
    conditional = generator.prefill(labels, torch.empty(1, 0, dtype=torch.int64))[0]
    expected = (free + 3 * (conditional - free)).argmax()
    assert generator.sample(1, labels=labels, guidance=3.0, temperature=0)[0, 0] == expected


def test_schedules_by_position(generator: Generator) -> None:
    greedy = generator.sample(6, seed=0, temperature=0)
    mixed = generator.sample(6, seed=0, temperature=[0, 0, 0, 0, 5, 5, 5, 5])
    assert torch.equal(mixed[:, :4], greedy[:, :4])
    assert not torch.equal(mixed, greedy)
    assert torch.equal(generator.sample(6, seed=0, top_k=[1] * 8), greedy)
    assert torch.equal(generator.sample(6, seed=0, temperature=np.float32(0)), greedy)
    assert torch.equal(generator.sample(6, seed=0, temperature=np.zeros(8)), greedy)


@pytest.mark.parametrize(
    "changed",
    [{"guidance": [1.0] * 4 + [5.0] * 4}, {"top_p": [1.0] * 4 + [0.1] * 4}, {"min_p": [0.0] * 4 + [1.0] * 4}],
    ids=lambda changed: next(iter(changed)),
)
def test_each_position_has_its_own_value(generator: Generator, changed: dict[str, list[float]]) -> None:
    labels = torch.ones(20, dtype=torch.int64)
    plain, other = generator.sample(20, 5, labels=labels), generator.sample(20, 5, labels=labels, **changed)
    assert torch.equal(plain[:, :4], other[:, :4])
    assert not torch.equal(plain, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top_k": 2.7}, "a whole top_k"),
        ({"labels": torch.tensor([2])}, "expected 1 labels from -1 to 1"),
        ({"prefix": torch.zeros(1, 9).long()}, "expected a prefix of shape"),
        ({"prefix": torch.full((1, 2), 20)}, r"must lie in \[0, 20\)"),
        ({"prefix": torch.zeros(1, 2)}, r"to be integers, got torch\.float32"),
        ({"temperature": [1.0]}, "expected a schedule of 8 numbers, one for each position, got 1"),
        ({"top_p": [1.0] * 9}, "expected a schedule of 8 numbers"),
        ({"top_p": np.ones(9)}, "expected a schedule of 8 numbers"),
        ({"guidance": 2.0}, "guidance needs a class"),
        ({"temperature": float("nan")}, "expected finite numbers to sample with, got nan"),
        ({"guidance": [1.0] * 7 + [float("inf")], "labels": torch.tensor([0])}, "expected finite numbers"),
    ],
)
def test_wrong_arguments_are_refused(generator: Generator, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        generator.sample(1, **arguments)


def test_training_mode_is_refused(generator: Generator) -> None:
    with pytest.raises(UserError, match=r"call \.eval"):
        generator.train().sample(1)


def test_the_loss_of_an_untrained_model_is_that_of_guessing() -> None:
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(codebook_size=50, tokens=8, width=32, depth=1, heads=2)).eval()
    loss = generator.loss(torch.randint(0, 50, (64, 8)), torch.full((64,), -1))
    assert loss.item() == pytest.approx(torch.tensor(50.0).log().item(), abs=0.3)


def test_the_shape_is_what_was_asked_for() -> None:
    net = Generator(GeneratorConfig(codebook_size=50, tokens=8, width=32, depth=3, heads=2, classes=("a",))).net
    assert net.pos_emb.emb.weight.shape == (8, 32)  # learned positions
    assert net.token_emb.emb.weight.shape == (50 + 2, 32)
    assert len(net.attn_layers.layers) == 2 * 3  # attention and MLP


def test_a_saved_generator_is_the_same(generator: Generator, tmp_path: Path) -> None:
    generator.save_pretrained(tmp_path / "g")
    assert torch.equal(Generator.from_pretrained(tmp_path / "g").sample(4, seed=9), generator.sample(4, seed=9))
