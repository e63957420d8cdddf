"""Where the last run of each kind was: the default of the options that name a folder."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from svq.cli.output import first_process, say
from svq.errors import RunStopped, UserError
from svq.files import write_text

MAKERS = {
    "tokenizer": "svq tokenizer train",
    "codes": "svq tokenize",
    "generator": "svq generator train",
    "samples": "svq generate",
}
PLACES = {"codes": "runs/codes.safetensors"}  # where their commands write, if it is not runs/KIND
SHIPPED = {"tokenizer": ("openmoji-32", "openmoji-64")}  # what comes with svq; the first is the default


def _file() -> Path:
    return Path("runs") / "last.json"


def _read() -> dict[str, str]:
    try:
        content = json.loads(_file().read_text())
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in content.items() if isinstance(v, str)} if isinstance(content, dict) else {}


def remember(**paths: Path) -> None:
    """Note the path of the last result of a kind, below the current folder."""
    if not first_process():
        return
    known = _read() | {kind: str(path) for kind, path in paths.items()}
    try:
        write_text(_file(), json.dumps(known, indent=1))
    except OSError as error:  # the result itself is safe
        say(f"note: {_file()} cannot be written ({error.strerror}); name this result to the commands that follow")


@contextmanager
def remembered(run: Path, **paths: Path) -> Iterator[None]:
    """Note paths when the run at work in this block has ended, or has stopped and saved."""
    try:
        yield
    except RunStopped:
        if (run / "checkpoints").exists():
            remember(**paths)
        raise
    remember(**paths)


def last_painter(tokenizer: Path | None, generator: Path | None) -> Path:
    """Return the tokenizer given, or that of the last generator, or, of a generator that was given, the last one."""
    noted = _read().get("painter") if tokenizer is None and generator is None else None
    known = noted is not None and (Path(noted).exists() or noted in SHIPPED["tokenizer"])
    return Path(str(noted)) if known else last("tokenizer", tokenizer)


def last(kind: str, given: Path | None) -> Path:
    """Return the path given, or that of the last result of the kind, or what of the kind comes with svq.

    Raises:
        UserError: there is none, or the last one is gone.
    """
    if given is not None:
        return given
    noted = _read().get(kind)
    path = Path(noted or PLACES.get(kind, f"runs/{kind}"))
    shipped = SHIPPED.get(kind, ())
    if path.exists() or noted in shipped:
        return path
    if noted is None and shipped:
        say(f"no {kind} of your own yet: '{shipped[0]}', which comes with svq, is used")
        return Path(shipped[0])
    option = {"samples": "--samples", "codes": "--codes"}.get(kind, f"--{kind}")
    missing = f"the last {kind}, {path}, is gone" if noted else f"no {kind} yet: there is nothing at {path}"
    raise UserError(f"{missing}; make one with '{MAKERS[kind]}', or name one with {option}")
