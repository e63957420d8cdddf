"""The loop: exact resume, the order of examples, the averaged weights, refusals."""

import io
import itertools
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from svq.data import ImageSet
from svq.errors import CheckpointError, ConfigError, TrainingError
from svq.evaluation.reconstruction import psnr
from svq.pixels import to_float
from svq.tokenizer import StyledTokenizer, layers
from svq.tokenizer.config import (
    KMeansConfig,
    LFQConfig,
    QuantizerConfig,
    SimVQConfig,
    TokenizerConfig,
    TokenizerTrainConfig,
    VQConfig,
)
from svq.tokenizer.task import TokenizerTask
from svq.training import checkpoint, log
from svq.training.checkpoint import read_tensors
from svq.training.config import OptimizerConfig, TrainConfig
from svq.training.curve import draw_curve
from svq.training.device import choose_precision, start_engine
from svq.training.draws import Draws
from svq.training.dry import dry_run
from svq.training.log import RunLog, read_log
from svq.training.loop import due, train
from svq.training.micro import settle_micro_batch
from svq.training.optimizer import learning_rate, optimizer_state
from svq.training.order import order
from svq.training.runs import train_run
from svq.training.step import Trainer, average_weights
from svq.training.task import Losses
from tests.steps import draws

TRAIN = TokenizerTrainConfig(
    images=96,
    batch_size=8,
    continuous_share=0.4,
    ramp_share=0.2,
    evaluate_every=40,
    save_every=8,
    optimizer=OptimizerConfig(name="muon"),
)

# A GPU adds up what falls on a code in an order of its own.
EXACT_ON_CPU = pytest.mark.skipif(torch.cuda.is_available(), reason="VQ's codebook is exact to the bit on a CPU only")


def run(config: TokenizerConfig, settings: TokenizerTrainConfig, pictures: ImageSet, out: Path) -> dict[str, float]:
    return start(TokenizerTask(config, settings, pictures), out)


def start(task: TokenizerTask, out: Path) -> dict[str, float]:
    engine = start_engine(task.config)
    with RunLog("test", out, task.config.images, engine) as log:
        return train(task, task.config, out, log, engine)


def stopping_after(images: int) -> Callable[..., None]:
    """A log that ends the run in the first step beyond that number of images."""

    def step(self: RunLog, seen: int, *_: Any) -> None:
        if seen > images:
            raise KeyboardInterrupt

    return step


def final(out: Path) -> dict[str, Tensor]:
    """All tensors of the last checkpoint."""
    folder = max((out / "checkpoints").iterdir())
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{f.name}:{name}": t.clone() for f in files for name, t in read_tensors(f).items()}


@pytest.mark.parametrize(
    "quantizer",
    [None, *(pytest.param(kind(codebook_size=16), marks=EXACT_ON_CPU) for kind in (VQConfig, KMeansConfig))],
    ids=["fsq", "vq", "kmeans"],
)
@pytest.mark.parametrize("stopped_at", [16, 40, 64])  # continuous, during the ramp, quantized and with a critic
def test_a_resumed_run_ends_bit_for_bit_like_an_undisturbed_one(
    config: TokenizerConfig,
    pictures: ImageSet,
    tmp_path: Path,
    quantizer: QuantizerConfig | None,
    stopped_at: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if quantizer is not None:
        config = config.model_copy(update={"quantizer": quantizer})
    settings = TRAIN.model_copy(update={"critic_weight": 0.1, "critic_width": 4})
    metrics = run(config, settings, pictures, tmp_path / "whole")

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "step", stopping_after(stopped_at))
        with pytest.raises(KeyboardInterrupt):
            run(config, settings, pictures, tmp_path / "parts")
    torch.manual_seed(123)  # whatever happened in between
    capsys.readouterr()
    assert run(config, settings, pictures, tmp_path / "parts") == metrics
    assert f"going on from image {stopped_at} of 96" in capsys.readouterr().err
    whole, parts = final(tmp_path / "whole"), final(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name]), name


