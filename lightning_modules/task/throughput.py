"""How many samples a run trains on in a second."""

import time


class Throughput:
    """A clock of one epoch: begun before its first batch, read before what is not training, as validation."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._samples = 0

    def begin(self) -> None:
        self._since, self._samples = time.perf_counter(), 0

    def add(self, samples: int) -> None:
        self._samples += samples

    def read(self) -> float | None:
        """Samples a second since `begin`, once; None where it was read already, or nothing was trained on."""
        since, self._since = self._since, None
        return self._samples / (time.perf_counter() - since) if since is not None and self._samples else None
