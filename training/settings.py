"""From what the user said to a configuration: preset < YAML file < ``--set a.b=c`` < named options."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from svq.errors import ConfigError, nearest
from svq.training.config import Config

Settings = TypeVar("Settings", bound=Config)


def resolve(
    preset: Settings,
    file: Path | None = None,
    assignments: Iterable[str] = (),
    options: Mapping[str, Any] | None = None,
) -> Settings:
    """Return the preset with all changes applied.

    Args:
        preset: where to begin.
        file: a YAML file with the same structure as the configuration, any part of it; ``train.seed: 1`` is a
            short way to write one key.
        assignments: texts like ``train.optimizer.learning_rate=1e-3``; the value is read as YAML.
        options: values by dotted key; None means not given.

    Raises:
        ConfigError: an unknown key, with the nearest known one, or a value out of range.
    """
    values = preset.model_dump()
    if file is not None:
        _merge(values, _read(file))
    assigned: dict[str, Any] = {}  # all first, so that their order does not matter
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: expected KEY=VALUE, such as train.batch_size=32")
        _merge(assigned, _nest(key.strip(), _parse(text, key)))
    _merge(values, assigned)
    for key, value in (options or {}).items():
        if value is not None:
            _merge(values, _nest(key, value))
    try:
        return type(preset).model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, values)) from error


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: of no UTF-8, or of a date that is none
        raise ConfigError(f"--config {file} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"--config {file}: expected keys and values, got {type(content).__name__}")
    read: dict[str, Any] = {}
    for key, value in content.items():
        _merge(read, _nest(str(key), value))
    return read


def _parse(text: str, key: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:  # ValueError: of a date that is none
        raise ConfigError(f"--set {key}={text}: not a value ({error})") from error
    if isinstance(value, str):
        try:
            return float(value)  # YAML 1.1 reads 1e-3, without a point, as a text
        except ValueError:
            return value
    return value


def _nest(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _merge(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Put changes into values, in place and key by key."""
    if "kind" in changes and "kind" in values and changes["kind"] != values["kind"]:
        values.clear()  # another kind has other keys: begin with its defaults
    for name, value in changes.items():
        if isinstance(value, Mapping) and isinstance(values.get(name), dict):
            _merge(values[name], value)
        else:
            values[name] = value


def _explain(error: ValidationError, values: Mapping[str, Any]) -> str:
    """Say in one line what is wrong first."""
    first = error.errors()[0]
    here: Any = values
    above, where = here, []
    for part in first["loc"]:
        if isinstance(here, Mapping):
            if part not in here:
                continue  # the name of a union's variant is no key
            above, here = here, here[part]
        where.append(str(part))
    if first["type"] == "extra_forbidden":
        unknown = {str(e["loc"][-1]) for e in error.errors() if e["type"] == "extra_forbidden"}
        return f"unknown key '{'.'.join(where)}'{nearest(where[-1], above.keys() - unknown)}"
    message = first["msg"].removeprefix("Value error, ")
    given = f", got {first['input']!r}" if not isinstance(first["input"], dict) else ""
    return f"{'.'.join(where)}: {message}{given}" if where else f"{message}{given}"


def preset_named(presets: Mapping[str, Any], name: str) -> Any:
    """Return what the preset of that name returns.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in presets:
        raise ConfigError(f"unknown preset '{name}'{nearest(name, presets)}")
    return presets[name]()
