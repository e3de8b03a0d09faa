"""What all benchmarks share: interleaved repeats, ratios turn by turn, and the table that they are told in."""

import contextlib
import platform
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Row(NamedTuple):
    what: str
    ratios: Sequence[float]
    bar: float | None
    above: bool = False  # whether the bar is a lower bound
    note: str = ""

    @property
    def told(self) -> tuple[str, str, str, str]:
        """Median, range, bar and whether it is met, as text."""
        middle, low, high = statistics.median(self.ratios), min(self.ratios), max(self.ratios)
        met = middle >= (self.bar or 0) if self.above else middle <= (self.bar or middle)
        bar = (f"{'≥' if self.above else '≤'} {self.bar:g}", "met" if met else "NOT MET") if self.bar else ("–", "–")
        return f"{middle:.2f}", f"{low:.2f}–{high:.2f}", *bar

    def __str__(self) -> str:
        middle, spread, bar, met = self.told
        return f"| {self.what} | {len(self.ratios)} | {middle} | {spread} | {bar} | {met} | {self.note} |"

    @property
    def cell(self) -> str:
        """The same for one cell of a table: median (range), and the bar where there is one."""
        middle, spread, bar, met = self.told
        return f"{middle} ({spread})" + (f", {bar}: {met}" if self.bar else "")


def table(title: str, rows: Sequence[Row]) -> None:
    """Print rows as a Markdown table."""
    print(f"\n### {title}\n\n| what | n | median ratio | min–max | bar | | note |\n|---|---|---|---|---|---|---|")
    print(*rows, sep="\n", flush=True)


def interleaved(measures: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[Any]]:
    """Call all in turn, `repeats` times after one turn that does not count; return what each gave."""
    for measure in measures.values():
        measure()
    turns = [{name: measure() for name, measure in measures.items()} for _ in range(repeats)]
    return {name: [turn[name] for turn in turns] for name in measures}


def quotients(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """The ratio of each turn."""
    return [a / b for a, b in zip(numerators, denominators, strict=True)]


def processor() -> str:
    """The name of the CPU, where the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
