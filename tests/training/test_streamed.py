"""Training on a packed set that is read as it is needed: exact resume with either loader, and what it learns from."""

from pathlib import Path
from typing import Any

import pytest
import torch

from svq.data import open_images
from svq.data.packed import PackedSet, open_index
from svq.data.packing import PackSettings, pack
from svq.data.pictures import PackedPictures
from svq.data.sources import list_pictures
from svq.errors import CheckpointError, DataError
from svq.tokenizer.config import TokenizerConfig, TokenizerTrainConfig
from svq.tokenizer.task import TokenizerTask
from svq.training.device import start_engine
from svq.training.log import RunLog
from svq.training.loop import train
from tests.training.test_loop import TRAIN, final, stopping_after


@pytest.fixture(scope="module")
def packed(folder: Path, tmp_path_factory: pytest.TempPathFactory, _session: None) -> PackedSet:
    out = tmp_path_factory.mktemp("packed") / "set.rec"
    pack(list_pictures(str(folder)), out, str(folder), PackSettings(shard_size=20))
    return open_index(out)


def run(
    config: TokenizerConfig,
    settings: TokenizerTrainConfig,
    pictures: PackedPictures,
    out: Path,
    accept_changes: bool = False,
) -> None:
    task, engine = TokenizerTask(config, settings, pictures), start_engine(settings)
    with RunLog("test", out, settings.images, engine) as log:
        train(task, settings, out, log, engine, accept_changes)


@pytest.mark.parametrize("kind", ["torch", "dali"])
def test_a_streamed_run_resumes_bit_for_bit_in_the_middle_of_an_epoch(
    config: TokenizerConfig,
    packed: PackedSet,
    tmp_path: Path,
    kind: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pictures, settings = PackedPictures(packed, 16, kind), TRAIN.model_copy(update={"crop": "random"})
    run(config, settings, pictures, tmp_path / "whole")

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "step", stopping_after(40))
        with pytest.raises(KeyboardInterrupt):
            run(config, settings, pictures, tmp_path / "parts")
    capsys.readouterr()
    run(config, settings, pictures, tmp_path / "parts")
    assert "going on from image 40 of " in capsys.readouterr().err
    whole, parts = final(tmp_path / "whole"), final(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert not [name for name, tensor in whole.items() if not torch.equal(tensor, parts[name])]


def test_held_out_pictures_are_those_of_the_set_and_never_trained_on(
    config: TokenizerConfig, packed: PackedSet, folder: Path
) -> None:
    images = open_images(str(folder), 24)  # as they are drawn, so that both ways give the same bytes
    split = {name: {picture.tobytes() for picture in images.images[images.indices(name)]} for name in ("train", "val")}
    task = TokenizerTask(
        config.model_copy(update={"image_size": 24}), TRAIN.model_copy(update={"flip": False}),
        PackedPictures(packed, 24, "torch"),
    )  # fmt: skip
    assert {picture.numpy().tobytes() for picture in task.held_out} == split["val"]
    assert task.size == packed.count("train") == images.count("train")
    feed = task.feed(TRAIN, 0, 1, torch.device("cpu"))
    seen = {picture.numpy().tobytes() for _ in range(-(-task.size // TRAIN.batch_size)) for picture in feed.next()[0]}
    assert seen == split["train"]


def test_random_crops_reach_the_loader(config: TokenizerConfig, packed: PackedSet) -> None:
    first = []
    for crop in ("centre", "random"):
        task = TokenizerTask(config, TRAIN.model_copy(update={"crop": crop}), PackedPictures(packed, 16, "torch"))
        first.append(task.feed(TRAIN, 0, 1, torch.device("cpu")).next()[0])
    assert first[0].shape == first[1].shape
    assert not torch.equal(*first)


def test_random_crops_need_a_stream(config: TokenizerConfig, pictures: Any) -> None:
    with pytest.raises(DataError, match=r"train\.crop=random is for packed sets that are streamed"):
        TokenizerTask(config, TRAIN.model_copy(update={"crop": "random"}), pictures)


@pytest.mark.parametrize(
    ("before", "after", "batch_size", "message"),
    [
        ("torch", "torch", 16, r"train\.batch_size: 8 -> 16"),
        ("dali", "dali", 16, r"train\.batch_size: 8 -> 16"),
        ("dali", "torch", 8, "loader: dali -> torch"),
    ],
)
def test_a_streamed_run_goes_on_with_accepted_changes(
    config: TokenizerConfig,
    packed: PackedSet,
    tmp_path: Path,
    before: Any,
    after: Any,
    batch_size: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "step", stopping_after(48))
        with pytest.raises(KeyboardInterrupt):
            run(config, TRAIN, PackedPictures(packed, 16, before), tmp_path)
    pictures, other = PackedPictures(packed, 16, after), TRAIN.model_copy(update={"batch_size": batch_size})
    with pytest.raises(CheckpointError, match=message):
        run(config, other, pictures, tmp_path)
    capsys.readouterr()
    run(config, other, pictures, tmp_path, accept_changes=True)
    assert "the order of the pictures begins anew" in capsys.readouterr().err
    assert max((tmp_path / "checkpoints").iterdir()).name == f"{96:012d}"
