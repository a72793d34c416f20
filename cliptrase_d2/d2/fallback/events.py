"""Scalars of a training and their writers, as in `detectron2.utils.events`."""

from __future__ import annotations

import datetime
import json
import logging
from collections import defaultdict

import torch
from fvcore.common.history_buffer import HistoryBuffer

_open_storages: list[EventStorage] = []


def get_event_storage() -> EventStorage:
    """Return the innermost open storage."""
    if not _open_storages:
        raise AssertionError("get_event_storage() has to be called inside a 'with EventStorage(...)' context!")
    return _open_storages[-1]


class EventStorage:
    """History of each scalar; new values belong to the iteration `iter`."""

    def __init__(self, start_iter: int = 0):
        self.iter = start_iter
        self._history: dict[str, HistoryBuffer] = {}
        self._smooth: dict[str, bool] = {}

    def put_scalar(self, name: str, value: float | torch.Tensor, smoothing_hint: bool = True) -> None:
        """Add a value; writers show the median of recent values if `smoothing_hint`, else the last value."""
        if self._smooth.setdefault(name, smoothing_hint) != smoothing_hint:
            raise AssertionError(f"Scalar {name} was put with a different smoothing_hint!")
        self._history.setdefault(name, HistoryBuffer()).update(float(value), self.iter)

    def history(self, name: str) -> HistoryBuffer:
        """Return all values of a scalar."""
        return self._history[name]

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """Return the last value of each scalar and its iteration.

        Where `smoothing_hint` was set, the median over the last `window_size` iterations replaces the value.
        """
        latest = {}
        for name, history in self._history.items():
            value, newest = history.values()[-1]
            if self._smooth[name]:
                count = sum(iteration > newest - window_size for _, iteration in history.values())
                value = float(history.median(count))
            latest[name] = (value, newest)
        return latest

    def __enter__(self) -> EventStorage:
        _open_storages.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _open_storages.pop()


class EventWriter:
    """Base class of the writers."""

    def write(self) -> None:
        """Write the new scalars."""
        raise NotImplementedError

    def close(self) -> None:
        """Release files."""


class _ScalarWriter(EventWriter):
    def __init__(self, window_size: int):
        self._window_size, self._last_write = window_size, -1

    def _new_scalars(self) -> list[tuple[str, float, int]]:
        """Return name, value and iteration of each scalar that was added since the last call."""
        latest = get_event_storage().latest_with_smoothing_hint(self._window_size)
        new = [(name, value, iteration) for name, (value, iteration) in latest.items() if iteration > self._last_write]
        self._last_write = max((iteration for *_, iteration in new), default=self._last_write)
        return new


class JSONWriter(_ScalarWriter):
    """Appends one line of JSON per iteration to a file."""

    def __init__(self, json_file: str, window_size: int = 20):
        super().__init__(window_size)
        self._file = open(json_file, "a", encoding="utf-8")  # noqa: SIM115  # closed by close()

    def write(self) -> None:
        lines: dict[int, dict[str, float]] = defaultdict(dict)
        for name, value, iteration in self._new_scalars():
            lines[iteration][name] = value
        for iteration, line in lines.items():
            self._file.write(json.dumps({**line, "iteration": iteration}, sort_keys=True) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorboardXWriter(_ScalarWriter):
    """Writes scalars for TensorBoard.

    Raises:
        ImportError: the package tensorboard is not installed.
    """

    def __init__(self, log_dir: str, window_size: int = 20):
        from torch.utils.tensorboard import SummaryWriter  # optional dependency

        super().__init__(window_size)
        self._writer = SummaryWriter(log_dir)

    def write(self) -> None:
        for name, value, iteration in self._new_scalars():
            self._writer.add_scalar(name, value, iteration)

    def close(self) -> None:
        self._writer.close()


class CommonMetricPrinter(EventWriter):
    """Logs one line: time left, losses, seconds per iteration, learning rate, memory."""

    def __init__(self, max_iter: int | None = None, window_size: int = 20):
        self._max_iter, self._window_size = max_iter, window_size

    def write(self) -> None:
        storage = get_event_storage()
        if storage.iter == self._max_iter:  # the training is over
            return
        latest = storage.latest_with_smoothing_hint(self._window_size)
        fields = []
        if "time" in latest and self._max_iter is not None:
            seconds = float(storage.history("time").median(1000)) * (self._max_iter - storage.iter - 1)
            fields.append(f"eta: {datetime.timedelta(seconds=int(seconds))}")
        fields.append(f"iter: {storage.iter}")
        fields += [f"{name}: {value:.4g}" for name, (value, _) in latest.items() if "loss" in name]
        fields += [f"{name}: {storage.history(name).avg(20):.4f}" for name in ("time", "data_time") if name in latest]
        if "lr" in latest:
            fields.append(f"lr: {latest['lr'][0]:.5g}")
        if torch.cuda.is_available():
            fields.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        logging.getLogger(__name__).info("  ".join(fields))
