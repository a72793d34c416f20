"""The classes of an input: its own, those of its data set, or the model's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from cliptrase_d2.d2 import CfgNode, DatasetCatalog, MetadataCatalog
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary, list_classes

_FIX = "Add a 'vocabulary' to the input, or set MODEL.CLIPTRASE.VOCABULARY."


@dataclass(frozen=True)
class InputVocabulary:
    """Finds the vocabulary of an input, so that no data set is scored with the classes of another.

    The first of these that exists is used:

    1. ``vocabulary`` of the input: a ``Vocabulary``, or names as in `Vocabulary.parse`;
    2. the classes of the data set ``meta["dataset_name"]`` of the input, which records of this package and the loader
       of the published SAN have;
    3. ``default``;
    4. the classes of ``training`` or ``evaluation``. If the input has a ``file_name``, it must belong to one of them.

    Attributes:
        default: MODEL.CLIPTRASE.VOCABULARY; None if it is empty.
        training: DATASETS.TRAIN.
        evaluation: DATASETS.TEST.
    """

    default: Vocabulary | None = None
    training: tuple[str, ...] = ()
    evaluation: tuple[str, ...] = ()
    _files: dict[str, frozenset[str]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> InputVocabulary:
        """Read MODEL.CLIPTRASE.{VOCABULARY, BACKGROUND} and the names of the data sets.

        Raises:
            InputError: the names do not form a vocabulary.
        """
        names, background = cfg.MODEL.CLIPTRASE.VOCABULARY, cfg.MODEL.CLIPTRASE.BACKGROUND
        default = Vocabulary.parse(names, background, where="MODEL.CLIPTRASE.VOCABULARY") if names else None
        return cls(default, tuple(cfg.DATASETS.TRAIN), tuple(cfg.DATASETS.TEST))

    def find(self, inputs: Mapping[str, Any], *, in_training: bool = False) -> Vocabulary:
        """Return the vocabulary of an input of the model.

        Raises:
            InputError: there is none, it is invalid, or the data set of the input is not known and matters.
        """
        own = inputs.get("vocabulary")
        if own is not None:
            return own if isinstance(own, Vocabulary) else _parse(list_classes(own, "vocabulary"), "vocabulary")
        meta = inputs.get("meta")
        name = meta.get("dataset_name") if isinstance(meta, Mapping) else None
        vocabulary = get_dataset_vocabulary(name) or self.default
        if vocabulary is not None:
            return vocabulary
        key, names = ("TRAIN", self.training) if in_training else ("TEST", self.evaluation)
        return self._find_in(names, f"DATASETS.{key}", inputs.get("file_name"))

    def _find_in(self, names: Iterable[str], key: str, file_name: str | None) -> Vocabulary:
        """Return the classes of the data sets, or of those that have the file.

        Raises:
            InputError: the data sets have no classes, different classes, or not this file.
        """
        vocabularies = {name: found for name in names if (found := get_dataset_vocabulary(name)) is not None}
        listed = ", ".join(names) or "none"
        if not vocabularies:
            got = f"neither the input nor the model has class names, and none are known for {key} ({listed})"
            raise InputError("vocabulary", got, _FIX)
        if file_name is not None:
            vocabularies = {name: found for name, found in vocabularies.items() if file_name in self._list_files(name)}
            if not vocabularies:
                raise InputError(key, f"{file_name} is not an image of {listed}, so its classes are unknown", _FIX)
        if len(set(vocabularies.values())) > 1:
            got = f"{', '.join(vocabularies)} have different classes, and an input does not name its data set"
            raise InputError(key, got, _FIX)
        return next(iter(vocabularies.values()))

    def _list_files(self, name: str) -> frozenset[str]:
        if name not in self._files:
            records = DatasetCatalog.get(name) if name in DatasetCatalog.list() else []
            self._files[name] = frozenset(record["file_name"] for record in records)
        return self._files[name]


OWN_VOCABULARY_ONLY = InputVocabulary()  # every input must have a vocabulary or a data set


def get_dataset_vocabulary(name: str | None) -> Vocabulary | None:
    """Return the classes in a data set's metadata; None if it has none or is not registered."""
    if name not in MetadataCatalog.list():  # `get` would add an unknown name
        return None
    metadata = MetadataCatalog.get(name)
    names = metadata.get("stuff_classes")
    return metadata.get("vocabulary") or (
        _parse(tuple(names), f"data set {name!r}", allow_commas=True) if names else None
    )


@lru_cache(maxsize=64)
def _parse(names: tuple[str, ...], where: str, allow_commas: bool = False) -> Vocabulary:
    return Vocabulary.parse(names, where=where, allow_commas=allow_commas)
