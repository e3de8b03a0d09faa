"""The table of verdicts and the report of one claim."""

import io
import re
from dataclasses import replace
from typing import Any

import pytest
from claim_builder import make_claim, values_by_seed
from rich.console import Console

from lightning_modules.reproduction.claim import Claim, SeedValues, Verdict
from lightning_modules.reproduction.claim_report import (
    COLUMNS,
    ClaimRow,
    claim_description,
    claim_report,
    format_published,
    rows_to_markdown,
    rows_to_terminal,
)
from lightning_modules.reproduction.verdict import Judgement, judge
from lightning_modules.tracking.provenance_line import RunProvenance

PAPER = {"title": "T", "authors": "Sam Greydanus, D. Kobak", "year": 2024, "link": "https://example.org"}
JUDGED = Judgement(
    verdict=Verdict.CONSISTENT, method="", ours_mean=93.4312, ours_std=1.0, n=5, theirs=92.3, difference=1.1312, low=-0.2,
    high=2.4567, tolerance=1.0, tolerance_why="", ours_interval=(92.1, 94.76), reason="",
)  # fmt: skip
ROW = ClaimRow(
    "mnist1d/cnn",
    make_claim(paper=PAPER, source={"place": "x", "kind": "notebook"}, value=92.3, expect="CONSISTENT"),
    JUDGED, 754.0, RunProvenance("2026-01-02", "abc1234", ""),
)  # fmt: skip
EQUAL = {"kind": "equivalence", "arms": [{"name": "a"}, {"name": "b"}], "tolerance": {"value": 1, "why": "w"}}
ORDERED = [{"name": "lottery", "runs": [75.6, 74.4]}, {"name": "dense", "value": 65.6}, {"name": "random"}]


def judged(**changes: Any) -> ClaimRow:
    return replace(ROW, judged=replace(JUDGED, **changes))


def cells(*rows: ClaimRow) -> list[list[str]]:
    text = rows_to_markdown(rows)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip().replace("\\", "") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_a_row_has_the_numbers_of_both_and_where_theirs_come_from() -> None:
    header, _, row = cells(ROW)
    assert header == list(COLUMNS)
    assert row == [
        "mnist1d/cnn", "92.3 % (Greydanus 2024, notebook)", "93.43 % [92.10, 94.76] (5)", "+1.13 [-0.20, +2.46]",
        "±1.00", "CONSISTENT within 2.46 (expected)", "13 min",
    ]  # fmt: skip


def test_the_page_of_a_claim_begins_with_its_row_and_has_no_heading() -> None:
    page = claim_description(ROW, claim_report(ROW.claim_id, ROW.claim, {"": {0: 93.4}}, JUDGED))
    head, _, row, *rest = page.splitlines()
    assert head.startswith("| verdict | paper | ours, 95 % interval (n) |")
    assert row.startswith("| CONSISTENT within 2.46 (expected) | 92.3 % (Greydanus 2024, notebook) | 93.43 % ")
    assert not [line for line in rest if line.startswith("#")], "MLflow overlaps the lines of headings"
    assert "**mnist1d/cnn: CONSISTENT**" in rest and "**Deviations**" in rest


@pytest.mark.parametrize(
    ("verdict", "expected", "shown"),
    [
        ("REPRODUCED", True, "REPRODUCED"),
        ("NOT_REPRODUCED", True, "NOT_REPRODUCED (expected)"),
        ("BETTER", False, "**BETTER (NOT EXPECTED)**"),
        ("REPRODUCED", False, "**REPRODUCED (NOT EXPECTED)**"),
    ],
)
def test_a_verdict_that_was_not_expected_is_bold(verdict: str, expected: bool, shown: str) -> None:
    claim = make_claim(value=92.3, expect=verdict if expected else "INVALID")
    assert cells(replace(judged(verdict=Verdict(verdict)), claim=claim))[2][5] == shown


def test_what_was_not_measured_is_a_dash() -> None:
    nothing = dict.fromkeys(("ours_mean", "ours_interval", "difference", "low", "high", "tolerance"))
    row = cells(replace(judged(**nothing, n=0, verdict=Verdict.INVALID), seconds=None))[2]
    assert row[2:5] == ["– (0)", "–", "–"]
    assert row[6] == "–"


def test_an_ordering_and_an_equivalence_say_what_their_numbers_are() -> None:
    assert cells(replace(ROW, claim=make_claim(kind="ordering", arms=ORDERED)))[2][2].startswith("closest two: 93.43 %")
    equal = replace(
        judged(ours_mean=-2e-8, difference=-2e-8, low=-1e-7, high=3e-8), claim=make_claim(**EQUAL, unit=None)
    )
    assert cells(equal)[2][3] == "at most 1.0e-07"


