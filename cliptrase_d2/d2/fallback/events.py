"""Serves `detectron2.utils.events`: the numbers of a training, and who writes them down."""

from __future__ import annotations

import datetime
import json
import logging
from collections import defaultdict

import torch
from fvcore.common.history_buffer import HistoryBuffer

_open_storages: list[EventStorage] = []


def get_event_storage() -> EventStorage:
    """The storage of the training that runs now."""
    if not _open_storages:
        raise AssertionError("get_event_storage() has to be called inside a 'with EventStorage(...)' context!")
    return _open_storages[-1]


class EventStorage:
    """The history of each named number; `iter` is the iteration that new ones belong to."""

    def __init__(self, start_iter: int = 0):
        self.iter = start_iter
        self._history: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._latest: dict[str, tuple[float, int]] = {}
        self._smooth: dict[str, bool] = {}

    def put_scalar(
        self, name: str, value: float | torch.Tensor, smoothing_hint: bool = True, cur_iter: int | None = None
    ) -> None:
        """Add a number; writers show the median of the latest ones if `smoothing_hint`, else the last."""
        if self._smooth.setdefault(name, smoothing_hint) != smoothing_hint:
            raise AssertionError(f"Scalar {name} was put with a different smoothing_hint!")
        iteration = self.iter if cur_iter is None else cur_iter
        self._history[name].update(float(value), iteration)
        self._latest[name] = (float(value), iteration)

    def put_scalars(self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs: float) -> None:
        """Add several numbers by name."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def history(self, name: str) -> HistoryBuffer:
        """All values of one number."""
        if name not in self._history:
            raise KeyError(f"No history metric available for {name}!")
        return self._history[name]

    def latest(self) -> dict[str, tuple[float, int]]:
        """The last value of each number and its iteration."""
        return self._latest

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """As `latest`, with the median over `window_size` iterations where smoothing was asked for."""
        return {
            name: (self.smoothed(name, window_size) if self._smooth[name] else value, iteration)
            for name, (value, iteration) in self._latest.items()
        }

    def smoothed(self, name: str, window_size: int = 20) -> float:
        """Median of one number over the last `window_size` iterations."""
        values = self.history(name).values()
        newest = values[-1][1]
        return float(self.history(name).median(sum(iteration > newest - window_size for _, iteration in values)))

    def __enter__(self) -> EventStorage:
        _open_storages.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _open_storages.pop()


class EventWriter:
    """Writes down what the storage holds."""

    def write(self) -> None:
        """Write what is new."""
        raise NotImplementedError

    def close(self) -> None:
        """Write no more."""


class JSONWriter(EventWriter):
    """One line of JSON per iteration, added to a file."""

    def __init__(self, json_file: str, window_size: int = 20):
        self._file = open(json_file, "a", encoding="utf-8")  # noqa: SIM115  # closed by close()
        self._window_size = window_size
        self._last_write = -1

    def write(self) -> None:
        lines: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(self._window_size).items():
            if iteration > self._last_write:
                lines[iteration][name] = value
        for iteration, line in lines.items():
            self._file.write(json.dumps({**line, "iteration": iteration}, sort_keys=True) + "\n")
        self._last_write = max(lines, default=self._last_write)
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorboardXWriter(EventWriter):
    """What is new, for TensorBoard.

    Raises:
        ImportError: the package tensorboard is not installed.
    """

    def __init__(self, log_dir: str, window_size: int = 20):
        from torch.utils.tensorboard import SummaryWriter  # not among the packages that this project needs

        self._writer, self._window_size, self._last_write = SummaryWriter(log_dir), window_size, -1

    def write(self) -> None:
        newest = self._last_write
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(self._window_size).items():
            if iteration > self._last_write:
                self._writer.add_scalar(name, value, iteration)
                newest = max(newest, iteration)
        self._last_write = newest

    def close(self) -> None:
        self._writer.close()


class CommonMetricPrinter(EventWriter):
    """One line in the log: time left, losses, seconds per iteration, learning rate, memory."""

    def __init__(self, max_iter: int | None = None, window_size: int = 20):
        self._max_iter, self._window_size = max_iter, window_size

    def write(self) -> None:
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            return
        known = storage.latest()
        words = [f"iter: {storage.iter}"]
        if "time" in known and self._max_iter is not None:
            seconds = float(storage.history("time").median(1000)) * (self._max_iter - storage.iter - 1)
            words.insert(0, f"eta: {datetime.timedelta(seconds=int(seconds))}")
        words += [f"{name}: {storage.smoothed(name, self._window_size):.4g}" for name in known if "loss" in name]
        words += [f"{name}: {storage.history(name).avg(20):.4f}" for name in ("time", "data_time") if name in known]
        if "lr" in known:
            words.append(f"lr: {known['lr'][0]:.5g}")
        if torch.cuda.is_available():
            words.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        logging.getLogger(__name__).info("  ".join(words))
