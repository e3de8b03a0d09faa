"""The table of verdicts, its place in a Markdown file, and the report of one claim."""

import io
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from claim_builder import make_claim, values_by_seed
from rich.console import Console

from lightning_modules.config.errors import UserError
from lightning_modules.report.markdown_section import replace_section
from lightning_modules.report.numbers import format_duration, number_formatter
from lightning_modules.reproduction.claim import Claim
from lightning_modules.reproduction.claim_report import claim_report, format_published
from lightning_modules.reproduction.evidence import Values
from lightning_modules.reproduction.verdict import judge
from lightning_modules.reproduction.verdict_table import COLUMNS, ClaimRow, rows_to_markdown, rows_to_terminal

ROW = ClaimRow(
    "mnist1d/cnn", "Greydanus 2024", "notebook", "test/accuracy", "%", "92.3 %", 93.4312, 92.1, 94.76, 5, 1.1312, -0.2,
    2.4567, 1.0, "CONSISTENT", True, 754.0, "2026-01-02", "abc1234",
)  # fmt: skip
ORDERED = [{"name": "lottery", "runs": [75.6, 74.4]}, {"name": "dense", "value": 65.6}, {"name": "random"}]
BEFORE = "# Title\n\n<!-- claims -->\nold\n<!-- /claims -->\nafter\n"


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
    assert cells(replace(ROW, verdict=verdict, expected=expected))[2][5] == shown


def test_what_was_not_measured_is_a_dash() -> None:
    nothing = dict.fromkeys(("ours_mean", "ours_low", "ours_high", "difference", "low", "high", "tolerance", "seconds"))
    row = cells(replace(ROW, **nothing, n=0, verdict="INVALID"))[2]  # type: ignore[arg-type]
    assert row[2:5] == ["– (0)", "–", "–"]
    assert row[6] == "–"


def test_an_ordering_and_an_equivalence_say_what_their_numbers_are() -> None:
    assert cells(replace(ROW, kind="ordering"))[2][2].startswith("closest two: 93.43 %")
    assert (
        cells(replace(ROW, kind="equivalence", unit="", ours_mean=-2e-8, low=-1e-7, high=3e-8))[2][3]
        == "at most 1.0e-07"
    )


def test_every_line_has_as_many_cells_whatever_stands_in_them() -> None:
    odd = replace(ROW, claim_id="a|b_*c*", theirs="x < y > z", paper="[a](b) | `c`\nd")
    text = rows_to_markdown([ROW, odd])
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {8}
    assert r"\[a\](b) \| \`c\` d" in text


def test_below_the_table_stand_dates_commits_circumstances_and_the_command() -> None:
    later = replace(ROW, date="2026-01-05", commit="abc1234 def5678+")
    below = rows_to_markdown([replace(row, machine="2 cores, torch 2.9") for row in (later, ROW)]).splitlines()[-1]
    assert below == (
        "Run 2026-01-02 to 2026-01-05 at abc1234, def5678+. 2 cores, torch 2.9. again: `touchstone reproduce mnist1d`"
    )
    assert "`touchstone reproduce all`" in rows_to_markdown([ROW, replace(ROW, claim_id="other/x")])
    assert "again: `make it`" in rows_to_markdown([replace(ROW, date="", commit="")], command="make it")


def test_a_row_is_plain_values() -> None:
    assert ClaimRow(**asdict(ROW)) == ROW


def test_the_terminal_has_the_same_cells_and_red_where_nobody_expected_it() -> None:
    console = Console(file=io.StringIO(), width=200, record=True, force_terminal=True)
    console.print(rows_to_terminal([ROW, replace(ROW, claim_id="[red]x", expected=False)]))
    shown = console.export_text(clear=False)
    assert all(word in shown for word in (*COLUMNS, "[red]x", "93.43 % [92.10, 94.76] (5)", "NOT EXPECTED"))
    assert "\x1b[1;31m" in console.export_text(styles=True)


