"""Signals: what is a wish to stop, and what is left alone."""

import signal
from collections.abc import Iterator

import pytest

from svq.training.signals import StopRequest


@pytest.fixture(autouse=True)
def hangup_as_usual() -> Iterator[None]:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # should the tests run under nohup
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_each_signal_is_a_wish_to_stop_while_a_run_is_on(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as request:
        signal.raise_signal(number)
        assert request.asked
    assert signal.getsignal(number) is before


def test_what_nohup_has_ignored_stays_so() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopRequest() as request:
        signal.raise_signal(signal.SIGHUP)
        assert not request.asked
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
