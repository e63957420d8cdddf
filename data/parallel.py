"""Work for several processes, its results in order."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from svq.errors import UserError

AHEAD = 2  # tasks on their way for each worker

Task = TypeVar("Task")
Done = TypeVar("Done")


def in_order(function: Callable[[Task], Done], tasks: Iterator[Task], workers: int) -> Iterator[Done]:
    """Yield the results of tasks in their order, from several processes; only a few are on their way at a time."""
    if workers == 1:
        yield from map(function, tasks)
        return
    # Not forked: the parent may hold threads, whose locks a fork would leave locked.
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_follow_parent,
    )
    try:
        waiting: deque[Future[Done]] = deque()
        for task in tasks:
            waiting.append(pool.submit(function, task))
            if len(waiting) >= AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise UserError("a worker process died (out of memory?); run the same command again to go on") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent, and end with it, even if it was killed: a worker would wait for work for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
