"""Lightning logger for MLflow that buffers metrics in memory, stores them in batches, and never loses any.

Longer than most: one buffer serves Lightning's interface, a SQLite store, a server, forks and the end of a run.
"""

from __future__ import annotations

import math
import os
import re
import threading
import time
import warnings
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from pytorch_lightning.loggers.logger import Logger, rank_zero_experiment
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor

from lightning_modules.compat.mlflow import latest_metrics
from lightning_modules.config.errors import UserError, first_line, warn
from lightning_modules.config.plain import PlainDict
from lightning_modules.config.signals import defer_signals
from lightning_modules.report.numbers import shortest_decimal
from lightning_modules.tracking.metric_sender import FIRST_PAUSE_S, LONGEST_PAUSE_S, TIMEOUT_S, MetricSender
from lightning_modules.tracking.outbox import MAX_BATCH, UnsentDataWarning, enqueue, metrics_of
from lightning_modules.tracking.sqlite_metrics import log_metrics_fast
from lightning_modules.tracking.store import is_reachable

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from lightning_modules.tracking.record_run import RunSnapshot

LAST_TRIES, LAST_PAUSE = 3, 1.0  # of finalize
PROBE_S = 30.0  # after a server did not respond, until it is asked again
# MLflow's page "compare runs" opens with the metric that was stored first: a score or a loss, none of these
SIDE_METRIC = re.compile(r"(model|system|throughput|comm)/|lr-|epoch$")


class Point(NamedTuple):
    key: str
    value: float | Tensor  # a tensor stays on its device until the flush, to avoid synchronization
    timestamp: int  # milliseconds since 1970
    step: int


