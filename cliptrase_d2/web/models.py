"""Models and methods of the page, loaded on demand and used by one request at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import NamedTuple

from cliptrase_d2.clip import embedded
from cliptrase_d2.clip.download import Listener, report_download
from cliptrase_d2.clip.tokens import TextFeatures
from cliptrase_d2.config import load_config
from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.methods.catalog import METHODS as ALL_METHODS
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.segmenter.pretrained import EMBEDDED, describe_download, download_size, model_options
from cliptrase_d2.segmenter.segmenter import Segmenter
from cliptrase_d2.utils.errors import InputError, check_choice, name_arguments
from cliptrase_d2.vocabulary import Vocabulary
from cliptrase_d2.web.methods import METHODS

DRAWINGS = "Emoji CLIP has only seen drawings of emoji. Its labels for a photograph are mostly wrong."
_MAX_MODELS = 2  # one for each side of the page
_MAX_VOCABULARIES = 32
_MAX_RECORDS = 1000
_REMEMBERED = 10.0  # seconds for which a failure is repeated: a click loads a model for several parts of the page


class Words(NamedTuple):
    """An encoded vocabulary.

    Attributes:
        features: of its words.
        notes: warnings, such as words that the model was never trained on.
    """

    features: TextFeatures
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Model:
    """A loaded model.

    Attributes:
        segmenter: prepares its inputs.
        core: the model itself.
        settings: of the method, as configured. Every method of the page changes some of them.
        read: encodes a vocabulary, and remembers the latest ones.
        notes: warnings while it was loaded, such as random weights.
    """

    segmenter: Segmenter
    core: CLIPtrase
    settings: CLIPtraseSettings
    read: Callable[[Vocabulary], Words]
    notes: tuple[str, ...]


class Models:
    """Loads models on demand, keeps the latest, and lends one at a time.

    Args:
        models: "emoji", ViTs of open_clip, or YAML configurations, named by their stems. Text features are not cached
            on disk, which visitors could fill with words.
        changes: of every configuration: KEY, VALUE, …
        notify: called with a message before a download; may return a listener for its progress.
    Attributes:
        names: of the models.
    Raises:
        InputError: open_clip has no weights for a model, two models have one name, or a configuration does not fit.
    """

    def __init__(
        self,
        models: Sequence[str],
        changes: Sequence[str] = (),
        notify: Callable[[str], Listener | None] = print,
    ):
        self._sources: dict[str, tuple[str | None, list[str]]] = {}  # a file, if any, and KEY, VALUE, …
        for model in models:
            file = model if model.endswith((".yaml", ".yml")) else None
            name = Path(file).stem if file else model
            if name in self._sources:
                raise InputError("--models", f"two models named {name!r}", "Remove or rename one of them.")
            with name_arguments({"--model": "--models"}):
                options = [] if file else model_options(model)
            self._sources[name] = file, [*options, "MODEL.CLIP.TEXT_CACHE", "", *changes]
            _check_config(name, load_config(*self._sources[name]))
        self.names, self._notify = tuple(self._sources), notify
        self._model = lru_cache(_MAX_MODELS)(self._load_once)
        self._failures: dict[str, tuple[float, InputError]] = {}  # when, and the error
        self._lock = threading.Lock()

    def has_seen_photographs(self, name: str) -> bool:
        """Return whether a model was trained on photographs: every model but Emoji CLIP."""
        return self._clip(name).NAME != embedded.NAME

    def get_download_size(self, name: str) -> float:
        """Return the megabytes that the first use of a model downloads, about; 0 for none."""
        clip = self._clip(name)
        return download_size(clip.NAME) if describe_download(clip.NAME, clip.PRETRAINED) else 0

    def get_title(self, name: str) -> str:
        """Return the name of a model for visitors, with the kind of its training images."""
        title = "Emoji CLIP" if name == EMBEDDED else name
        return f"{title} ({'photographs' if self.has_seen_photographs(name) else 'drawings'})"

    @contextmanager
    def lend(self, name: str, method: str) -> Iterator[Model]:
        """Lend a model, set to a method, to one caller at a time.

        Args:
            name: one of ``names``.
            method: one of ``METHODS``.
        Raises:
            InputError: an unknown name, or the model cannot be loaded.
        """
        for kind, value, choices in (("model", name, self.names), ("method", method, METHODS)):
            check_choice(kind, value, choices)
        with self._lock:
            model = self._model(name)
            settings = replace(model.settings, **ALL_METHODS[method].changes)
            model.core.configure(settings)
            yield model

    def _load_once(self, name: str) -> Model:
        """Load a model, or repeat the error of the last seconds without another attempt."""
        when, known = self._failures.get(name, (0.0, None))
        if known and time.monotonic() - when < _REMEMBERED:
            raise InputError(known.where, known.got, known.fix, known.allowed)
        try:
            return self._load(name)
        except InputError as error:
            self._failures[name] = time.monotonic(), error
            raise

    def _clip(self, name: str) -> CfgNode:
        return load_config(*self._sources[name]).MODEL.CLIP

    def _load(self, name: str) -> Model:
        clip = self._clip(name)
        message = describe_download(clip.NAME, clip.PRETRAINED)
        listener = (self._notify(message) if message else None) or (lambda done, total: None)
        with capture_warnings() as notes, report_download(listener):
            segmenter = Segmenter.from_config(*self._sources[name])
        core = segmenter.model
        assert isinstance(core, CLIPtrase)  # checked at the start

        def read(vocabulary: Vocabulary) -> Words:
            with capture_warnings(on_terminal=False) as notes:  # the visitor chose the words
                features = core.text_encoder(vocabulary)
            return Words(features, tuple(notes))

        return Model(segmenter, core, core.settings, lru_cache(_MAX_VOCABULARIES)(read), tuple(notes))


@contextmanager
def capture_warnings(*, on_terminal: bool = True) -> Iterator[list[str]]:
    """Collect this package's warnings, each as one line for the page. The list is filled at the end of the block.

    Args:
        on_terminal: whether to log them as well.
    """
    notes: list[str] = []
    logger, handler = logging.getLogger("cliptrase_d2"), BufferingHandler(_MAX_RECORDS)
    handler.setLevel(logging.WARNING)
    propagate = logger.propagate
    logger.addHandler(handler)
    logger.propagate = propagate and on_terminal
    try:
        yield notes
    finally:
        logger.propagate = propagate
        logger.removeHandler(handler)
        # The last line of a report is its conclusion.
        notes += [record.getMessage().splitlines()[-1] for record in handler.buffer]


def _check_config(name: str, cfg: CfgNode) -> None:
    """Refuse a configuration that the page cannot show."""
    for key, value, refused, reason in (
        ("MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, "SAN", "the page shows the steps of CLIPtrase"),
        ("MODEL.CLIPTRASE.CLUSTERING", cfg.MODEL.CLIPTRASE.CLUSTERING, "none", "the page shows clusters"),
        ("TEST.PROTOCOL", cfg.TEST.PROTOCOL, "center_crop", "the page shows whole photographs"),
    ):
        if value == refused:
            fix = "Change it in the configuration, or with --opts."
            raise InputError("--models", f"{name} with {key} {value}, but {reason}", fix)
