"""Asked to stop: a first signal lets the run save and leave, a later one ends it at once."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGINT)
ECHO_S = 2.0  # so long, the same wish may come twice: to each process, and again from the one that started them


class StopRequest:
    """Listens for SIGTERM and SIGINT while a run is on; a context manager.

    After the first signal, `asked` is true. Another one, two seconds later or more, acts as it would have without us.
    """

    def __init__(self) -> None:
        self.asked = False
        self._heard = 0.0  # when the first one came
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            self._before = {s: signal.signal(s, self._hear) for s in STOPPING}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if not self.asked:
            self.asked, self._heard = True, time.monotonic()
        elif time.monotonic() - self._heard >= ECHO_S:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
