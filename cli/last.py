"""Where the last run of each kind was: the default of the options that name a folder."""

import json
from pathlib import Path

from svq.cli.output import say
from svq.errors import UserError

MAKERS = {
    "tokenizer": "svq tokenizer train",
    "codes": "svq tokenize",
    "generator": "svq generator train",
    "samples": "svq generate",
}


SHIPPED = {"tokenizer": "openmoji-32"}


def _file() -> Path:
    return Path("runs") / "last.json"


def _read() -> dict[str, str]:
    try:
        content = json.loads(_file().read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return content if isinstance(content, dict) else {}


def remember(**paths: Path) -> None:
    """Note the path of the last result of a kind, below the current folder."""
    _file().parent.mkdir(exist_ok=True)
    known = _read() | {kind: str(path) for kind, path in paths.items()}
    work = _file().with_name(".last.json.writing")
    work.write_text(json.dumps(known, indent=1))
    work.rename(_file())


def last(kind: str, given: Path | None) -> Path:
    """Return the path given, or that of the last result of the kind.

    Raises:
        UserError: there is neither, and none of the kind comes with svq.
    """
    if given is not None:
        return given
    path = Path(_read().get(kind, f"runs/{kind}"))
    if not path.exists() and kind in SHIPPED:
        say(f"no {kind} of your own yet: '{SHIPPED[kind]}', which comes with svq, is used")
        return Path(SHIPPED[kind])
    if not path.exists():
        option = {"samples": "--samples", "codes": "--codes"}.get(kind, f"--{kind}")
        raise UserError(
            f"no {kind} yet: there is nothing at {path}; make one with '{MAKERS[kind]}', or name one with {option}"
        )
    return path
