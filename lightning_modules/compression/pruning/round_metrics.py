"""Test metrics over one round of lottery-ticket training: the last, the best, and the best by validation."""

from collections.abc import Mapping
from typing import Any

from lightning_modules.config.metric_direction import higher_is_better


class RoundMetrics:
    """Follows ``test/<metric>`` over the validations of one round, if ``data.watch_test=true`` measures it.

    `named` returns three values of each metric, which shows the effect of the selection rule: ``test/accuracy`` (after
    the last step), ``test/accuracy_best`` (the best on test, which is optimistic) and ``test/accuracy_best_val`` (where
    ``val/accuracy`` was best; only with a validation set).
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start a new round."""
        self._last: dict[str, float] = {}
        self._best: dict[str, float] = {}
        self._by_val: dict[str, float] = {}
        self._val: dict[str, float] = {}  # the best on validation so far

    def update(self, metrics: Mapping[str, Any]) -> None:
        """Add the metrics of one validation; those of single classes or targets are ignored.

        A metric of unknown direction has a last value only.
        """
        for name, value in metrics.items():
            part, _, metric = name.partition("/")
            if part != "test" or "/" in metric:
                continue
            self._last[name] = float(value)
            if higher_is_better(name) is None:
                continue
            self._best[name] = _better(name, float(value), self._best.get(name))
            if (val := metrics.get(f"val/{metric}")) is not None:
                known = self._val.get(name)
                self._val[name] = _better(name, float(val), known)
                if self._val[name] != known:  # of equal values the first counts
                    self._by_val[name] = float(value)

    def named(self) -> dict[str, float]:
        """All values by name; empty if test metrics were not measured."""
        best = {f"{name}_best": value for name, value in self._best.items()}
        return {**self._last, **best, **{f"{name}_best_val": value for name, value in self._by_val.items()}}

    def state_dict(self) -> dict[str, dict[str, float]]:
        """Plain values, to resume a round."""
        return {"last": self._last, "best": self._best, "by_val": self._by_val, "val": self._val}

    def load_state_dict(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Restore the values of a resumed round."""
        self._last, self._best = dict(state["last"]), dict(state["best"])
        self._by_val, self._val = dict(state["by_val"]), dict(state["val"])


def _better(name: str, new: float, known: float | None) -> float:
    if known is None:
        return new
    return max(new, known) if higher_is_better(name) else min(new, known)
