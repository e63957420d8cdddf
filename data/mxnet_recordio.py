"""RecordIO through mxnet's own C++ code, to hold ours against.

What is special: mxnet is retired, and ``import mxnet`` fails next to NumPy 1.24 and later. Its RecordIO needs
nothing of what fails: with an empty package of that name in its place, ``mxnet.recordio`` and the library
below it can be imported alone. Labels are packed by `svq.data.recordio`, for mxnet's function for that calls
what NumPy no longer has.
"""

import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from svq.errors import UserError


@cache
def mxnet_recordio() -> Any:
    """Return the module ``mxnet.recordio``.

    Raises:
        UserError: mxnet is not installed, or its library cannot be loaded.
    """
    spec = find_spec("mxnet")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("mxnet's RecordIO needs mxnet 1.9.1: pip install --no-deps mxnet==1.9.1")
    stub = ModuleType("mxnet")
    stub.__path__ = list(spec.submodule_search_locations)
    before = sys.modules.get("mxnet")
    sys.modules["mxnet"] = stub
    try:
        return import_module("mxnet.recordio")
    except (ImportError, OSError) as error:
        raise UserError(f"mxnet's RecordIO cannot be loaded: {error}") from error
    finally:
        # Who imports mxnet later shall find the real one.
        if before is None:
            del sys.modules["mxnet"]
        else:
            sys.modules["mxnet"] = before


class MxnetRecords:
    """Writes a ``.rec`` and its ``.idx`` with mxnet; they cannot be opened again to go on."""

    def __init__(self, rec: Path, idx: Path) -> None:
        self._file = mxnet_recordio().MXIndexedRecordIO(str(idx), str(rec), "w")

    def write(self, key: int, payload: bytes) -> None:
        """Append a record."""
        self._file.write_idx(key, payload)

    def sync(self) -> tuple[int, int]:
        """Return the lengths, which nobody will go on from."""
        return 0, 0

    def close(self) -> None:
        """Finish both files."""
        self._file.close()