def test_every_line_has_as_many_cells_whatever_stands_in_them() -> None:
    odd = make_claim(value=1.0, unit="x < y > z", paper={**PAPER, "authors": "[a](b)|`c`_d"})
    odd = replace(ROW, claim_id="a|b_*c*", claim=odd)
    text = rows_to_markdown([ROW, odd])
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {8}
    assert r"\[a\](b)\|\`c\`\_d" in text


def test_below_the_table_stand_dates_commits_circumstances_and_the_command() -> None:
    origins = [RunProvenance("2026-01-05", "abc1234 def5678+", "2 cores, torch 2.9"), ROW.origin]
    below = rows_to_markdown([replace(ROW, origin=origin) for origin in origins]).splitlines()[-1]
    assert below == (
        "Run 2026-01-02 to 2026-01-05 at abc1234, def5678+. 2 cores, torch 2.9. again: `touchstone reproduce mnist1d`"
    )
    assert "`touchstone reproduce all`" in rows_to_markdown([ROW, replace(ROW, claim_id="other/x")])


def test_the_terminal_has_the_same_cells_and_red_where_nobody_expected_it() -> None:
    console = Console(file=io.StringIO(), width=200, record=True, force_terminal=True)
    console.print(rows_to_terminal([ROW, replace(ROW, claim_id="[red]x", claim=make_claim(value=92.3))]))
    shown = console.export_text(clear=False)
    assert all(word in shown for word in (*COLUMNS, "[red]x", "93.43 % [92.10, 94.76] (5)", "NOT EXPECTED"))
    assert "\x1b[1;31m" in console.export_text(styles=True)


@pytest.mark.parametrize(
    ("claim", "text"),
    [
        (make_claim(value=92.3), "92.3 %"),
        (make_claim(value=77.1, std=8.3, n=13), "77.1 ± 8.3 % (n 13)"),
        (make_claim(runs=[87.2, 87.4, 87.6], unit=None), "87.400 ± 0.200 (n 3)"),
        (make_claim(runs=[0.961127], unit=None), "0.9611"),
        (make_claim(kind="ordering", arms=ORDERED), "lottery 75.00 % > dense 65.60 % > random"),
        (make_claim(kind="ordering", better="lower", arms=[{"name": "svd"}, {"name": "bias"}]), "svd < bias"),
        (make_claim(kind="equivalence", arms=ORDERED, tolerance={"value": 1, "why": "w"}), "equal"),
    ],
)
def test_what_was_published_is_written_as_it_was(claim: Claim, text: str) -> None:
    assert format_published(claim) == text


def report(claim: Claim, values: SeedValues) -> str:
    return claim_report("paper/result", claim, values, judge(claim, values))


def test_a_report_says_all_that_is_needed_to_check_it() -> None:
    claim = make_claim(value=92.3, deviations=["another\nshuffle"], unknowns=["the seed"], folds=5, expect="BETTER")
    text = report(claim, {"": values_by_seed(93.1, 93.5, 92.1)})
    assert text.startswith("# paper/result: CONSISTENT (expected: BETTER)\n\nThe 90 % interval of the difference, [")
    for said in (
        "A Title (A. Author and B. Other, 2024), <https://example.org>", "table 1 (paper table)", "92.3 %",
        "selection: last", "mean of 5 folds", "±1.00 (one point, as no spread is published)", "prediction interval",
        "| 42 | 93.10 |", "| 46 | – |", "- another shuffle\n", "- the seed\n", "95 % interval", "standard deviation",
    ):  # fmt: skip
        assert said in text


def test_a_report_has_a_column_for_each_arm_and_all_digits_of_what_should_be_equal() -> None:
    arms = [{"name": "one"}, {"name": "two"}]
    claim = make_claim(kind="equivalence", unit=None, arms=arms, tolerance={"value": 1e-6, "why": "rounding"})
    text = report(claim, {"one": values_by_seed(0.5, 0.6, 0.7), "two": values_by_seed(0.5, 0.6000001, 0.7)})
    assert "| seed | one | two |" in text
    assert "| 43 | 0.6 | 0.6000001 |" in text
    assert "None known." in text


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("odd", [(), (float("nan"),), (float("inf"), 1e300)])
def test_a_report_of_few_or_odd_values_is_written_and_means_the_finite_ones(odd: tuple[float, ...]) -> None:
    claim = make_claim(value=92.3)
    assert "| mean | 92.00 |" in report(claim, {"": values_by_seed(92.0, *odd)})
    assert "| mean | – |" in report(claim, {"": values_by_seed(*odd)})
    assert "INCONCLUSIVE" in report(claim, {})