@pytest.mark.parametrize("measured", [False, True], ids=["in the evaluation", "when it is written down"])
def test_a_run_that_is_asked_to_stop_saves_before_it_evaluates(
    config: TokenizerConfig, pictures: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: bool
) -> None:
    taken = Trainer.step

    def asked(self: Trainer, seen: int, *rest: Any) -> Any:
        if seen == 32:  # the step that ends where an evaluation is due
            os.kill(os.getpid(), signal.SIGTERM)
        return taken(self, seen, *rest)

    def killed(*_: Any) -> dict[str, float]:
        raise KeyboardInterrupt

    class Killed(TokenizerTask):
        def evaluate(self, model: nn.Module) -> dict[str, float]:
            return {"psnr_8": 99.0} if measured else killed()

    monkeypatch.setattr(Trainer, "step", asked)
    if measured:
        monkeypatch.setattr("svq.training.loop.draw_curve", killed)
    settings = TRAIN.model_copy(update={"save_every": 96})
    with pytest.raises(KeyboardInterrupt):
        start(Killed(config, settings, pictures), tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [f"{40:012d}"]
    monkeypatch.setattr(Trainer, "step", taken)
    monkeypatch.setattr("svq.training.loop.draw_curve", lambda *_: None)
    if measured:  # nothing will be better, and that is not forgotten
        run(config, settings, pictures, tmp_path)
        assert (tmp_path / "best").resolve().name == f"{40:012d}"
        return
    # The evaluation that it was killed in is made up for.
    undisturbed = tmp_path.with_name("undisturbed")
    run(config, settings, pictures, tmp_path)
    run(config, settings, pictures, undisturbed)
    evaluations = [[r for r in read_log(out) if "evaluation" in r] for out in (tmp_path, undisturbed)]
    assert evaluations[0] == evaluations[1]
    assert (tmp_path / "best").resolve().name == (undisturbed / "best").resolve().name


def test_a_finished_run_is_left_as_it_is(config: TokenizerConfig, pictures: ImageSet, tmp_path: Path) -> None:
    metrics = run(config, TRAIN, pictures, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "checkpoints").rglob("*")}
    assert run(config, TRAIN, pictures, tmp_path) == metrics
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "checkpoints").rglob("*")} == before


def test_other_settings_are_refused_with_the_difference(
    config: TokenizerConfig, pictures: ImageSet, tmp_path: Path
) -> None:
    run(config, TRAIN, pictures, tmp_path)
    with pytest.raises(CheckpointError, match=r"train\.batch_size: 8 -> 16"):
        run(config, TRAIN.model_copy(update={"batch_size": 16}), pictures, tmp_path)


def damage(checkpoint: Path) -> None:
    """Flip one bit in the weights."""
    weights = checkpoint / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    config: TokenizerConfig, pictures: ImageSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(config, TRAIN, pictures, tmp_path)
    whole = final(tmp_path)
    damage(max((tmp_path / "checkpoints").iterdir()))
    StyledTokenizer.from_pretrained(tmp_path)
    run(config, TRAIN, pictures, tmp_path)
    said = capsys.readouterr().err
    assert said.count("000000000096 is damaged: model.safetensors has changed") == 2
    assert not [name for name, tensor in final(tmp_path).items() if not torch.equal(tensor, whole[name])]


