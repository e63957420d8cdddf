"""Kill a run again and again: it must always go on, and end as if nothing had happened.

    python -m benchmarks.kill_test --kills 200 --out runs/kill_test

A small tokenizer trains on the CPU, with a checkpoint after every step. A child process trains; it is killed with
SIGKILL after a random time, and another goes on from what it left: from the newest checkpoint, and from no other. When
the wanted number of kills is reached, the run is let go on to its end and compared, bit for bit, with one that was left
alone. A run that ends before is begun anew, in another folder, and compared as well.
"""

import argparse
import json
import math
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from PIL import Image

from svq.data import open_images
from svq.provenance import versions
from svq.tokenizer.config import TokenizerConfig, TokenizerTrainConfig, VQConfig
from svq.tokenizer.task import TokenizerTask
from svq.training import loop, state
from svq.training.checkpoint import CHECKPOINTS, newest, read_tensors, verify
from svq.training.config import OptimizerConfig
from svq.training.runs import train_run
from svq.training.state import Position

SHAPE = TokenizerConfig(
    image_size=16, patch_size=8, tokens=8, encoder_width=32, encoder_depth=2, encoder_heads=2, decoder_width=32,
    decoder_heads=2, plain_layers=1, mlp_ratio=2, looks=2, ahead=2, quantizer=VQConfig(codebook_size=16),
)  # fmt: skip
TRAIN = TokenizerTrainConfig(
    images=4000, batch_size=8, evaluate_every=400, save_every=8, continuous_share=0.4, ramp_share=0.2,
    optimizer=OptimizerConfig(name="muon"),
)  # fmt: skip


def draw_pictures(folder: Path) -> None:
    """Write 64 small random pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    for i in range(64):
        image = Image.new("RGB", (4, 4))
        image.putdata([tuple(rng.randbytes(3)) for _ in range(16)])
        image.resize((16, 16)).save(folder / f"{i:02d}.png")


def child(folder: Path, out: Path, train: TokenizerTrainConfig) -> int:
    """Start a process that trains, and return its number. It is forked, so that torch is not loaded each time."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        images = open_images(str(folder), 16)
        with patch.object(loop, "resume", noting(newest(out), out / "went_on")):
            train_run("kill", lambda: TokenizerTask(SHAPE, train, images), train, out)
    except BaseException as error:
        print(f"a run could not go on: {error!r}", flush=True)
        os._exit(1)
    os._exit(0)


def noting(left: Path | None, note: Path) -> Callable[..., Position]:
    """Return a `resume` that must go on from the checkpoint `left`, and writes down that it did."""
    wanted = int(left.name) if left is not None else 0

    def resume(*arguments: Any) -> Position:
        position = state.resume(*arguments)
        if position.seen != wanted:
            raise AssertionError(f"went on from image {position.seen}, and the newest checkpoint is of {wanted}")
        with open(note, "a") as file:
            file.write(f"{wanted}\n")
        return position

    return resume


def end(pid: int, deadline: float) -> int:
    """Kill a child at the deadline if it still runs then, and return its exit status."""
    while time.perf_counter() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def tensors(out: Path) -> dict[str, torch.Tensor]:
    folder = newest(out)
    assert folder is not None
    verify(folder)
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{f.name}:{name}": t for f in files for name, t in read_tensors(f).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--images", type=int, default=TRAIN.images, help="of one run")
    parser.add_argument("--longest", type=float, default=2.0, help="seconds until a kill, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/kill_test"))
    arguments = parser.parse_args()
    if arguments.out.exists():
        raise SystemExit(f"{arguments.out} exists; give another --out, for what was run before would be counted again")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # on a GPU, VQ's codebook is not the same to the last bit
    torch.set_num_threads(1)
    rng = random.Random(arguments.seed)
    train = TRAIN.model_copy(update={"images": arguments.images})
    pictures, began = arguments.out / "pictures", time.perf_counter()
    draw_pictures(pictures)

    _, status = os.waitpid(child(pictures, arguments.out / "undisturbed", train), 0)
    assert status == 0, "the undisturbed run failed"
    expected = tensors(arguments.out / "undisturbed")

    kills = failures = unequal = 0
    half_written: set[Path] = set()
    rounds = 1
    while True:
        out = arguments.out / f"killed-{rounds}"
        pid = child(pictures, out, train)
        patience = rng.uniform(0.05, arguments.longest) if kills < arguments.kills else math.inf
        status = end(pid, time.perf_counter() + patience)
        if os.WIFSIGNALED(status):
            kills += 1
            half_written |= set((out / CHECKPOINTS).glob(".*"))
            continue
        # A run came to its end.
        failures += status != 0
        if status == 0:
            found = tensors(out)
            same = found.keys() == expected.keys() and all(torch.equal(t, expected[name]) for name, t in found.items())
            unequal += not same
        if kills >= arguments.kills or failures:
            break
        rounds += 1
    starts = [int(line) for note in arguments.out.glob("*/went_on") for line in note.read_text().split()]
    result = {
        "kills": kills,
        "while_saving": len(half_written),
        "runs_to_their_end": rounds,
        "went_on_from_the_newest_checkpoint": sum(start > 0 for start in starts),
        "could_not_go_on": failures,
        "ended_otherwise": unequal,
        "seconds": round(time.perf_counter() - began),
        "images": arguments.images,
        "seed": arguments.seed,
        "versions": versions(),
    }
    print(json.dumps(result, indent=1))
    raise SystemExit(bool(failures or unequal))


if __name__ == "__main__":
    main()