class BufferedMLflowLogger(Logger):
    """Logger of an existing run: a log call takes microseconds, a flush stores a batch.

    A flush writes to a SQLite store directly; a thread sends metrics to a server, so that training never waits.

    Args:
        flush_points, flush_seconds: flush after so many points, or this time after the last flush.
        already: of a resumed run, the last stored step of each metric (`last_steps`); points up to it are dropped, since
            those steps are repeated.
        held_until: of a resumed run; nothing is stored before its first step, as the resume may fail.
    """

    def __init__(
        self,
        client: MlflowClient,
        run_id: str,
        flush_points: int = 500,
        flush_seconds: float = 5.0,
        already: Mapping[str, int] | None = None,
        held_until: RunSnapshot | None = None,
    ) -> None:
        super().__init__()
        self.undelivered: Path | None = None  # the file of unsent points
        self._client = client
        self.run_id = run_id  # as Lightning's MLFlowLogger has it
        self._flush_points = flush_points
        self._flush_seconds = flush_seconds
        self._already = dict(already or {})
        self._held_until = held_until
        self._names: dict[str, str] = {}  # in the store
        self._newest: dict[str, int] = {}  # the step up to which a metric's points are dropped; -1: none
        self._name: str | None = None
        self._warned = False
        self._models: dict[str, str] = {}  # prefix of metrics -> their LoggedModel
        self.first_step = 0  # added to all steps: each fit of a run counts from 0
        self.dataset: dict[str, str] = {}  # name and digest, of the metrics of a model
        self.stage = ""  # of compression; prefix of the ``test/…`` metrics of its fit
        self._start_empty()

    def _start_empty(self) -> None:
        self._pid = os.getpid()
        self._points: deque[Point] = deque()
        self._flushing = threading.RLock()
        self._pause = 0.0
        self._due = time.monotonic() + self._flush_seconds
        local = self._client.tracking_uri.startswith("sqlite:")
        self._sender = None if local else MetricSender(self._client, self.run_id)
        self._silent_until = 0.0

    def attach_model(self, model_id: str, prefix: str = "test/") -> None:
        """Link metrics with this prefix, including those in the buffer, to the LoggedModel they were measured on."""
        if prefix in self._models:
            self._hand_over() if self._sender and not self._is_held() else self.flush()
        self._models[prefix] = model_id

    @property
    def name(self) -> str | None:
        """The experiment's name."""
        if self._name is None:
            experiment_id = self._client.get_run(self.run_id).info.experiment_id
            self._name = self._client.get_experiment(experiment_id).name
        return self._name

    @property
    def version(self) -> str:
        """The run's id."""
        return self.run_id

    @property
    @rank_zero_experiment
    def experiment(self) -> MlflowClient:
        """MLflow's client; a dummy on ranks other than 0."""
        return self._client

    def log_hyperparams(self, params: object, *args: object, **kwargs: object) -> None:
        """Do nothing: the record contains the whole config."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float | Tensor], step: int | None = None) -> None:
        """Buffer the metrics until the next flush.

        A name that MLflow does not allow is changed, with a warning. Raises UserError if a value is not a scalar.
        """
        self.collect(metrics, step)
        self.save()

    @rank_zero_only
    def collect(self, metrics: Mapping[str, float | Tensor], step: int | None = None) -> None:
        """Like `log_metrics`, but without a flush: for threads other than the main one, which alone handles signals."""
        if self._pid != os.getpid():  # forked: the parent stores its own points
            self._start_empty()
        timestamp, at = int(time.time() * 1000), int(step or 0) + self.first_step
        for name, value in metrics.items():
            key = f"{self.stage}/{name}" if self.stage and name.startswith("test/") else name
            key = self._names.get(key) or self._name_in_store(key)
            self._newest.setdefault(key, self._already.get(key, -1))
            if at > self._newest[key]:
                self._points.append(Point(key, _as_number(key, value), timestamp, at))

    def _name_in_store(self, name: str) -> str:
        """`allowed_name`, different from other names of the run; warns where it is not `name`."""
        key = allowed_name(name)
        key = f"{key[:240]}_{zlib.crc32(name.encode()):08x}" if key in self._names.values() else key
        if key != name:
            warn(
                f"warning: metric {name!r} is recorded as {key!r}, since MLflow or another metric of the run forbids its name"
            )
        self._names[name] = key
        return key

    def save(self) -> None:
        """Flush if due: Lightning calls this after every `log_metrics`."""
        full = len(self._points) >= self._flush_points and not self._pause
        due = time.monotonic() >= self._due and not all(map(SIDE_METRIC.match, self._newest))
        if self._points and not self._is_held() and (full or due):
            self._hand_over() if self._sender else self.flush()

    def discard(self) -> None:
        """Drop the buffered points."""
        self._points.clear()

    def _is_held(self) -> bool:
        return self._held_until is not None and not self._held_until.stepped

    @rank_zero_only
    def persist(self) -> None:
        """Make the points survive this process without waiting for a server: in the store, or in a file."""
        if self._pid != os.getpid():
            self._start_empty()
        if self._sender is None or self._is_held():
            self.flush()
            return
        self._hand_over()
        try:
            self._sender.save()
        except OSError as error:
            self._warn_once(str(error))

    @rank_zero_only
    def flush(self) -> bool:
        """Store all buffered points. If the store fails, keep them, warn once and return False."""
        if self._pid != os.getpid():
            self._start_empty()
        if self._is_held():
            return True
        return self._send_all() if self._sender else self._store_all()

    def _hand_over(self) -> None:
        """Hand the buffered points to the sending thread, and warn once if the server accepts none."""
        assert self._sender is not None
        if problem := self._sender.problem:
            self._warn_once(f"{problem}; training continues")
        else:
            self._warned = False
        with defer_signals(), self._flushing:
            batch = [self._points.popleft() for _ in range(len(self._points))]
            self._sender.add(self._rows(batch))
        self._due = time.monotonic() + self._flush_seconds

    def _send_all(self) -> bool:
        """Send the buffered points; wait for the server while it responds."""
        self._hand_over()
        sender, uri = self._sender, self._client.tracking_uri
        assert sender is not None
        if sender.drain(1.0):
            return True
        if time.monotonic() >= self._silent_until and uri.startswith("http") and not is_reachable(uri):
            self._silent_until = time.monotonic() + PROBE_S
        if time.monotonic() < self._silent_until:
            return False
        sender.retry()
        return sender.drain(TIMEOUT_S)

    def _store_all(self) -> bool:
        with defer_signals(), self._flushing:
            try:
                while self._points:
                    batch = [self._points[i] for i in range(min(MAX_BATCH, len(self._points)))]
                    log_metrics_fast(self._client, self.run_id, metrics_of(self._rows(batch)))
                    for _ in batch:
                        self._points.popleft()
            except Exception as error:  # any error: training continues, the points stay buffered
                self._pause = min(2 * self._pause, LONGEST_PAUSE_S) or FIRST_PAUSE_S
                self._due = time.monotonic() + self._pause
                self._warn_once(first_line(error))
                return False
            self._pause, self._warned = 0.0, False
            self._due = time.monotonic() + self._flush_seconds
        return True

    def _warn_once(self, reason: str) -> None:
        if not self._warned:
            count = len(self._points) + (self._sender.pending if self._sender else 0)
            text = f"{count} points are buffered because the tracking store does not accept them: {reason}"
            warnings.warn(f"MLflow run {self.run_id}: {text}", stacklevel=2)
        self._warned = True

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Flush, with retries for a few seconds; write the rest to a file and warn."""
        if self._sender is not None:
            if not self.flush():
                self._sender.save()
            self._name_file(self._sender.file)
            return
        for attempt in range(LAST_TRIES):
            if self.flush():
                return
            if attempt < LAST_TRIES - 1:
                time.sleep(LAST_PAUSE)
        rows = self._rows(list(self._points))
        self._name_file(enqueue(self._client.tracking_uri, self.run_id, rows, self.undelivered))
        self._points.clear()

    def close(self) -> None:
        """Leave unsent points to the file `undelivered`: nothing here sends them any more."""
        if self._sender is not None:
            self.undelivered = self._sender.close()

    def _name_file(self, file: Path | None) -> None:
        """Warn once which file contains the unsent points."""
        before, self.undelivered = self.undelivered, file
        if file is not None and file != before:
            text = f"the tracking store did not accept the points in {file}; send them with `touchstone store sync`"
            warnings.warn(f"MLflow run {self.run_id}: {text}", UnsentDataWarning, stacklevel=3)

    def _rows(self, batch: list[Point]) -> Iterator[PlainDict]:
        """Points as rows of the outbox, scores first."""
        for point, value in sorted(zip(batch, _numbers(batch), strict=True), key=_display_order):
            found = next((model_id for prefix, model_id in self._models.items() if point.key.startswith(prefix)), None)
            if "test/" in point.key:  # what a run's page shows: 0.97, not 0.9700000286102295
                value = float(shortest_decimal(value) or value)
            yield {**point._asdict(), "value": value, **({"model_id": found, **self.dataset} if found else {})}


