"""What training on a CPU loses where another program has one of the cores, by how its threads wait for each other.

    OMP_NUM_THREADS=2 python -m benchmarks.busy_cores --rounds 3

Each way to wait is set in the environment of a process of its own, which trains `nano` alone and then beside a loop
that keeps one core busy. The ways take turns.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict

from svq.data import open_images
from svq.provenance import versions
from svq.tokenizer.presets import PRESETS
from svq.tokenizer.task import TokenizerTask
from svq.training.device import start_engine
from svq.training.step import Trainer

WAYS = ("", "GOMP_SPINCOUNT=10000", "GOMP_SPINCOUNT=1000", "OMP_WAIT_POLICY=PASSIVE")
WARM_UP, STEPS = 2, 16
LONGEST_S = 10.0  # beside the loop, where a step may take seconds


def rates() -> dict[str, float]:
    """Return images per second, alone and beside a loop."""
    settings = PRESETS["nano"]()
    train = settings.train
    engine = start_engine(train)
    trainer = Trainer(TokenizerTask(settings.model, train, open_images("openmoji", 32)), train, engine)

    def rate(steps: int) -> float:
        began, taken = time.perf_counter(), 0
        while taken < steps and time.perf_counter() - began < LONGEST_S:
            trainer.step(taken * train.batch_size, train.images, trainer.feed.next())
            taken += 1
        return taken * train.batch_size / (time.perf_counter() - began)

    rate(WARM_UP)
    alone = rate(STEPS)
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        return {"alone": alone, "beside": rate(STEPS)}
    finally:
        busy.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--once", action="store_true", help="measure in this process, with the environment it has")
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(rates()))
        return

    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for _ in range(arguments.rounds):
        for way in WAYS:
            name, _, value = way.partition("=")
            environment = {**os.environ, **({name: value} if name else {}), "CUDA_VISIBLE_DEVICES": ""}
            command = [sys.executable, "-m", "benchmarks.busy_cores", "--once"]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
            found[way or "as it comes"].append(json.loads(done.stdout.splitlines()[-1]))
            print(way, found[way or "as it comes"][-1], file=sys.stderr)
    print(json.dumps({"images per second": found, "versions": versions()}, indent=1))


if __name__ == "__main__":
    main()
