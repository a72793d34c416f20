"""The models and methods that the page offers: loaded when they are asked for, one at a time at work."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from cliptrase_d2.clip.tokens import TextFeatures
from cliptrase_d2.config import load_config
from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.evaluation.runs import SYSTEMS
from cliptrase_d2.methods.attention import ATTENTIONS
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.settings import Method
from cliptrase_d2.segmenter.pretrained import describe_download, model_options
from cliptrase_d2.segmenter.segmenter import Segmenter
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary

# An oracle needs true labels, which nobody's photograph has.
METHODS = tuple(name for name, system in SYSTEMS.items() if not ATTENTIONS[system.keys["ATTENTION"]].is_oracle)
_KEPT_MODELS = 2  # one for each side of the page
_KEPT_VOCABULARIES = 32


class Words(NamedTuple):
    """A vocabulary as a model knows it.

    Attributes:
        features: of its words.
        notes: what there is to warn of, such as words that the model was never trained on.
    """

    features: TextFeatures
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Model:
    """A loaded model.

    Attributes:
        segmenter: shows images to it.
        core: the model itself.
        settings: of the method, as configured; every method of the page starts from these.
        read: knows the vocabularies used last.
        notes: what was warned of while it was loaded, random weights for example.
    """

    segmenter: Segmenter
    core: CLIPtrase
    settings: Method
    read: Callable[[Vocabulary], Words]
    notes: tuple[str, ...]


class Models:
    """Loads the models that it is made with, keeps the last few, and lends out one at a time.

    Args:
        models: "emoji", ViTs of open_clip, or YAML configurations, which go by their stems. Their text features are
            not kept on disk: whoever reaches the page could fill it with words.
        changes: of every configuration, KEY, VALUE, …
        notify: is told what will be fetched before that takes its time.
    Raises:
        InputError: a model that open_clip has no weights for, two of one name, or a configuration that cannot be shown.
    """

    def __init__(self, models: Sequence[str], changes: Sequence[str] = (), notify: Callable[[str], None] = print):
        self._sources: dict[str, _Source] = {}
        for model in models:
            file = model if model.endswith((".yaml", ".yml")) else None
            name = Path(file).stem if file else model
            if name in self._sources:
                raise InputError(
                    "--models", f"two named {name!r}", "Remove or rename one of them.", allowed="every name once"
                )
            known = [] if file else _known_options(model)
            self._sources[name] = _Source(file, (*known, "MODEL.CLIP.TEXT_CACHE", "", *changes))
            _check(name, self._sources[name].config())
        self._notify = notify
        self._model = lru_cache(_KEPT_MODELS)(self._load)
        self._lock = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the models that can be lent."""
        return tuple(self._sources)

    @contextmanager
    def lent(self, name: str, method: str) -> Iterator[Model]:
        """A model that works by a method, for one caller at a time.

        Args:
            name: one of ``names``.
            method: one of ``METHODS``.
        Raises:
            InputError: another name, or a model that cannot be loaded.
        """
        for kind, given, allowed in (("model", name, self.names), ("method", method, METHODS)):
            if given not in allowed:
                raise InputError(kind, repr(given), "Choose one of these.", allowed=", ".join(allowed))
        with self._lock:
            model = self._model(name)
            attention, settings = method_settings(method, model.settings)
            model.core.change_method(attention, settings)
            yield model

    def _load(self, name: str) -> Model:
        source = self._sources[name]
        clip = source.config().MODEL.CLIP
        message = describe_download(clip.NAME, clip.PRETRAINED)
        if message:
            self._notify(message)
        with capture_warnings() as notes:
            segmenter = Segmenter.from_config(source.file, source.options)
        core = segmenter.model
        assert isinstance(core, CLIPtrase)  # as was checked at the start

        def read(vocabulary: Vocabulary) -> Words:
            with capture_warnings(on_terminal=False) as notes:  # it is the visitor who chose the words
                return Words(core.text_encoder(vocabulary), tuple(notes))

        return Model(segmenter, core, core.method, lru_cache(_KEPT_VOCABULARIES)(read), tuple(notes))


def method_settings(name: str, settings: Method) -> tuple[str, Method]:
    """The attention of one of ``METHODS``, and the settings with what it sets changed."""
    keys = {key.lower(): value for key, value in SYSTEMS[name].keys.items()}
    attention = keys.pop("attention")
    return attention, replace(settings, **keys)  # type: ignore[arg-type]  # all of these are words


class _Source(NamedTuple):
    """Where a model comes from: a configuration's file, or None, and KEY, VALUE, … of changes."""

    file: str | None
    options: tuple[str, ...]

    def config(self) -> CfgNode:
        return load_config(self.file, self.options)


class _Keeper(logging.Handler):
    def __init__(self, notes: list[str]):
        super().__init__(logging.WARNING)
        self.notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        self.notes.append(record.getMessage().splitlines()[-1])  # a report comes before what it means


@contextmanager
def capture_warnings(*, on_terminal: bool = True) -> Iterator[list[str]]:
    """What this package warns of, each in a line for the page.

    Args:
        on_terminal: whether it also goes where it would.
    """
    notes: list[str] = []
    logger, keeper = logging.getLogger("cliptrase_d2"), _Keeper(notes)
    before = logger.propagate
    logger.addHandler(keeper)
    logger.propagate = before and on_terminal
    try:
        yield notes
    finally:
        logger.propagate = before
        logger.removeHandler(keeper)


def _known_options(model: str) -> list[str]:
    try:
        return model_options(model)
    except InputError as error:
        fix = "Choose one of these, or name a YAML configuration."
        raise InputError("--models", error.got, fix, allowed=error.allowed) from error


def _check(name: str, cfg: CfgNode) -> None:
    """Refuse a configuration that the page cannot show."""
    for key, given, refused, allowed in (
        ("MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, "SAN", f"{CLIPtrase.__name__}, whose steps are shown"),
        ("MODEL.CLIPTRASE.CLUSTERING", cfg.MODEL.CLIPTRASE.CLUSTERING, "none", "dbscan or hdbscan"),
        ("TEST.PROTOCOL", cfg.TEST.PROTOCOL, "center_crop", "whole, slide or tiles, which see all of a photograph"),
    ):
        if given == refused:
            raise InputError(
                "--models", f"{name} with {key} {given}", "Change it there, or with --opts.", allowed=allowed
            )
