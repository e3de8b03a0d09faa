"""Table of verdicts, for Markdown and the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning_modules.report.numbers import EMPTY, format_duration, format_interval, number_formatter
from lightning_modules.report.tables import escape_markdown, markdown_table, terminal_table
from lightning_modules.reproduction.claim import Claim, Verdict
from lightning_modules.reproduction.claim_report import format_published
from lightning_modules.reproduction.evidence import largest_not_excluded
from lightning_modules.reproduction.verdict import Judgement
from lightning_modules.tracking.provenance_line import NO_PROVENANCE, RunProvenance

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("claim", "paper", "ours, 95 % interval (n)", "difference, 90 % interval", "tolerance", "verdict", "time")
_TEXT_COLUMNS = (0, 1, 2, 3, 5)
_SOURCE_KINDS = {
    "paper_table": "table", "repo_log": "repository's log", "secondary": "secondary source", "internal": "own runs",
}  # fmt: skip


@dataclass(frozen=True)
class ClaimRow:
    """A judged claim; `seconds` is the total duration of its runs."""

    claim_id: str
    claim: Claim
    judged: Judgement
    seconds: float | None = 0.0
    origin: RunProvenance = NO_PROVENANCE

    @property
    def expected(self) -> bool:
        """Whether the claim expects this verdict."""
        return self.judged.verdict in self.claim.expect


def rows_to_markdown(rows: Sequence[ClaimRow], command: str = "") -> str:
    """The table, and a line with dates, commits, machines and versions of its runs, and the `command`."""
    lines = []
    for row in rows:
        *front, verdict, time = (escape_markdown(cell) for cell in _row_cells(row))
        lines.append([*front, verdict if row.expected else f"**{verdict}**", time])
    return f"{markdown_table(COLUMNS, lines, left=_TEXT_COLUMNS)}\n\n{_footer(rows, command)}\n"


def _footer(rows: Sequence[ClaimRow], command: str) -> str:
    origins = [row.origin for row in rows]
    days = sorted({origin.date for origin in origins if origin.date})
    commits = list(dict.fromkeys(commit for origin in origins for commit in origin.commit.split()))
    run = " to ".join(dict.fromkeys((days[0], days[-1]))) if days else ""
    at = f"at {', '.join(commits[:4])}{' …' * (len(commits) > 4)}" if commits else ""
    folders = {row.claim_id.rpartition("/")[0] for row in rows}
    again = command or f"touchstone reproduce {folders.pop() if len(folders) == 1 else 'all'}"
    machines = "; ".join(dict.fromkeys(origin.machine for origin in origins if origin.machine))
    parts = [f"Run {run} {at}".strip() if run or at else "", escape_markdown(machines), f"again: `{again}`"]
    return ". ".join(" ".join(part.split()) for part in parts if part)


def rows_to_terminal(rows: Sequence[ClaimRow]) -> "Table":
    """A rich table, with unexpected verdicts in red."""
    from rich.text import Text

    lines: list[list[str | Text]] = []
    for row in rows:
        style = "bold red" if not row.expected else "green" if row.judged.verdict == Verdict.REPRODUCED else ""
        *front, verdict, time = _row_cells(row)
        lines.append([*front, Text(verdict, style=style), time])
    return terminal_table(COLUMNS, lines, left=_TEXT_COLUMNS)


def _row_cells(row: ClaimRow) -> list[str]:
    claim, j = row.claim, row.judged
    samples = (part.sample() for part in (claim.arms if claim.kind == "ordering" else (claim,)))
    published = next((sample.mean for sample in samples if sample), None)
    write = number_formatter(claim.unit, j.ours_mean, published, j.difference)
    ours = EMPTY if j.ours_mean is None else f"{write(j.ours_mean)} {claim.unit}".strip()
    ours = f"closest two: {ours}" if claim.kind == "ordering" and j.n else ours
    difference = f"{write(j.difference, sign=True)} {format_interval((j.low, j.high), write, sign=True)}".strip()
    largest = "" if j.low is None or j.high is None else write(largest_not_excluded((j.low, j.high)))
    if claim.kind == "equivalence" and largest:
        difference = f"at most {largest}"
    within = f" within {largest}" if j.verdict == Verdict.CONSISTENT and j.tolerance is not None and largest else ""
    expected = "" if j.verdict == Verdict.REPRODUCED else " (expected)"
    return [
        row.claim_id,
        f"{format_published(claim)} ({cite(claim)}, {_SOURCE_KINDS.get(claim.source.kind, claim.source.kind)})",
        " ".join(filter(None, (ours, format_interval(j.ours_interval, write), f"({j.n})"))),
        difference,
        EMPTY if j.tolerance is None else f"±{write(j.tolerance)}",
        f"{j.verdict}{within}{expected if row.expected else ' (NOT EXPECTED)'}",
        format_duration(row.seconds),
    ]


def cite(claim: Claim) -> str:
    """``Greydanus 2024``: the first author's last name and the year."""
    first = claim.paper.authors.split(",")[0].split(" and ")[0].replace(" et al.", "").strip()
    return f"{first.split()[-1]} {claim.paper.year}"
