"""Validation of Kubernetes objects by the models of lightkube-models: dataclasses made from the API's schema."""

from __future__ import annotations

import dataclasses
import importlib
import sys
import typing
from collections.abc import Iterator
from types import ModuleType
from typing import Any


def model_of(manifest: dict[str, Any]) -> Any:
    """Return the model of an object, by its apiVersion and kind."""
    group, _, version = manifest["apiVersion"].rpartition("/")
    _stand_in()
    module = f"lightkube.models.{(group.split('.')[0] or 'core')}_{version}"
    return getattr(importlib.import_module(module), manifest["kind"])


def _stand_in() -> None:
    """Define the three names that the models import from lightkube's client, which is not installed."""
    if "lightkube.core.schema" not in sys.modules:
        schema = ModuleType("lightkube.core.schema")
        vars(schema).update(DictMixin=object, field=dataclasses.field, dataclass=dataclasses.dataclass)
        sys.modules |= {"lightkube.core": ModuleType("lightkube.core"), "lightkube.core.schema": schema}


def wrong_object(value: object, model: Any, where: str) -> Iterator[str]:
    """Yield the differences of a mapping from the model: unknown fields, missing fields, values of another type."""
    if not isinstance(value, dict):
        yield f"{where}: {value!r} is no mapping"
        return
    names = vars(importlib.import_module(model.__module__))
    fields = {field.metadata.get("json", field.name): field for field in dataclasses.fields(model)}
    yield from (f"{where}: unknown field {name}" for name in value.keys() - fields.keys())
    for name, field in fields.items():
        if name in value:
            yield from _wrong(value[name], field.type, f"{where}.{name}", names)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            yield f"{where}: {name} is missing"


def _wrong(value: object, kind: Any, where: str, names: dict[str, Any]) -> Iterator[str]:
    if isinstance(kind, typing.ForwardRef):
        kind = kind.__forward_arg__
    if isinstance(kind, str):
        kind = eval(kind, names)  # the models annotate by text
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if isinstance(origin, typing.ForwardRef | str):
        yield from _wrong(value, origin, where, names)
    elif origin is typing.Union:
        yield from _wrong_choice(value, inner, where, names)
    elif dataclasses.is_dataclass(origin):
        yield from wrong_object(value, origin, where)
    elif not isinstance(value, origin) or (origin is int and isinstance(value, bool)):
        yield f"{where}: {value!r} is no {origin.__name__}"
    elif inner:
        parts = value.items() if isinstance(value, dict) else enumerate(typing.cast("list[object]", value))
        for key, part in parts:
            yield from _wrong(part, inner[-1], f"{where}.{key}", names)


def _wrong_choice(value: object, kinds: tuple[Any, ...], where: str, names: dict[str, Any]) -> Iterator[str]:
    if value is not None or type(None) not in kinds:
        yield from min(
            (list(_wrong(value, kind, where, names)) for kind in kinds if kind is not type(None)), key=len, default=[]
        )
