"""Catalogs of the data sets and of their metadata, as in `detectron2.data.catalog`."""

from __future__ import annotations

import builtins
import types
from collections import UserDict
from collections.abc import Callable
from typing import Any

Records = builtins.list[dict[str, Any]]


class _Catalog(UserDict[str, Any]):
    def list(self) -> builtins.list[str]:
        return [*self]

    def remove(self, name: str) -> None:
        self.pop(name)


class _DatasetCatalog(_Catalog):
    """The function of each data set that lists its records."""

    def register(self, name: str, func: Callable[[], Records]) -> None:
        """Add a data set; `func` must return the same records on every call."""
        if name in self:
            raise AssertionError(f"Dataset '{name}' is already registered!")
        self[name] = func

    def get(self, name: str) -> Records:  # type: ignore[override]  # Detectron2's `get` calls the function
        """Return the records of the data set."""
        return self[name]()


class Metadata(types.SimpleNamespace):
    """Attributes of one data set; each may be set once, or again to an equal value."""

    def __setattr__(self, key: str, value: Any) -> None:
        old = self.__dict__.get(key, value)
        if old != value:
            raise AssertionError(f"The metadata '{key}' of dataset '{self.name}' cannot change from {old} to {value}.")
        super().__setattr__(key, value)

    def set(self, **kwargs: Any) -> Metadata:
        """Set several attributes."""
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        """Return an attribute, or `default` if it is not set."""
        return getattr(self, key, default)


class _MetadataCatalog(_Catalog):
    """The metadata of each data set, created empty on first access."""

    def get(self, name: str) -> Metadata:  # type: ignore[override]  # Detectron2's `get` never misses
        """Return the `Metadata` of this name."""
        return self.setdefault(name, Metadata(name=name))


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
