"""A folder of new pictures, and stage two's training step."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from svq.data import ImageSet, open_images
from svq.data.codes import Codes
from svq.errors import CheckpointError, DataError, UserError
from svq.generator import Generator
from svq.generator.config import GeneratorConfig, GeneratorShape, GeneratorTrainConfig, SamplingConfig
from svq.generator.generate import generate, label_of, paint
from svq.generator.task import GeneratorTask
from svq.pixels import to_uint8
from svq.tokenizer import StyledTokenizer
from svq.tokenizer.config import TokenizerConfig
from svq.tokenizer.tokenize import tokenize
from svq.training.checkpoint import fingerprint
from svq.training.runs import train_run
from svq.training.state import differences
from tests.steps import draws


@pytest.fixture
def tokenizer(config: TokenizerConfig) -> StyledTokenizer:
    torch.manual_seed(0)
    return StyledTokenizer(config).eval()


@pytest.fixture
def generator(tokenizer: StyledTokenizer) -> Generator:
    torch.manual_seed(1)
    shapes = GeneratorConfig(codebook_size=1000, tokens=8, classes=("box", "disc"), width=32, depth=2, heads=2)
    return Generator(shapes.model_copy(update={"tokenizer": fingerprint(tokenizer)})).eval()


def pixels(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(p)) for p in sorted((folder / "images").iterdir())])


def test_pictures_a_grid_and_a_record(generator: Generator, tokenizer: StyledTokenizer, tmp_path: Path) -> None:
    generate(generator, tokenizer, tmp_path / "s", 10, seed=3, batch_size=4)
    assert [p.name for p in sorted((tmp_path / "s" / "images").iterdir())] == [f"{i:06d}.png" for i in range(10)]
    with Image.open(tmp_path / "s" / "grid.png") as grid:
        assert grid.width > 64
    record = json.loads((tmp_path / "s" / "samples.json").read_text())
    assert (record["seed"], record["count"]) == (3, 10)
    assert record["tokenizer"]["fingerprint"] == fingerprint(tokenizer)
    assert record["generator"]["fingerprint"] == fingerprint(generator)
    assert len(open_images(str(tmp_path / "s"), 16)) == 10  # the grid is none of them


def test_the_batch_size_does_not_matter(generator: Generator, tokenizer: StyledTokenizer, tmp_path: Path) -> None:
    for batch_size in (1, 3, 33, 40, 64):
        generate(generator, tokenizer, tmp_path / str(batch_size), 70, seed=3, batch_size=batch_size)
    for batch_size in (1, 3, 33, 40):
        np.testing.assert_array_equal(pixels(tmp_path / str(batch_size)), pixels(tmp_path / "64"))
    generate(generator, tokenizer, tmp_path / "fewer", 5, seed=3)
    np.testing.assert_array_equal(pixels(tmp_path / "fewer"), pixels(tmp_path / "64")[:5])


def test_a_second_result_replaces_the_first(generator: Generator, tokenizer: StyledTokenizer, tmp_path: Path) -> None:
    generate(generator, tokenizer, tmp_path / "s", 5)
    generate(generator, tokenizer, tmp_path / "s", 2)
    assert len(list((tmp_path / "s" / "images").iterdir())) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_other_files_are_never_overwritten(generator: Generator, tokenizer: StyledTokenizer, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("keep me")
    with pytest.raises(UserError, match="holds other files"):
        generate(generator, tokenizer, tmp_path, 2)
    assert (tmp_path / "precious.txt").read_text() == "keep me"
    generate(generator, tokenizer, tmp_path / "s", 2)
    (tmp_path / "s" / "fid.json").write_text("{}")
    with pytest.raises(UserError, match="holds other files"):
        generate(generator, tokenizer, tmp_path / "s", 2)


def test_an_interruption_leaves_the_earlier_result_and_nothing_else(
    generator: Generator, tokenizer: StyledTokenizer, tmp_path: Path
) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    generate(generator, tokenizer, tmp_path / "s", 2)
    with pytest.raises(KeyboardInterrupt):
        generate(generator, tokenizer, tmp_path / "s", 5, advance=interrupt)
    assert [p.name for p in tmp_path.iterdir()] == ["s"]
    assert len(list((tmp_path / "s" / "images").iterdir())) == 2


def test_another_tokenizer_is_refused(generator: Generator, config: TokenizerConfig, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="codes of another tokenizer"):
        generate(generator, StyledTokenizer(config).eval(), tmp_path / "s", 2)


def test_classes_by_name(generator: Generator, tokenizer: StyledTokenizer, tmp_path: Path) -> None:
    assert [label_of(generator, name) for name in (None, "box", "disc")] == [-1, 0, 1]
    with pytest.raises(UserError, match="knows no class 'disk'; did you mean 'disc'"):
        generate(generator, tokenizer, tmp_path / "s", 2, sampling=SamplingConfig(class_name="disk"))


@pytest.mark.parametrize(
    "options", [{"temperature": 2.0}, {"top_k": 2}, {"top_p": 0.3}, {"min_p": 0.5}, {"guidance": 3.0}], ids=str
)
def test_pictures_are_sampled_as_it_was_asked(
    generator: Generator, tokenizer: StyledTokenizer, options: dict[str, Any]
) -> None:
    generator.net.to_logits.weight.data.mul_(30)  # opinions, so that each option changes something
    labels = torch.ones(40, dtype=torch.int64)
    painted = paint(generator, tokenizer, 40, 5, SamplingConfig(**options, class_name="disc"), 32)
    codes = torch.cat([codes for codes, _ in painted])
    assert torch.equal(codes, generator.sample(40, 5, labels=labels, **options))
    assert not torch.equal(codes, generator.sample(40, 5, labels=labels))
    assert not torch.equal(codes, generator.sample(40, 5, **options | {"guidance": 1.0}))


def test_the_files_are_what_the_generator_writes_and_the_tokenizer_paints(
    generator: Generator, tokenizer: StyledTokenizer, tmp_path: Path
) -> None:
    generator.net.to_logits.weight.data.mul_(30)
    how = SamplingConfig(top_k=5, temperature=2.0, class_name="disc")
    generate(generator, tokenizer, tmp_path / "s", 40, seed=3, sampling=how)
    labels = torch.ones(40, dtype=torch.int64)
    expected = to_uint8(tokenizer.decode(generator.sample(40, 3, labels=labels, top_k=5, temperature=2.0)))
    np.testing.assert_array_equal(pixels(tmp_path / "s").transpose(0, 3, 1, 2), expected)


@pytest.fixture
def codes(tokenizer: StyledTokenizer, pictures: ImageSet) -> Codes:
    return tokenize(tokenizer, pictures)


def test_codes_of_another_tokenizer_are_refused(codes: Codes, config: TokenizerConfig) -> None:
    with pytest.raises(CheckpointError, match="written by another tokenizer"):
        GeneratorTask(GeneratorShape(), GeneratorTrainConfig(), codes, StyledTokenizer(config))


@pytest.mark.parametrize("held_out", [True, False])
def test_codes_of_one_split_are_refused(codes: Codes, tokenizer: StyledTokenizer, held_out: bool) -> None:
    codes.validation[:] = held_out
    with pytest.raises(DataError, match=f"of these 64 codes, {64 * held_out} are held out"):
        GeneratorTask(GeneratorShape(), GeneratorTrainConfig(), codes, tokenizer)


def test_stage_two_never_trains_on_held_out_pictures(codes: Codes, tokenizer: StyledTokenizer) -> None:
    task = GeneratorTask(GeneratorShape(width=32, depth=1, heads=2), GeneratorTrainConfig(), codes, tokenizer)
    assert task.size == int((~codes.validation).sum())
    shown, _ = task.batch(torch.arange(task.size))
    assert torch.equal(shown, torch.from_numpy(codes.codes[~codes.validation].astype(np.int64)))


def test_each_sentence_is_taught_with_the_class_of_its_picture(
    codes: Codes, tokenizer: StyledTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = GeneratorTrainConfig(condition_dropout=0.25)
    task = GeneratorTask(GeneratorShape(width=32, depth=1, heads=2), train, codes, tokenizer)
    wanted = torch.from_numpy(codes.labels[~codes.validation])
    which = torch.randperm(task.size, generator=torch.Generator().manual_seed(0))[:40]
    assert torch.equal(task.batch(which)[1], wanted[which])
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(task.model, "loss", lambda codes, labels: seen.append(labels) or labels.sum())
    task.losses(task.batch(which), 0.0, draws(40))
    kept = seen[0] >= 0
    assert torch.equal(seen[0][kept], wanted[which][kept])
    assert 0 < kept.sum() < 40


def test_a_finished_run_is_not_taken_for_one_on_codes_that_were_searched_for(
    codes: Codes, tokenizer: StyledTokenizer, tmp_path: Path
) -> None:
    shape, train = GeneratorShape(width=32, depth=1, heads=2), GeneratorTrainConfig(images=64, batch_size=32)
    train_run("g", lambda: GeneratorTask(shape, train, codes, tokenizer), train, tmp_path)
    other = replace(codes, refine=20)
    with pytest.raises(CheckpointError, match=r"would learn nothing of what has changed \(refine: None -> 20\)"):
        train_run("g", lambda: GeneratorTask(shape, train, other, tokenizer), train, tmp_path, accept_changes=True)


def test_stage_two_evaluates_on_so_many_sentences(codes: Codes, tokenizer: StyledTokenizer) -> None:
    train = GeneratorTrainConfig(evaluation_sequences=3)
    task = GeneratorTask(GeneratorShape(width=32, depth=1, heads=2), train, codes, tokenizer)
    known = codes.codes[codes.validation].astype(np.int64)
    assert len(known) > 3
    assert torch.equal(task.held_out[0], torch.from_numpy(known[[0, (len(known) - 1) // 2, -1]]))


def test_stage_two_is_measured_by_the_mean_of_all_held_out_sentences(
    codes: Codes, tokenizer: StyledTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svq.generator.task.EVALUATION_BATCH", 2)
    codes.validation[:] = np.arange(len(codes)) < 5  # batches of 2, 2 and 1
    task = GeneratorTask(GeneratorShape(width=32, depth=1, heads=2), GeneratorTrainConfig(), codes, tokenizer)
    model = task.model.eval()
    torch.nn.init.normal_(model.net.to_logits.weight)  # so that sentences differ in how likely they are
    known = torch.from_numpy(codes.codes[:5].astype(np.int64)), torch.from_numpy(codes.labels[:5])
    with torch.no_grad():
        assert task.evaluate(model)["validation_nats"] == pytest.approx(float(model.loss(*known)), rel=1e-5)
    assert task.best == ("validation_nats", "min")


def test_a_run_does_not_go_on_with_codes_that_were_searched_for_otherwise(
    codes: Codes, tokenizer: StyledTokenizer
) -> None:
    shape, train = GeneratorShape(width=32, depth=1, heads=2), GeneratorTrainConfig()
    one, other = (GeneratorTask(shape, train, replace(codes, refine=n), tokenizer).identity for n in (0, 5))
    assert differences(one, other) == ["refine: None -> 5"]


def test_some_conditions_are_dropped(codes: Codes, tokenizer: StyledTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    train = GeneratorTrainConfig(condition_dropout=0.25)
    task = GeneratorTask(GeneratorShape(width=32, depth=1, heads=2), train, codes, tokenizer)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(task.model, "loss", lambda codes, labels: seen.append(labels) or labels.sum())
    for step in range(100):
        task.losses(task.batch(torch.arange(40)), 0.0, draws(40, seen=40 * step))
    labels = torch.cat(seen)
    assert abs((labels < 0).float().mean() - 0.25) < 0.03


def test_classes_that_nothing_teaches_are_not_known(codes: Codes, tokenizer: StyledTokenizer) -> None:
    shape = GeneratorShape(width=32, depth=1, heads=2)
    labels = np.arange(len(codes)) % 4 - 1  # none, a, b, c
    labels[(labels == 1) & ~codes.validation] = 2  # all of b's are held out
    codes = replace(codes, labels=labels, classes=("a", "b", "c"))
    task = GeneratorTask(shape, GeneratorTrainConfig(), codes, tokenizer)
    assert task.model.config.classes == ("a", "c")
    assert task.labels.tolist() == [{-1: -1, 0: 0, 2: 1}[i] for i in labels[~codes.validation]]
    assert set(labels[codes.validation]) == {-1, 0, 1, 2}
    assert task.held_out[1].tolist() == [{-1: -1, 0: 0, 1: -1, 2: 1}[i] for i in labels[codes.validation]]
    with pytest.raises(UserError, match="knows no class 'b'"):
        label_of(task.model, "b")

    unconditional = GeneratorTask(shape, GeneratorTrainConfig(condition_dropout=1), codes, tokenizer)
    assert unconditional.model.config.classes == ()
    assert set(unconditional.labels.tolist()) | set(unconditional.held_out[1].tolist()) == {-1}
    with pytest.raises(ValidationError, match="greater than 0"):  # nothing would teach how to draw any picture
        GeneratorTrainConfig(condition_dropout=0)
