"""Table of verdicts, for Markdown and the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning_modules.report.numbers import EMPTY, NumberFormatter, format_duration, format_interval, number_formatter
from lightning_modules.report.tables import escape_markdown, markdown_table, terminal_table
from lightning_modules.reproduction.claim import Verdict

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("claim", "paper", "ours, 95 % interval (n)", "difference, 90 % interval", "tolerance", "verdict", "time")
_TEXT_COLUMNS = (0, 1, 2, 3, 5)
_SOURCE_KINDS = {
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
        theirs_mean: the published number, for the number of digits; of an ordering, that of the first arm with one.
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
    theirs_mean: float | None = None


def rows_to_markdown(rows: Sequence[ClaimRow], command: str = "") -> str:
    """The table, and a line with dates, commits, machines and versions of its runs, and the `command`."""
    lines = []
    for row in rows:
        *front, verdict, time = (escape_markdown(cell) for cell in _row_cells(row))
        lines.append([*front, verdict if row.expected else f"**{verdict}**", time])
    return f"{markdown_table(COLUMNS, lines, left=_TEXT_COLUMNS)}\n\n{_footer(rows, command)}\n"


def _footer(rows: Sequence[ClaimRow], command: str) -> str:
    days = sorted({row.date for row in rows if row.date})
    commits = list(dict.fromkeys(commit for row in rows for commit in row.commit.split()))
    run = " to ".join(dict.fromkeys((days[0], days[-1]))) if days else ""
    at = f"at {', '.join(commits[:4])}{' …' * (len(commits) > 4)}" if commits else ""
    folders = {row.claim_id.rpartition("/")[0] for row in rows}
    again = command or f"touchstone reproduce {folders.pop() if len(folders) == 1 and rows else 'all'}"
    machines = "; ".join(dict.fromkeys(row.machine for row in rows if row.machine))
    parts = [f"Run {run} {at}".strip() if run or at else "", escape_markdown(machines), f"again: `{again}`"]
    return ". ".join(" ".join(part.split()) for part in parts if part)


def rows_to_terminal(rows: Sequence[ClaimRow]) -> "Table":
    """A rich table, with unexpected verdicts in red."""
    from rich.text import Text

    lines: list[list[str | Text]] = []
    for row in rows:
        style = "bold red" if not row.expected else "green" if row.verdict == Verdict.REPRODUCED else ""
        *front, verdict, time = _row_cells(row)
        lines.append([*front, Text(verdict, style=style), time])
    return terminal_table(COLUMNS, lines, left=_TEXT_COLUMNS)


def _row_cells(row: ClaimRow) -> list[str]:
    write = number_formatter(row.unit, row.ours_mean, row.theirs_mean, row.difference)
    unit = f" {row.unit}" if row.unit else ""
    where = ", ".join(part for part in (row.paper, _SOURCE_KINDS.get(row.source_kind, row.source_kind)) if part)
    ours = f"{write(row.ours_mean)}{unit}" if row.ours_mean is not None else EMPTY
    ours = f"closest two: {ours}" if row.kind == "ordering" and row.n else ours
    difference = f"{write(row.difference, sign=True)} {format_interval((row.low, row.high), write, sign=True)}".strip()
    if row.kind == "equivalence" and row.low is not None and row.high is not None:
        difference = f"at most {write(max(abs(row.low), abs(row.high)))}"
    expected = "" if row.verdict == Verdict.REPRODUCED else " (expected)"
    return [
        row.claim_id,
        f"{row.theirs} ({where})",
        " ".join(filter(None, (ours, format_interval((row.ours_low, row.ours_high), write), f"({row.n})"))),
        difference,
        EMPTY if row.tolerance is None else f"±{write(row.tolerance)}",
        f"{row.verdict}{_largest_difference(row, write)}{expected if row.expected else ' (NOT EXPECTED)'}",
        format_duration(row.seconds),
    ]


def _largest_difference(row: ClaimRow, write: NumberFormatter) -> str:
    """For CONSISTENT, the largest difference that is not excluded."""
    if row.verdict != Verdict.CONSISTENT or row.tolerance is None or row.low is None or row.high is None:
        return ""
    return f" within {write(max(abs(row.low), abs(row.high)))}"
