"""What was measured while a round of a lottery ticket was trained: the last value, the best, and the best by validation."""

from collections.abc import Mapping
from typing import Any

from lightning_modules.config.metric_direction import higher_is_better


class RoundMetrics:
    """Follows ``test/<metric>`` over the validations of one round, where ``data.watch_test=true`` measures it there.

    `named` gives three values of each, so that what a selection rule is worth can be seen in one run:
    ``test/accuracy`` (after the last step), ``test/accuracy_best`` (the best on test, which flatters) and
    ``test/accuracy_best_val`` (where ``val/accuracy`` was best; only with a validation part).
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the round before."""
        self._last: dict[str, float] = {}
        self._best: dict[str, float] = {}
        self._by_val: dict[str, float] = {}
        self._val: dict[str, float] = {}  # the best on validation so far

    def update(self, metrics: Mapping[str, Any]) -> None:
        """Take in the metrics of a validation, by name; those of single classes or targets are left out.

        A metric of unknown direction has a last value and no best one."""
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
                if self._val[name] != known:  # of equally good ones the first counts
                    self._by_val[name] = float(value)

    def named(self) -> dict[str, float]:
        """All values by name; none where the test part was not watched."""
        best = {f"{name}_best": value for name, value in self._best.items()}
        return {**self._last, **best, **{f"{name}_best_val": value for name, value in self._by_val.items()}}

    def state_dict(self) -> dict[str, dict[str, float]]:
        """Plain values, for a round that is resumed."""
        return {"last": self._last, "best": self._best, "by_val": self._by_val, "val": self._val}

    def load_state_dict(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Go on from there."""
        self._last, self._best = dict(state["last"]), dict(state["best"])
        self._by_val, self._val = dict(state["by_val"]), dict(state["val"])


def _better(name: str, new: float, known: float | None) -> float:
    if known is None:
        return new
    return max(new, known) if higher_is_better(name) else min(new, known)
