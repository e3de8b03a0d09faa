"""Table of verdicts, for Markdown and the terminal."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning_modules.reproduction.claim import Verdict
from lightning_modules.reproduction.number import NONE, Written, duration, number_format

HEADER = ("claim", "paper", "ours, 95 % interval (n)", "difference, 90 % interval", "tolerance", "verdict", "time")
_KINDS = {
    "paper_table": "table",
    "repo_log": "repository's log",
    "secondary": "secondary source",
    "internal": "own runs",
}


@dataclass(frozen=True)
class ClaimRow:
    """A row of the table: plain values that can be stored as JSON, numbers in the claim's unit.

    Attributes:
        paper: short, ``Greydanus 2024``.
        theirs: the published result with its unit, from `published_text`.
        ours_low, ours_high: 95 % interval of our mean.
        low, high: 90 % interval of the difference.
        tolerance: None for an ordering.
        expected: whether the claim expects this verdict.
        seconds: total duration of the runs.
        date, commit, machine: provenance of the runs.
        kind: kind of the claim.
    """

    claim_id: str
    paper: str
    source_kind: str
    metric: str
    unit: str
    theirs: str
    ours_mean: float | None
    ours_low: float | None
    ours_high: float | None
    n: int
    difference: float | None
    low: float | None
    high: float | None
    tolerance: float | None
    verdict: str
    expected: bool
    seconds: float | None
    date: str = ""
    commit: str = ""
    machine: str = ""
    kind: str = "absolute"


def rows_to_markdown(rows: Sequence[ClaimRow], command: str = "") -> str:
    """The table, and a line with dates, commits, machines and versions of its runs, and the `command`."""
    lines = [[_escaped(cell) for cell in _cells(row)] for row in rows]
    marked = [[*line[:5], _marked(line[5], row), line[6]] for line, row in zip(lines, rows, strict=True)]
    rule = ["---", "---", "---", "---", "--:", "---", "--:"]
    table = "\n".join(f"| {' | '.join(line)} |" for line in [[*HEADER], rule, *marked])
    return f"{table}\n\n{_below(rows, command)}\n"


def _below(rows: Sequence[ClaimRow], command: str) -> str:
    days = sorted({row.date for row in rows if row.date})
    commits = list(dict.fromkeys(commit for row in rows for commit in row.commit.split()))
    run = " to ".join(dict.fromkeys((days[0], days[-1]))) if days else ""
    at = f"at {', '.join(commits[:4])}{' …' * (len(commits) > 4)}" if commits else ""
    folders = {row.claim_id.rpartition("/")[0] for row in rows}
    again = command or f"touchstone reproduce {folders.pop() if len(folders) == 1 and rows else 'all'}"
    machines = "; ".join(dict.fromkeys(row.machine for row in rows if row.machine))
    said = [f"Run {run} {at}".strip() if run or at else "", _escaped(machines), f"again: `{again}`"]
    return ". ".join(" ".join(part.split()) for part in said if part)


def rows_to_terminal(rows: Sequence[ClaimRow]) -> Any:
    """A rich table, with unexpected verdicts in red."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title_justify="left")
    for place, name in enumerate(HEADER):
        table.add_column(Text(name), justify="right" if place in (4, 6) else "left", overflow="fold")
    for row in rows:
        style = "bold red" if not row.expected else "green" if row.verdict == Verdict.REPRODUCED else ""
        *front, verdict, time = (Text(cell) for cell in _cells(row))
        table.add_row(*front, Text(str(verdict), style=style), time)
    return table


def _cells(row: ClaimRow) -> list[str]:
    write = number_format(row.unit, row.ours_mean, *_numbers(row.theirs), row.difference)
    unit = f" {row.unit}" if row.unit else ""
    where = ", ".join(part for part in (row.paper, _KINDS.get(row.source_kind, row.source_kind)) if part)
    ours = f"{write(row.ours_mean)}{unit}" if row.ours_mean is not None else NONE
    ours = f"closest two: {ours}" if row.kind == "ordering" and row.n else ours
    difference = f"{write(row.difference, sign=True)}{_between(row.low, row.high, write, sign=True)}"
    if row.kind == "equivalence" and row.low is not None and row.high is not None:
        difference = f"at most {write(max(abs(row.low), abs(row.high)))}"
    expected = "" if row.verdict == Verdict.REPRODUCED else " (expected)"
    return [
        row.claim_id,
        f"{row.theirs} ({where})",
        f"{ours}{_between(row.ours_low, row.ours_high, write)} ({row.n})",
        difference,
        NONE if row.tolerance is None else f"±{write(row.tolerance)}",
        f"{row.verdict}{_within(row, write)}{expected if row.expected else ' (NOT EXPECTED)'}",
        duration(row.seconds),
    ]


def _within(row: ClaimRow, write: Written) -> str:
    """For CONSISTENT, the largest difference that is not excluded."""
    if row.verdict != Verdict.CONSISTENT or row.tolerance is None or row.low is None or row.high is None:
        return ""
    return f" within {write(max(abs(row.low), abs(row.high)))}"


def _numbers(text: str) -> list[float]:
    """The first number of a text, which determines how many digits the others need."""
    return [float(found) for found in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?", text)[:1]]


def _between(low: float | None, high: float | None, write: Written, sign: bool = False) -> str:
    return "" if low is None or high is None else f" [{write(low, sign=sign)}, {write(high, sign=sign)}]"


def _marked(verdict: str, row: ClaimRow) -> str:
    return verdict if row.expected else f"**{verdict}**"


def _escaped(text: str) -> str:
    return re.sub(r"([\\|*_`<>\[\]])", r"\\\1", text).replace("\n", " ")
