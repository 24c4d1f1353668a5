"""What every model of a resource has in common: how JSON is read, and how it is written back.

Called by all modules of this package. The rules:

- Unknown fields are kept and written back: releases of the schemas differ, and a read-modify-write loses nothing.
- A null is the same as an absent field, as for a Kubernetes API server that prunes nulls.
- Types are strict ("true" is no boolean), as they are for an API server that has the schema.
- `to_json` writes what was set and what differs from the default. A default never enters a user's manifest, yet a list
  that a controller appends to is written although nobody assigned it. Fields marked ALWAYS are written in any case: the
  schema demands them.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from tranship.units import format_time, parse_duration, parse_time

ALWAYS = Field(json_schema_extra={"x-always": True})
"""Marks a field of a status that the schema demands: it has a default here and is always written."""

SCHEMA_DEFAULT = Field(json_schema_extra={"x-default": True})
"""Marks a field of a spec whose default stands in the CRD too, as it does upstream."""

_ODD = {"preserve_static_ips": "preserveStaticIPs"}


def camel(name: str) -> str:
    """The field's name in JSON: target_power_state -> targetPowerState."""
    first, *others = name.split("_")
    return _ODD.get(name) or first + "".join(part[:1].upper() + part[1:] for part in others)


class Model(BaseModel):
    """Base of everything that is read from or written to a manifest. Attributes are snake_case, JSON is camelCase."""

    model_config = ConfigDict(
        extra="allow",
        strict=True,
        alias_generator=camel,
        validate_by_name=True,
        validate_by_alias=True,
        # an error's text ends up in conditions and logs, and the input may hold a password
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            return {key: value for key, value in data.items() if value is not None}
        return data


def _time(value: Any) -> Any:
    return parse_time(value) if isinstance(value, str) else value


def _aware(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("a time needs a zone: end it with Z or an offset")
    return value.astimezone(UTC)


def _duration(value: str) -> str:
    parse_duration(value)
    return value


Timestamp = Annotated[
    datetime, BeforeValidator(_time), AfterValidator(_aware), WithJsonSchema({"type": "string", "format": "date-time"})
]
"""A point in time: RFC 3339 in JSON (written in UTC with Z), an aware datetime in Python."""

Duration = Annotated[str, AfterValidator(_duration)]
"""Kept as it was written ("1h30m"); units.parse_duration gives seconds."""


class _FieldPlan(NamedTuple):
    name: str
    alias: str
    always: bool


@cache
def _fields(cls: type[Model]) -> tuple[_FieldPlan, ...]:
    return tuple(
        _FieldPlan(
            name,
            field.alias or name,
            isinstance(field.json_schema_extra, dict) and bool(field.json_schema_extra.get("x-always")),
        )
        for name, field in cls.model_fields.items()
    )


def to_json(model: Model) -> dict[str, Any]:
    """The model as JSON-able data, by the rules above."""
    given = model.model_fields_set
    result: dict[str, Any] = {}
    for name, alias, always in _fields(type(model)):
        value = getattr(model, name)
        if value is None:
            continue
        if always or name in given or value != type(model).model_fields[name].get_default(call_default_factory=True):
            result[alias] = _plain(value)
    for name, value in (model.model_extra or {}).items():
        if value is not None:
            result[name] = _plain(value)
    return result


def _plain(value: Any) -> Any:
    if isinstance(value, Model):
        return to_json(value)
    if isinstance(value, datetime):
        return format_time(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
