"""Tables show their texts as they are, whatever the format's special characters."""

import io
import re

import pytest
from rich.console import Console

from lightning_modules.report.tables import (
    escape_latex,
    escape_markdown,
    latex_table,
    markdown_table,
    open_console,
    terminal_table,
)


def test_a_markdown_table_aligns_numbers_right() -> None:
    assert markdown_table(["a", "b", "c"], [["x", "1", "2"]], left=(0, 2)) == "\n".join(
        ["| a | b | c |", "| --- | --: | --- |", "| x | 1 | 2 |"]
    )


@pytest.mark.parametrize("text", ["a|b", "*a*", "a_b", "`a`", "<a>", "[a](b)", r"a\b", "~a~", "# a"])
def test_markdown_has_no_special_character_left(text: str) -> None:
    escaped = escape_markdown(text)
    assert re.sub(r"\\(.)", r"\1", escaped) == text
    assert not re.search(r"(?<!\\)[|*_`<>\[\]~#]", escaped.replace("\\\\", ""))


def test_a_line_break_would_end_the_cell() -> None:
    assert escape_markdown("a\nb") == escape_latex("a\nb") == "a b"


def test_a_latex_table_escapes_its_cells_and_writes_a_true_minus() -> None:
    text = latex_table(["key", "value"], [["50 %_x", "-0.5"]])
    assert text.startswith("\\begin{tabular}{lr}\n\\toprule\nkey & value \\\\\n\\midrule\n")
    assert "50 \\%\\_x & $-$0.5 \\\\\n\\bottomrule" in text


def test_the_terminal_shows_brackets_as_they_are_and_styles_rows() -> None:
    console = Console(file=io.StringIO(), width=80, record=True, force_terminal=True)
    console.print(terminal_table(["name", "n"], [["[red]x", "1"], ["y", "2"]], styles=["bold", ""]))
    assert "[red]x" in console.export_text(clear=False)
    assert "\x1b[1m" in console.export_text(styles=True)


def test_output_to_a_file_is_wide() -> None:
    assert open_console(200).width >= 200


def test_a_table_that_is_too_wide_omits_constant_columns_and_names_them() -> None:
    columns = ["run", "best val/accuracy", "status", "error", "test/accuracy", "duration"]
    rows = [[f"run-{k} with a long name", f"0.9{k}", "FINISHED", "", "0.9912345678", f"{k} s"] for k in range(3)]

    def printed(width: int, rows: list[list[str]] = rows) -> list[str]:
        console = Console(file=io.StringIO(), width=width, record=True)
        console.print(terminal_table(columns, rows))
        return console.export_text().splitlines()

    narrow = printed(80)
    assert narrow[-1] == "all rows: status = FINISHED, error = (empty), test/accuracy = 0.9912345678"
    assert max(map(len, narrow)) <= 80 and "run-2 with a long name" in narrow[-3] and "FINISHED" not in narrow[-3]
    assert "FINISHED" in printed(120)[-2] and not printed(120)[-1].startswith("all rows")
    assert max(map(len, printed(80, rows[:1]))) <= 80  # one row: no column is omitted
    assert not printed(80, rows[:1])[-1].startswith("all rows")


def test_cells_that_are_too_wide_are_broken_at_separators() -> None:
    columns = ["run", "test/balanced_accuracy", "claim"]
    rows = [[f"mnist1d/mlp_shuffled_notebook lr=0.00{k} optimizer=adam", f"0.98{k}", f"reading {k}"] for k in range(2)]
    for count, width in ((1, 50), (2, 40)):
        console = Console(file=io.StringIO(), width=width, record=True)
        console.print(terminal_table(columns, rows[:count]))
        lines = console.export_text().splitlines()
        assert max(map(len, lines)) <= width
        words = set(re.findall(r"[^\s/_=,│┃]+", "\n".join(line for line in lines if line[0] in "│┃")))
        whole = set(re.findall(r"[^\s/_=,]+", " ".join([*columns, *(" ".join(row) for row in rows[:count])])))
        assert words == whole, words ^ whole  # none was cut
    console = Console(file=io.StringIO(), width=30, record=True)
    console.print(terminal_table(["name", "n"], [["x" * 60, "1"]]))  # nothing else is left
    assert console.export_text().count("x") == 60