@pytest.mark.parametrize(
    ("unit", "value", "shown"),
    [
        ("%", 93.4312, "93.43"),
        ("", 87.30216, "87.302"),
        ("", 0.93667, "0.9367"),
        ("", 4.0, "4.0000"),
        ("", 1234.56, "1234.6"),
        ("", 123456.7, "123457"),
        ("", 1.234e12, "1.234e+12"),
        ("", 2.34e-7, "2.3e-07"),
        ("", 0.0, "0"),
        ("%", 0.0, "0.00"),
        ("%", 0.0012, "0.0012"),
        ("%", -5e-17, "0.00"),
        ("%", 1e300, "1e+300"),
    ],
)
def test_numbers_have_the_digits_that_mean_something(unit: str, value: float, shown: str) -> None:
    seen = 93.0 if unit == "%" else value
    assert number_formatter(unit, seen)(value) == shown


def test_all_numbers_of_a_claim_have_the_digits_of_its_largest() -> None:
    write = number_formatter("", 87.302, 87.4, None, float("nan"))
    assert [write(value, sign=True) for value in (87.302, 0.0712, -0.25, 0.0)] == [
        "+87.302",
        "+0.071",
        "-0.250",
        "0.000",
    ]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "–"), (0.42, "0.42 s"), (48.4, "48 s"), (754.0, "13 min"), (12240.0, "3.4 h")],
)
def test_times_are_rounded(seconds: float | None, shown: str) -> None:
    assert format_duration(seconds) == shown


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


@pytest.fixture
def readme(tmp_path: Path) -> Callable[[str], Path]:
    def make(text: str) -> Path:
        (tmp_path / "README.md").write_bytes(text.encode())
        return tmp_path / "README.md"

    return make


def test_only_what_stands_between_the_marks_is_replaced(readme: Callable[[str], Path]) -> None:
    file = readme(BEFORE)
    assert replace_section(file, "new\ntable\n")
    wanted = "# Title\n\n<!-- claims -->\n\nnew\ntable\n\n<!-- /claims -->\nafter\n"
    assert file.read_text() == wanted
    assert not replace_section(file, "new\ntable\n")
    assert file.read_text() == wanted
    assert [path.name for path in file.parent.iterdir()] == ["README.md"]


def test_marks_inside_a_line_and_other_marks_are_left_alone(readme: Callable[[str], Path]) -> None:
    file = readme(f"between `<!-- claims -->` and `<!-- /claims -->`\n<!-- other -->\nx\n<!-- /other -->\n{BEFORE}")
    replace_section(file, "new")
    assert "between `<!-- claims -->` and" in file.read_text()
    assert "<!-- other -->\nx\n<!-- /other -->" in file.read_text()
    assert replace_section(file, "y", mark="other")
    assert "<!-- other -->\n\ny\n\n<!-- /other -->" in file.read_text()


def test_line_ends_rights_and_links_stay(readme: Callable[[str], Path]) -> None:
    file = readme(BEFORE.replace("\n", "\r\n") + "ende: ü")
    file.chmod(0o640)
    link = file.with_name("link.md")
    link.symlink_to(file)
    replace_section(link, "a\nb")
    assert b"<!-- claims -->\r\n\r\na\r\nb\r\n\r\n<!-- /claims -->\r\nafter\r\nende: \xc3\xbc" in file.read_bytes()
    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("nothing\n", "none and none"),
        ("<!-- claims -->\n", "1 and none"),
        ("<!-- /claims -->\n<!-- claims -->\n", "2 and 1"),
        (BEFORE + BEFORE, "3, 9 and 5, 11"),
    ],
)
def test_missing_reversed_and_doubled_marks_are_told_and_nothing_is_written(
    readme: Callable[[str], Path], text: str, lines: str
) -> None:
    file = readme(text)
    with pytest.raises(UserError, match=f"README.md.*<!-- claims -->.*<!-- /claims -->.*{lines}"):
        replace_section(file, "new")
    assert file.read_text() == text


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent"):
        replace_section(tmp_path / "absent.md", "x")


def test_a_write_that_fails_leaves_the_old_file(readme: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    file = readme(BEFORE)

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space"):
        replace_section(file, "new")
    assert file.read_text() == BEFORE
    assert [path.name for path in file.parent.iterdir()] == ["README.md"]


def report(claim: Claim, values: Values) -> str:
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
