"""Send metrics to a tracking server in a thread; a file keeps them until they have arrived."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_modules.config.errors import first_line
from lightning_modules.tracking.outbox import MAX_BATCH, enqueue, metrics_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

TIMEOUT_S = 15.0  # without a response, after which nothing waits for a request
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 60.0  # after a failed request; doubled each time


class MetricSender:
    """Sends metrics in order, whatever the server does, without blocking training.

    A failed request is repeated: MLflow stores equal metrics of a run once.
    """

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.file: Path | None = None  # contains points that may not have arrived
        self._client, self._run_id = client, run_id
        self._pending: deque[dict[str, object]] = deque()
        self._in_file = 0  # number of pending points, from the left, in the file
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._error = ""
        self._request_began: float | None = None
        self._retry = False
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it logs each retry

    @property
    def problem(self) -> str:
        """Why the server currently accepts no points; empty while it does."""
        began = self._request_began
        if not self._error and began is not None and time.monotonic() - began >= TIMEOUT_S:
            return f"no response within {TIMEOUT_S:.0f} seconds"
        return self._error

    @property
    def pending(self) -> int:
        """The number of points that have not arrived."""
        return len(self._pending)

    def add(self, points: Iterable[dict[str, object]]) -> None:
        """Queue points."""
        with self._changed:
            self._pending.extend(points)
            if self._pending and self._thread is None:
                self._thread = threading.Thread(target=self._send, name="metrics to MLflow", daemon=True)
                self._thread.start()

    def save(self) -> None:
        """Write the pending points to a file, so that they survive this process. Raises OSError if that fails."""
        with self._changed:
            new = list(islice(self._pending, self._in_file, None))
            if new:
                self.file = enqueue(self._client.tracking_uri, self._run_id, new, self.file)
                self._in_file = len(self._pending)

    def close(self) -> Path | None:
        """Send nothing more: the pending points are left to the file that is returned, which is no longer deleted here."""
        with self._changed:
            self.save()
            file, self.file, self._in_file = self.file, None, 0
            self._pending.clear()
            self._retry = True
            self._changed.notify_all()
        return file

    def drain(self, seconds: float) -> bool:
        """Wait until all points have arrived, unless the server accepts none; return whether they have."""
        until = time.monotonic() + seconds
        with self._changed:
            while self._pending and not self.problem and (left := until - time.monotonic()) > 0:
                self._changed.wait(min(left, 0.5))
            return not self._pending

    def retry(self) -> None:
        """Repeat a failed request now instead of after its pause."""
        with self._changed:
            self._error, self._retry = "", True
            self._changed.notify_all()

    def _send(self) -> None:
        pause = FIRST_PAUSE_S
        while batch := self._next_batch():
            try:
                self._client.log_batch(self._run_id, metrics=metrics_of(batch))
            except Exception as error:  # any error: the points stay pending
                with self._changed:
                    self._error, self._request_began = first_line(error), None
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._retry, pause)
                    self._retry = False
                pause = min(2 * pause, LONGEST_PAUSE_S)
            else:
                self._arrived(len(batch))
                pause = FIRST_PAUSE_S

    def _next_batch(self) -> list[dict[str, object]]:
        with self._changed:
            if self._pending:
                self._request_began = time.monotonic()
            else:
                self._thread = None
            return list(islice(self._pending, MAX_BATCH))

    def _arrived(self, count: int) -> None:
        with self._changed:
            for _ in range(min(count, len(self._pending))):  # none after `close`
                self._pending.popleft()
            self._in_file = max(0, self._in_file - count)
            self._error, self._request_began = "", None
            if self.file is not None and not self._in_file:
                self.file.unlink(missing_ok=True)
                self.file = None
            self._changed.notify_all()
