"""Dataclasses held to their annotations, and as JSON."""

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal, TypeVar, Union

T = TypeVar("T")


class ConfigError(ValueError):
    """A setting that cannot be; the message names it, what was given and what is possible."""


def to_json(config: Any) -> str:
    """A config, or one of its parts, as JSON that `from_json` reads back unchanged."""
    return json.dumps(dataclasses.asdict(config), indent=2, allow_nan=False)


def decode_json(text: str, cls: type[T]) -> T:
    """Reads what `to_json` wrote; fields that are not there take their defaults.

    Args:
      text: the JSON.
      cls: the dataclass that it is of.

    Raises:
      ConfigError: it is not JSON, has a field that `cls` has not, or a value of another type.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"not JSON: {error}") from error
    return _decode(cls, data, "config")


def check_types(config: Any, part: str) -> None:
    """Checks each field of a dataclass against its annotation; lists become tuples.

    Raises:
      ConfigError: a value is of another type; names the field, the value and the type.
    """
    for name, hint in typing.get_type_hints(type(config)).items():
        object.__setattr__(
            config, name, _decode(hint, getattr(config, name), field_name(part, name))
        )


def check_at_least(config: Any, part: str, least: int, *names: str) -> None:
    """Raises ConfigError where one of the named fields is below `least`."""
    for name in names:
        value = getattr(config, name)
        if value < least:
            raise ConfigError(f"{field_name(part, name)} is {value}, and {least} is the least")


def check_at_most(config: Any, part: str, most: int, *names: str) -> None:
    """Raises ConfigError where one of the named fields is above `most`."""
    for name in names:
        value = getattr(config, name)
        if value > most:
            raise ConfigError(f"{field_name(part, name)} is {value}, and {most} is the most")


def check_finite(config: Any, part: str) -> None:
    """Raises ConfigError for the first field that is a float and infinite, or no number."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{field_name(part, field.name)} is {value}, which is not finite")


def check_names(given: Iterable[str], cls: type, where: str) -> None:
    """Raises ConfigError for the first name that is no field of the dataclass `cls`."""
    names = [field.name for field in dataclasses.fields(cls)]
    for name in given:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"{where} has no field {name!r}; it has {', '.join(names)}{hint}")


def field_name(part: str, name: str) -> str:
    """A field as messages name it: with the part of the settings that it is in, if any."""
    return f"{part}.{name}" if part else name


def _decode(hint: Any, value: Any, where: str) -> Any:
    """The value as the annotated type, from JSON's types or its own."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else _decode_dataclass(hint, value, where)
    if origin is Literal:
        # 1 == True in Python, and neither may stand for the other here.
        if any(value == a and type(value) is type(a) for a in args):
            return value
        raise ConfigError(f"{where} is {value!r}; it can be {', '.join(map(repr, args))}")
    if origin in (Union, types.UnionType):
        return _decode_union(hint, value, where)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(kinds) == len(value):
            pairs = zip(kinds, value, strict=True)
            return tuple(_decode(kind, v, f"{where}[{i}]") for i, (kind, v) in enumerate(pairs))
    elif origin is dict and isinstance(value, dict):
        return {
            _decode(args[0], k, f"a name in {where}"): _decode(args[1], v, f"{where}.{k}")
            for k, v in value.items()
        }
    elif hint is float and type(value) in (int, float):
        if math.isfinite(value):
            return float(value)
        raise ConfigError(f"{where} is {value}, which is not finite")
    elif hint is Any or (isinstance(hint, type) and type(value) is hint):
        return value
    raise ConfigError(f"{where} is {value!r}, not {_say(hint)}")


def _decode_union(hint: Any, value: Any, where: str) -> Any:
    errors = []
    for kind in typing.get_args(hint):
        if kind is types.NoneType and value is None:
            return None
        if kind is not types.NoneType and value is not None:
            try:
                return _decode(kind, value, where)
            except ConfigError as error:
                errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    raise ConfigError(f"{where} is {value!r}, not {_say(hint)}")


def _decode_dataclass(cls: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is {value!r}, not the fields of {cls.__name__}")
    hints = {f.name: typing.get_type_hints(cls)[f.name] for f in dataclasses.fields(cls)}
    check_names(value, cls, where)
    fields = {name: _decode(hints[name], v, f"{where}.{name}") for name, v in value.items()}
    try:
        return cls(**fields)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error


def _say(hint: Any) -> str:
    """A type as a reader would name it."""
    return getattr(hint, "__name__", str(hint)) if isinstance(hint, type) else str(hint)