def test_damaged_checkpoints_ahead_do_not_push_out_sound_ones(
    config: TokenizerConfig, pictures: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(config, TRAIN.model_copy(update={"keep": 3}), pictures, tmp_path)
    for seen in (88, 96):
        damage(tmp_path / "checkpoints" / f"{seen:012d}")
    monkeypatch.setattr(RunLog, "step", stopping_after(88))
    with pytest.raises(KeyboardInterrupt):
        run(config, TRAIN.model_copy(update={"keep": 1}), pictures, tmp_path)
    checkpoint.verify(tmp_path / "checkpoints" / f"{88:012d}")


def test_a_copy_that_a_user_keeps_is_neither_removed_nor_gone_on_with(
    config: TokenizerConfig, pictures: ImageSet, tmp_path: Path
) -> None:
    run(config, TRAIN.model_copy(update={"images": 48}), pictures, tmp_path)
    newest = max((tmp_path / "checkpoints").iterdir())
    copy = newest.with_name(f"{newest.name}-good")
    shutil.copytree(newest, copy)
    assert checkpoint.newest(tmp_path) == newest
    task, engine = TokenizerTask(config, TRAIN, pictures), start_engine(TRAIN)
    with RunLog("test", tmp_path, TRAIN.images, engine) as log:
        train(task, TRAIN.model_copy(update={"keep": 1}), tmp_path, log, engine, accept_changes=True)
    checkpoint.verify(copy)


def test_a_run_with_damaged_checkpoints_alone_is_refused(
    config: TokenizerConfig, pictures: ImageSet, tmp_path: Path
) -> None:
    run(config, TRAIN, pictures, tmp_path)
    for folder in (tmp_path / "checkpoints").iterdir():
        damage(folder)
    with pytest.raises(CheckpointError, match=r"all checkpoints of .* are damaged"):
        run(config, TRAIN, pictures, tmp_path)


def test_the_best_checkpoint_is_kept_beside_the_newest(
    config: TokenizerConfig, pictures: ImageSet, tmp_path: Path
) -> None:
    class Peaked(TokenizerTask):
        def evaluate(self, model: torch.nn.Module) -> dict[str, float]:
            values = iter([1.0, 3.0, float("nan"), 2.5])
            return {"psnr_8": next(v for i, v in enumerate(values) if i == len(list(tmp_path.glob("pictures/*"))))}

    start(Peaked(config, TRAIN.model_copy(update={"evaluate_every": 24}), pictures), tmp_path)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [f"{n:012d}" for n in (48, 88, 96)]
    assert (tmp_path / "best").resolve() == (tmp_path / "checkpoints" / f"{48:012d}").resolve()
    StyledTokenizer.from_pretrained(tmp_path / "best")


def test_the_best_checkpoint_is_the_lowest_where_less_is_better(
    config: TokenizerConfig, pictures: ImageSet, tmp_path: Path
) -> None:
    class Sunken(TokenizerTask):
        best = ("error", "min")

        def evaluate(self, model: torch.nn.Module) -> dict[str, float]:
            values = iter([3.0, 1.0, float("nan"), 2.5])
            return {"error": next(v for i, v in enumerate(values) if i == len(list(tmp_path.glob("pictures/*"))))}

    start(Sunken(config, TRAIN.model_copy(update={"evaluate_every": 24}), pictures), tmp_path)
    assert (tmp_path / "best").resolve() == (tmp_path / "checkpoints" / f"{48:012d}").resolve()


def test_accepted_changes_are_said_and_the_run_goes_on(
    config: TokenizerConfig, pictures: ImageSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(config, TRAIN.model_copy(update={"images": 48}), pictures, tmp_path)
    task = TokenizerTask(config, TRAIN, pictures)
    engine = start_engine(TRAIN)
    with RunLog("test", tmp_path, TRAIN.images, engine) as log:
        train(task, TRAIN, tmp_path, log, engine, accept_changes=True)
    assert "going on with changes: train.images: 48 -> 96" in capsys.readouterr().err
    assert max((tmp_path / "checkpoints").iterdir()).name == f"{96:012d}"


def test_of_many_other_settings_the_first_are_named(
    config: TokenizerConfig, pictures: ImageSet, tmp_path: Path
) -> None:
    short = TRAIN.model_copy(update={"images": 48})
    run(config, short, pictures, tmp_path)
    changed = {"kl_weight": 1.0, "flip": not TRAIN.flip, "jitter_share": 0.7, "ema_share": 0.7, "seed": TRAIN.seed + 1}
    with pytest.raises(CheckpointError, match=r"\(train\.ema_share: [^;]*; [^;]*; [^;]*; [^;]*; and 1 more\)"):
        run(config, short.model_copy(update=changed), pictures, tmp_path)


def test_a_full_disk_leaves_the_checkpoint_before(
    config: TokenizerConfig, pictures: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checkpoint.write_tensors

    def full(path: Path, tensors: dict[str, Tensor]) -> None:
        if "000000000024" in str(path) and path.name == "ema.safetensors":
            path.write_bytes(b"half of it")
            raise OSError(28, "No space left on device")
        real(path, tensors)

    monkeypatch.setattr(checkpoint, "write_tensors", full)
    with pytest.raises(TrainingError, match=r"at image 24: .*No space left.*000000000016, is intact"):
        run(config, TRAIN, pictures, tmp_path)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [f"{n:012d}" for n in (8, 16)]
    monkeypatch.undo()
    run(config, TRAIN, pictures, tmp_path)


def test_what_cannot_be_tidied_up_ends_no_run(
    config: TokenizerConfig, pictures: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    def refused(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(Path, "symlink_to", refused)
    run(config, TRAIN, pictures, tmp_path)
    assert "no link 'best' to" in capfd.readouterr().err
    assert not (tmp_path / "best").exists()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir())


def test_runs_in_one_process_may_differ_in_precision() -> None:
    for precision in ("fp32", "bf16", "fp32"):
        engine = start_engine(TrainConfig(precision=precision))
        assert engine.mixed_precision == {"fp32": "no", "bf16": "bf16"}[precision]


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="2 processes on a machine with 1 GPU"):
        start_engine(TRAIN)


def test_micro_batches_change_no_loss_and_no_gradient(config: TokenizerConfig, pictures: ImageSet) -> None:
    config = config.model_copy(update={"normalize": "none"})  # whose statistics are those of a micro-batch
    gradients = []
    for micro_batch in (None, 3):
        settings = TRAIN.model_copy(update={"micro_batch": micro_batch, "precision": "fp32", "tf32": False})
        task = TokenizerTask(config, settings, pictures)
        trainer = Trainer(task, settings, start_engine(settings))
        loss = trainer._backward(trainer.feed.next(), 0, 0.5)["loss"]
        gradients.append((loss, {n: p.grad for n, p in task.model.named_parameters() if p.grad is not None}))
    (whole, expected), (parts, found) = gradients
    torch.testing.assert_close(parts, whole)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_no_other_fault_is_taken_for_too_little_memory(
    config: TokenizerConfig, pictures: ImageSet, tmp_path: Path
) -> None:
    class Faulty(TokenizerTask):
        def losses(self, *_: Any) -> Losses:
            raise RuntimeError("a fault of another kind")

    class Large(TokenizerTask):
        def losses(self, *_: Any) -> Losses:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    settings = TRAIN.model_copy(update={"micro_batch": "auto"})
    for task, error, message in (
        (Faulty, RuntimeError, "a fault"),
        (Large, TrainingError, "not even the fewest images"),
    ):
        with pytest.raises(error, match=message):
            settle_micro_batch(task(config, settings, pictures), settings, start_engine(settings), tmp_path)


def with_room_for(most: int) -> type[TokenizerTask]:
    """Return a task that runs out of memory with more images at a time."""

    class Large(TokenizerTask):
        def losses(self, batch: tuple[Tensor, ...], progress: float, draws: Draws) -> Losses:
            if len(batch[0]) > most:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().losses(batch, progress, draws)

    return Large


def test_a_number_that_leaves_a_part_without_statistics_is_passed_over(
    config: TokenizerConfig, pictures: ImageSet, tmp_path: Path
) -> None:
    def settled(batch_size: int) -> int | str | None:
        settings = TRAIN.model_copy(update={"micro_batch": "auto", "batch_size": batch_size})
        engine = start_engine(settings)
        return settle_micro_batch(with_room_for(4)(config, settings, pictures), settings, engine, tmp_path).micro_batch

    assert settled(14) == 3  # 7 do not fit, and 3 at a time leave 2
    with pytest.raises(TrainingError, match="not even the fewest images at a time fit into memory"):
        settled(13)  # 6 do not fit, and 3 at a time leave a single one


def test_a_loss_below_zero_is_drawn(tmp_path: Path) -> None:
    records = [{"images": 8 * i, "loss": 0.1 - 0.1 * i} for i in range(1, 4)]
    (tmp_path / "log.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    draw_curve(tmp_path, "a run")  # of their logarithm matplotlib would warn
    assert (tmp_path / "curve.png").stat().st_size > 0


def test_more_images_for_a_finished_run_begin_its_codebook_anew(
    config: TokenizerConfig, pictures: ImageSet, tmp_path: Path
) -> None:
    config = config.model_copy(update={"quantizer": KMeansConfig(codebook_size=16)})
    settings = TRAIN.model_copy(update={"continuous_share": 0.75, "ramp_share": 0.0})
    run(config, settings, pictures, tmp_path)
    before = StyledTokenizer.from_pretrained(tmp_path).quantizer.lookup(torch.arange(16)[None])
    longer = settings.model_copy(update={"images": 2 * settings.images})
    task = TokenizerTask(config, longer, pictures)
    train_run("tokenizer", lambda: task, longer, tmp_path, accept_changes=True)
    after = StyledTokenizer.from_pretrained(tmp_path).quantizer.lookup(torch.arange(16)[None])
    assert not torch.equal(before, after)


def test_a_gpu_that_only_emulates_bf16_trains_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert choose_precision("auto") == "fp32"
    assert choose_precision("bf16") == "bf16"


def test_the_largest_micro_batch_that_fits_is_found(
    config: TokenizerConfig, pictures: ImageSet, tmp_path: Path
) -> None:
    settings = TRAIN.model_copy(update={"micro_batch": "auto", "critic_weight": 0.1, "critic_width": 4})
    task = with_room_for(3)(config, settings, pictures)
    assert task.critic is not None
    before = {name: t.clone() for name, t in task.model.state_dict().items()}
    critic = {name: t.clone() for name, t in task.critic.state_dict().items()}
    assert settle_micro_batch(task, settings, start_engine(settings), tmp_path).micro_batch == 2
    assert all(torch.equal(t.cpu(), before[name]) for name, t in task.model.state_dict().items())
    assert all(torch.equal(t.cpu(), critic[name]) for name, t in task.critic.state_dict().items())


@pytest.mark.parametrize("ahead", [None, 2])
def test_recomputed_activations_give_the_same_gradients(
    ahead: int | None, config: TokenizerConfig, pictures: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    recomputed = layers.checkpoint

    def counted(*inputs: Any, **options: Any) -> Any:
        calls.append(inputs[0])
        return recomputed(*inputs, **options)

    monkeypatch.setattr(layers, "checkpoint", counted)
    config = config.model_copy(update={"ahead": ahead})
    gradients = []
    for recompute in (False, True):
        settings = TRAIN.model_copy(update={"recompute": recompute})
        task = TokenizerTask(config, settings, pictures)
        Trainer(task, settings, start_engine(settings))._backward(
            (pictures.batch(pictures.indices("train")[:8]),), 0, 1
        )
        gradients.append([p.grad for p in task.model.parameters()])
        assert len(calls) == (len(task.layers(task.model)) if recompute else 0)
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain)


def test_steps_with_nan_change_nothing_and_are_counted(
    config: TokenizerConfig, pictures: ImageSet, tmp_path: Path
) -> None:
    class Briefly(Doomed):
        count = 3

    config = config.model_copy(update={"quantizer": VQConfig(codebook_size=16)})
    settings = TRAIN.model_copy(update={"continuous_share": 0.0, "ramp_share": 0.0})
    start(Briefly(config, settings, pictures), tmp_path)
    for name, tensor in final(tmp_path).items():
        assert tensor.isfinite().all(), name
    assert read_log(tmp_path)[-2]["skipped_steps"] == 3


def test_a_step_with_nan_changes_nothing(config: TokenizerConfig, pictures: ImageSet) -> None:
    config = config.model_copy(update={"quantizer": VQConfig(codebook_size=16)})
    settings = TRAIN.model_copy(update={"continuous_share": 0.0, "ramp_share": 0.0})
    task = Doomed(config, settings, pictures)
    trainer = Trainer(task, settings, start_engine(settings))
    batch = trainer.feed.next()
    for seen in (0, 8):
        assert trainer.step(seen, 96, batch).finite

    def everything() -> list[Tensor]:
        states = [tensor for optimizer in trainer.optimizers for tensor in optimizer_state(optimizer).values()]
        return [t.clone() for t in (*task.model.state_dict().values(), *trainer.average.state_dict().values(), *states)]

    before = everything()
    assert not trainer.step(8 * Doomed.first, 96, batch).finite
    assert all(torch.equal(one, other) for one, other in zip(before, everything(), strict=True))
    assert trainer.step(16, 96, batch).finite
    assert not all(torch.equal(one, other) for one, other in zip(before, everything(), strict=True))


def test_a_step_with_nan_leaves_the_discriminator_as_it_was(config: TokenizerConfig, pictures: ImageSet) -> None:
    class Infinite(TokenizerTask):
        """Its pictures and scores are sound, its gradient is not."""

        def losses(self, batch: tuple[Tensor, ...], progress: float, draws: Draws) -> Losses:
            losses = super().losses(batch, progress, draws)
            return losses._replace(total=losses.total * (float("inf") if round(progress * 12) == 2 else 1))

    settings = TRAIN.model_copy(update={"critic_weight": 0.1, "critic_start": 0.0, "critic_width": 4})
    task = Infinite(config, settings, pictures)
    trainer = Trainer(task, settings, start_engine(settings))
    assert task.critic is not None
    assert trainer.step(0, 96, trainer.feed.next()).finite
    before = {name: tensor.clone() for name, tensor in task.critic.state_dict().items()}
    assert before["real_mean"] != 0
    assert not trainer.step(16, 96, trainer.feed.next()).finite
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.critic.state_dict().items())
    assert trainer.step(24, 96, trainer.feed.next()).finite
    assert not torch.equal(task.critic.real_mean, before["real_mean"])


def test_a_bar_shows_any_title(monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr(log, "console", Console(file=text, force_terminal=True, width=120))
    for title in ("read photos{1}", "read {a}", "read x [/b]", "read [red]"):
        with log.bar(title, 2) as advance:
            advance(2)
        assert title in text.getvalue()


def test_off_a_terminal_a_bar_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(log, "LINE_EVERY_S", 100.0)
    monkeypatch.setattr(log, "console", Console(file=io.StringIO()))
    clock = itertools.count(0, 60)  # a minute passes between two looks at it
    monkeypatch.setattr(log, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    with log.bar("read", 600) as advance:
        for _ in range(5):
            advance(60)
    with log.bar("stream", None, "rows") as advance:
        advance(0)
        advance(30)
    assert capsys.readouterr().err.splitlines() == [
        "read: 120/600 images  1.0 images/s  480 s left",
        "read: 240/600 images  1.0 images/s  360 s left",
        "read: 300/600 images  1 images/s",
        "stream: 30 rows  0.2 rows/s",
        "stream: 30/30 rows  0 rows/s",
    ]


def test_gradients_are_clipped(config: TokenizerConfig, pictures: ImageSet) -> None:
    settings = TRAIN.model_copy(update={"optimizer": OptimizerConfig(clip=1e-3)})
    trainer = Trainer(TokenizerTask(config, settings, pictures), settings, start_engine(settings))
    trainer._backward(trainer.feed.next(), 0, 1.0)
    before = trainer._clip(trainer.task.model)
    assert before > 2e-3
    assert trainer._clip(trainer.task.model) == pytest.approx(1e-3, rel=1e-3)


def test_a_step_has_the_rate_the_randomness_and_the_half_life_of_its_place(
    config: TokenizerConfig, pictures: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = TokenizerTrainConfig(images=96, batch_size=8)
    task = TokenizerTask(config, settings, pictures)
    trainer = Trainer(task, settings, start_engine(settings))
    losses, seeds, seen = task.losses, [], []
    monkeypatch.setattr(task, "losses", lambda *given: seeds.append(torch.initial_seed()) or losses(*given))
    monkeypatch.setattr("svq.training.step.average_weights", lambda *given: seen.append(given[3]))
    for place in (0, 8, 80):
        taken = trainer.step(place, 96, trainer.feed.next())
        assert taken.rate == learning_rate(settings.optimizer, place / 96)
    assert len(set(seeds)) == 3
    assert seen == [8, 16, 88]


def test_another_seed_is_another_model(config: TokenizerConfig, pictures: ImageSet) -> None:
    def first(seed: int) -> Tensor:
        return TokenizerTask(config, TokenizerTrainConfig(seed=seed), pictures).model.encoder.mean.weight

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_the_loss_is_the_sum_of_its_parts(config: TokenizerConfig, pictures: ImageSet) -> None:
    config = config.model_copy(update={"quantizer": VQConfig(codebook_size=16)})
    settings = TRAIN.model_copy(update={"kl_weight": 0.5})
    batch = (pictures.batch(pictures.indices("train")[:8]),)
    losses = TokenizerTask(config, settings, pictures).losses(batch, 1.0, draws(8))
    parts = losses.parts
    assert parts["kl"] > 0.01
    assert parts["quantizer"] > 0
    assert losses.total.item() == pytest.approx(
        (parts["reconstruction"] + 0.5 * parts["kl"] + parts["quantizer"]).item()
    )


def test_half_of_the_pictures_are_mirrored(config: TokenizerConfig, pictures: ImageSet) -> None:
    seen = []

    class Watched(StyledTokenizer):
        def forward(self, images: Tensor, *rest: Any) -> Any:
            seen.append(images)
            return super().forward(images, *rest)

    originals = pictures.batch(pictures.indices("train")[:32])
    for flip in (True, False):
        task = TokenizerTask(config, TRAIN.model_copy(update={"flip": flip}), pictures, Watched)
        task.losses((originals,), 0.0, draws(32))
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(seen[0], to_float(originals), strict=True)]
    plain = [torch.equal(a, b) for a, b in zip(seen[0], to_float(originals), strict=True)]
    assert all(a != b for a, b in zip(mirrored, plain, strict=True))
    assert 8 <= sum(mirrored) <= 24
    assert torch.equal(seen[1], to_float(originals))


def test_trackers_are_told(config: TokenizerConfig, pictures: ImageSet, tmp_path: Path) -> None:
    settings = TRAIN.model_copy(update={"trackers": ("tensorboard",)})
    train_run("test", lambda: TokenizerTask(config, settings, pictures), settings, tmp_path)
    events = EventAccumulator(str(tmp_path / "test")).Reload()
    assert [e.step for e in events.Scalars("psnr_8")] == [40, 80, 96]
    assert events.Scalars("loss")


def test_a_dry_run_takes_a_step_and_writes_nothing(
    config: TokenizerConfig, pictures: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = dry_run(lambda: TokenizerTask(config, TRAIN, pictures), TRAIN)
    assert result["parameters"] == sum(p.numel() for p in StyledTokenizer(config).parameters())
    assert result["images_per_s"] > 1
    assert result["seconds"] == pytest.approx(96 / result["images_per_s"])
    assert 2**26 < result["memory"] < 2**36
    assert not list(tmp_path.iterdir())


def test_a_run_leaves_its_log_curve_and_pictures(config: TokenizerConfig, pictures: ImageSet, tmp_path: Path) -> None:
    run(config, TRAIN, pictures, tmp_path)
    records = read_log(tmp_path)
    assert [r["images"] for r in records if "evaluation" in r] == [40, 80, 96]
    assert records[-1]["evaluation"].keys() == {"psnr_1", "psnr_4", "psnr_8", "validation_mse"}
    assert {p.name for p in (tmp_path / "pictures").iterdir()} == {f"{n:09d}.png" for n in (40, 80, 96)}
    assert (tmp_path / "curve.png").stat().st_size > 1000
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_what_a_crash_left_in_the_log_is_forgotten(config: TokenizerConfig, pictures: ImageSet, tmp_path: Path) -> None:
    run(config, TRAIN, pictures, tmp_path)
    whole = read_log(tmp_path)
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"images": 104, "loss": 1.0}\n{"images": 112, "lo')
    run(config, TRAIN, pictures, tmp_path)
    assert read_log(tmp_path) == whole


def test_a_finished_run_without_its_log_is_measured_again(
    config: TokenizerConfig, pictures: ImageSet, tmp_path: Path
) -> None:
    metrics = run(config, TRAIN, pictures, tmp_path)
    (tmp_path / "log.jsonl").unlink()
    assert run(config, TRAIN, pictures, tmp_path) == pytest.approx(metrics)


class Doomed(TokenizerTask):
    """Its loss is NaN from some step on, for a number of steps; its statistics with it."""

    first, count = 5, 1000

    def losses(self, batch: tuple[Tensor, ...], progress: float, draws: Draws) -> Losses:
        doomed = self.first <= round(progress * 12) < self.first + self.count
        losses = super().losses((batch[0].float() * float("nan") if doomed else batch[0],), progress, draws)
        return losses._replace(total=losses.total * float("nan")) if doomed else losses


def test_weights_that_became_nan_are_never_saved(config: TokenizerConfig, pictures: ImageSet, tmp_path: Path) -> None:
    settings = TRAIN.model_copy(update={"skip_at_most": 4})
    with pytest.raises(TrainingError, match="infinite or NaN in 4 steps in a row before image 72"):
        start(Doomed(config, settings, pictures), tmp_path)
    for name, tensor in final(tmp_path).items():
        assert tensor.isfinite().all(), name


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (SimVQConfig(codebook_size=16), {"reconstruction": "l1"}),
        (LFQConfig(bits=4), {}),
        (KMeansConfig(codebook_size=16), {"continuous_share": 1.0}),
        (VQConfig(codebook_size=16), {"continuous_share": 0.0, "ramp_share": 0.0, "truncated_share": 0.0}),
    ],
    ids=["simvq", "lfq", "kmeans", "vq at once"],
)
@pytest.mark.parametrize("normalize", ["position", "none"])
def test_every_quantizer_and_schedule_trains(
    config: TokenizerConfig,
    pictures: ImageSet,
    tmp_path: Path,
    kind: QuantizerConfig,
    changes: dict[str, Any],
    normalize: str,
) -> None:
    config = config.model_copy(update={"quantizer": kind, "normalize": normalize})
    settings = TRAIN.model_copy(update=changes)
    task = TokenizerTask(config, settings, pictures)
    with torch.no_grad():
        untrained = task.evaluate(task.model.eval())
    metrics = run(config, settings, pictures, tmp_path)
    tokenizer = StyledTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer.encode(to_float(task.held_out)).unique()) >= 2
    assert metrics["psnr_8"] > untrained["psnr_8"] + 0.8


def test_each_epoch_shows_every_example_once_in_a_new_order() -> None:
    seen = torch.cat([order(10, 0, start, 4) for start in range(0, 40, 4)])
    epochs = seen.view(4, 10)
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(10))
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 4


def test_the_seed_decides_the_order() -> None:
    assert order(100, 0, 0, 64).tolist() != order(100, 1, 0, 64).tolist()


def test_averaged_weights_forget_by_half_in_a_half_life() -> None:
    model, average = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    config = TrainConfig(batch_size=10, ema_share=0.1)
    torch.nn.init.constant_(model.weight, 1.0)
    torch.nn.init.constant_(average.weight, 0.0)
    for _ in range(10):  # 100 images: the half-life of 1,000 images so far
        average_weights(average, model, config, 1000)
    assert average.weight.item() == pytest.approx(0.5)


def test_buffers_are_copied_and_not_averaged() -> None:
    model, average = torch.nn.BatchNorm1d(1), torch.nn.BatchNorm1d(1)
    model.running_mean.fill_(8.0)
    average_weights(average, model, TrainConfig(), 1000)
    assert average.running_mean.item() == 8.0


def test_due_when_a_multiple_lies_in_the_last_batch() -> None:
    assert [seen for seen in range(8, 41, 8) if due(seen - 8, seen, 20)] == [24, 40]


def test_a_vae_without_codes_is_measured_as_it_is(config: TokenizerConfig, pictures: ImageSet, tmp_path: Path) -> None:
    settings = TRAIN.model_copy(update={"continuous_share": 1.0, "ramp_share": 0.0})
    metrics = run(config, settings, pictures, tmp_path)
    model = StyledTokenizer.from_pretrained(tmp_path)
    held_out = to_float(TokenizerTask(config, settings, pictures).held_out)
    with torch.no_grad():
        painted = model.decoder(model.quantizer.continuous(model.latents(held_out, quantized=False))).clamp(-1, 1)
    assert metrics["psnr_8"] == pytest.approx(float(psnr(painted, held_out).mean()), abs=1e-3)
    assert metrics["psnr_8"] != pytest.approx(float(psnr(model.decode(model.encode(held_out)), held_out).mean()))