def last_steps(client: MlflowClient, run_id: str) -> dict[str, int]:
    """The last stored step of each metric of the run."""
    # MLflow's latest value is that of the highest step.
    return {metric.key: int(metric.step) for metric in latest_metrics(client.get_run(run_id))}


def _display_order(row: tuple[Point, float]) -> tuple[bool, bool]:
    key = row[0].key
    return SIDE_METRIC.match(key) is not None, not key.startswith("val")


def _as_number(key: str, value: float | Tensor) -> float | Tensor:
    """The value, without waiting for an accelerator."""
    if type(value) is float:
        return value
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise UserError(f"metric {key!r} has shape {tuple(value.shape)}; log a scalar")
        return float(value.item()) if value.device.type == "cpu" else value.detach().clone().reshape(())
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"metric {key!r} is a {type(value).__name__}; log a scalar") from error


def _numbers(points: list[Point]) -> list[float]:
    """All values as floats, with one transfer per device and dtype instead of one per point."""
    numbers = [math.nan if isinstance(point.value, Tensor) else point.value for point in points]
    kinds: dict[tuple[object, object], list[int]] = {}
    for i, point in enumerate(points):
        if isinstance(point.value, Tensor):
            kinds.setdefault((point.value.device, point.value.dtype), []).append(i)
    for indices in kinds.values():
        stacked = torch.stack([value for i in indices if isinstance(value := points[i].value, Tensor)])
        for i, number in zip(indices, stacked.tolist(), strict=True):
            numbers[i] = float(number)
    return numbers


def allowed_name(name: str) -> str:
    """The metric name as MLflow takes it: ``acc@5`` becomes ``acc_5``."""
    parts = re.sub(r"[^\w./:\- ]", "_", name)[:250].split("/")
    return "/".join(part for part in parts if part.strip(".")).removeprefix("..") or "_"
