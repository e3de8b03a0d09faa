"""What is shown of judged claims: the Markdown report of one, and the table of several, for Markdown and the terminal."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning_modules.report.numbers import EMPTY, NumberFormatter, format_duration, format_interval, number_formatter
from lightning_modules.report.t_intervals import mean_interval, summarize
from lightning_modules.report.tables import escape_markdown, markdown_table, terminal_table
from lightning_modules.reproduction.claim import Claim, SeedValues, Verdict
from lightning_modules.reproduction.evidence import drop_nonfinite, largest_not_excluded
from lightning_modules.reproduction.verdict import Judgement
from lightning_modules.tracking.provenance_line import NO_PROVENANCE, RunProvenance

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("claim", "paper", "ours, 95 % interval (n)", "difference, 90 % interval", "tolerance", "verdict", "time")
_TEXT_COLUMNS = (0, 1, 2, 3, 5)
_SOURCE_KINDS = {
    "paper_table": "table", "repo_log": "repository's log", "secondary": "secondary source", "internal": "own runs",
}  # fmt: skip
Ends = tuple[float | None, float | None] | None


def format_published(claim: Claim) -> str:
    """``92.3 %``, ``87.398 ± 0.167 (n 10)``, ``lottery 75.00 % > dense``, ``equal``."""
    unit = f" {claim.unit}" if claim.unit else ""
    if claim.kind == "equivalence":
        return "equal"
    if claim.kind == "ordering":
        sign = " > " if claim.better == "higher" else " < "
        known = [(arm.name, arm.sample()) for arm in claim.arms]
        write = number_formatter(claim.unit, *(theirs.mean for _, theirs in known if theirs))
        return sign.join(f"{name} {write(theirs.mean)}{unit}" if theirs else name for name, theirs in known)
    theirs = claim.sample()
    if theirs is None:
        return EMPTY
    # numbers that are not computed here are shown as given
    write = number_formatter(claim.unit, theirs.mean) if claim.runs else "{:.7g}".format
    spread = f" ± {write(theirs.std)}" if theirs.has_spread else ""
    return f"{write(theirs.mean)}{spread}{unit}" + f" (n {theirs.n})" * (theirs.n > 1)


def claim_report(claim_id: str, claim: Claim, values: SeedValues, judgement: Judgement) -> str:
    """Verdict and reason, source, method, the value of each seed, and deviations from the source."""
    j, write = judgement, number_formatter(claim.unit, judgement.ours_mean, judgement.theirs, judgement.difference)
    surprise = "" if j.verdict in claim.expect else f" (expected: {', '.join(claim.expect)})"
    paper = f"{claim.paper.title} ({claim.paper.authors}, {claim.paper.year}), <{claim.paper.link}>"
    unit = f" in {claim.unit}" if claim.unit else ""
    at = f" at epoch {claim.epoch}" if claim.epoch else ""
    folds = f", each the mean of {claim.folds} folds" if claim.folds else ""
    ends = "from smallest to largest" if claim.kind == "equivalence" else "90 % interval"
    spread = f", standard deviation {write(j.ours_std)}" if j.ours_std is not None else ""
    facts = {
        "Paper": paper,
        "Source": f"{claim.source.place} ({claim.source.kind.replace('_', ' ')})",
        "Result": f"{claim.kind} of `{claim.metric}`{unit}{at}, {claim.better} is better; selection: {claim.selection}{folds}",
        "Published": format_published(claim),
        "Ours": f"{write(j.ours_mean)}{_named_interval(j.ours_interval, write)}{spread} (n {j.n})",
        "Difference": f"{write(j.difference, sign=True)}{_named_interval((j.low, j.high), write, ends, sign=True)}",
        "Largest difference not excluded": ""
        if j.theirs is None or j.low is None or j.high is None
        else write(largest_not_excluded((j.low, j.high))),
        "Tolerance": f"{EMPTY if j.tolerance is None else '±' + write(j.tolerance)} ({j.tolerance_why})",
        "Method": j.method,
        "Shortened": claim.shortened or "",
    }
    parts = [
        f"# {claim_id}: {j.verdict}{surprise}\n\n{j.reason}",
        "\n".join(f"- **{name}:** {text}" for name, text in facts.items() if text),
        f"## Values{unit}\n\n{_values_table(claim, values)}",
        f"## Deviations\n\n{_bullet_list(claim.deviations)}",
        f"## What the source does not say\n\n{_bullet_list(claim.unknowns)}",
    ]
    return "\n\n".join(parts) + "\n"


def claim_description(row: "ClaimRow", report: str) -> str:
    """The report for a run's page: MLflow shows the first lines of a description, and overlaps those of headings."""
    cells = [escape_markdown(cell) for cell in _row_cells(row)]
    table = markdown_table([*COLUMNS[5:6], *COLUMNS[1:5]], [[*cells[5:6], *cells[1:5]]], left=range(5))
    return f"{table}\n\n" + re.sub(r"^#+ (.*)$", r"**\1**", report, flags=re.MULTILINE)


def _named_interval(ends: Ends, write: NumberFormatter, name: str = "95 % interval", sign: bool = False) -> str:
    text = format_interval(ends, write, sign)
    return f", {name} {text}" if text else ""


def _values_table(claim: Claim, values: SeedValues) -> str:
    """A row per seed and one for the mean of the finite values with its 95 % interval; a column per arm."""
    arms = claim.arm_names
    whole = drop_nonfinite(values)
    known = [value for of_arm in whole.values() for value in of_arm.values()]
    # arms that should be equal differ only in their last digits
    write = "{:.9g}".format if claim.kind == "equivalence" else number_formatter(claim.unit, *known)
    seeds = list(dict.fromkeys([*claim.seeds, *(seed for arm in arms for seed in values.get(arm, {}))]))
    rows = [
        [str(seed), *(write(values[arm][seed]) if seed in values.get(arm, {}) else EMPTY for arm in arms)]
        for seed in seeds
    ]
    samples = [summarize(list(whole.get(arm, {}).values())) for arm in arms]
    means = [write(s.mean) + _named_interval(mean_interval(s), write) if s else EMPTY for s in samples]
    header = ["seed", *(arm or claim.metric for arm in arms)]
    return markdown_table(header, [*rows, ["mean", *means]])


def _bullet_list(texts: Sequence[str]) -> str:
    return "\n".join(f"- {' '.join(text.split())}" for text in texts) or "None known."


# --- the table -----------------------------------------------------------------------------------------------------
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


def rows_to_markdown(rows: Sequence[ClaimRow]) -> str:
    """The table, and a line with dates, commits, machines and versions of its runs, and the command."""
    lines = []
    for row in rows:
        *front, verdict, time = (escape_markdown(cell) for cell in _row_cells(row))
        lines.append([*front, verdict if row.expected else f"**{verdict}**", time])
    return f"{markdown_table(COLUMNS, lines, left=_TEXT_COLUMNS)}\n\n{_footer(rows)}\n"


def _footer(rows: Sequence[ClaimRow]) -> str:
    origins = [row.origin for row in rows]
    days = sorted({origin.date for origin in origins if origin.date})
    commits = list(dict.fromkeys(commit for origin in origins for commit in origin.commit.split()))
    run = " to ".join(dict.fromkeys((days[0], days[-1]))) if days else ""
    at = f"at {', '.join(commits[:4])}{' …' * (len(commits) > 4)}" if commits else ""
    folders = {row.claim_id.rpartition("/")[0] for row in rows}
    again = f"touchstone reproduce {folders.pop() if len(folders) == 1 else 'all'}"
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
