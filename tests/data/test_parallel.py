"""Work for several processes: results in order, few tasks at a time, and a clear word when a worker dies."""

import os
import time
from collections.abc import Iterator

import pytest

from svq.data.parallel import AHEAD, in_order
from svq.errors import UserError


def slow_if_even(number: int) -> int:
    time.sleep(0.05 * (number % 2 == 0))
    return number * number


def die(number: int) -> int:
    os._exit(number)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_tasks_and_few_tasks_are_taken(workers: int) -> None:
    taken = 0

    def tasks() -> Iterator[int]:
        nonlocal taken
        while taken < 20:
            taken += 1
            yield taken

    for number, result in enumerate(in_order(slow_if_even, tasks(), workers), start=1):
        assert result == number**2
        assert taken <= number + AHEAD * workers
    assert number == 20


def test_a_worker_that_dies_is_named() -> None:
    with pytest.raises(UserError, match="a worker process died"):
        list(in_order(die, iter(range(1, 5)), workers=2))
