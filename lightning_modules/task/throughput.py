"""Training samples per second."""

import time


class ThroughputTimer:
    """Measures one epoch: started before its first batch, read before validation or the end of the epoch."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._samples = 0

    def start(self) -> None:
        self._since, self._samples = time.perf_counter(), 0

    def add(self, samples: int) -> None:
        self._samples += samples

    def read(self) -> float | None:
        """Samples per second since `start`; None if it was already read, or without samples."""
        since, self._since = self._since, None
        return self._samples / (time.perf_counter() - since) if since is not None and self._samples else None
