"""Serves `detectron2.data.catalog`: what data sets there are, and what is known about each."""

from __future__ import annotations

import builtins
import types
from collections import UserDict
from collections.abc import Callable
from typing import Any, TypeVar

Value = TypeVar("Value")
Records = builtins.list[dict[str, Any]]


class _Catalog(UserDict[str, Value]):
    def list(self) -> builtins.list[str]:
        return [*self]

    def remove(self, name: str) -> None:
        self.pop(name)


class _DatasetCatalog(_Catalog[Callable[[], Records]]):
    """From a data set's name to the function that lists its records."""

    def register(self, name: str, func: Callable[[], Records]) -> None:
        """Add a data set; `func` must give the same records on every call."""
        if not callable(func):
            raise AssertionError("You must register a function with `DatasetCatalog.register`!")
        if name in self:
            raise AssertionError(f"Dataset '{name}' is already registered!")
        self[name] = func

    def get(self, name: str) -> Records:  # type: ignore[override]  # Detectron2's `get` calls the function
        """The records of the data set."""
        if name not in self:
            raise KeyError(f"Dataset '{name}' is not registered! Available datasets are: {', '.join(self)}")
        return self[name]()


class Metadata(types.SimpleNamespace):
    """Attributes of one data set; each may be set once, or again to an equal value."""

    name: str = "N/A"

    def __getattr__(self, key: str) -> Any:
        raise AttributeError(
            f"Attribute '{key}' does not exist in the metadata of dataset '{self.name}'. "
            f"Available keys are: {', '.join(self.__dict__)}."
        )

    def __setattr__(self, key: str, value: Any) -> None:
        old = self.__dict__.get(key, value)
        if old != value:
            raise AssertionError(
                f"Attribute '{key}' in the metadata of '{self.name}' cannot be set to a different value!\n"
                f"{old} != {value}"
            )
        super().__setattr__(key, value)

    def as_dict(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def set(self, **kwargs: Any) -> Metadata:
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        """An attribute, or `default` where there is none."""
        return getattr(self, key, default)


class _MetadataCatalog(_Catalog[Metadata]):
    """From a data set's name to its metadata, made empty at the first question."""

    def get(self, name: str) -> Metadata:  # type: ignore[override]  # Detectron2's `get` never misses
        """The one `Metadata` of this name."""
        if not name:
            raise AssertionError("A dataset has a name.")
        return self.setdefault(name, Metadata(name=name))


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
