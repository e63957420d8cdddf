"""Work for several processes, its results in order."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from svq.errors import UserError

AHEAD = 2  # tasks on their way for each worker

Task = TypeVar("Task")
Done = TypeVar("Done")


class WorkerError(UserError):
    """A process ended that had work to do, as where memory is short."""


def in_order(
    function: Callable[[Task], Done],
    tasks: Iterator[Task],
    workers: int,
    start: Callable[..., None] | None = None,
    arguments: tuple[Any, ...] = (),
) -> Iterator[Done]:
    """Yield the results of tasks in their order, from several processes; only a few are on their way at a time.

    Args:
        function: does a task.
        tasks: what is to be done.
        workers: number of processes; 1 does all in this one, and starts nothing.
        start: called once in each new process, with `arguments`.
        arguments: of `start`.

    Raises:
        WorkerError: one of the processes ended.
    """
    if workers == 1:
        yield from map(function, tasks)
        return
    # Not forked: the parent may hold threads, whose locks a fork would leave locked.
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(start, arguments),
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
        raise WorkerError("a worker process died (out of memory?); run the same command again to go on") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(start: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    _follow_parent()
    if start is not None:
        start(*arguments)


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent, and end with it, even if it was killed: a worker would wait for work for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
