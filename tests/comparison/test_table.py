import csv
import io
import itertools
import re
from typing import Any

import numpy as np
import pytest

from lightning_modules.comparison import publish, table
from lightning_modules.comparison.plot import MAX_GROUPS, plot_comparison
from lightning_modules.comparison.result import Comparison, Difference, Row
from lightning_modules.report.statistics import Interval


def row(value: str, points: tuple[float, ...], **more: Any) -> Row:
    mean = sum(points) / len(points) if points else None
    std = float(np.std(points, ddof=1)) if len(points) > 1 else None
    interval = Interval(min(points), max(points)) if points else None
    return Row((value,), points, mean, std, interval, more.pop("not_finite", 0), ("f" * 32,), **more)


def comparison(*rows: Row, metric: str = "test/accuracy", lower: bool = False, by: str = "model") -> Comparison:
    baseline = "model=mlp" if any(one.is_baseline for one in rows) else None
    return Comparison(metric, lower, (by,), baseline, rows, ("a note",), None, "0")


TESTED = comparison(
    row("cnn_[1] & 5%", (0.9, 0.92), difference=Difference(2, 0.1, Interval(0.09, 0.11), 0.03125, 0.04)),
    row("vit|*x*", (), not_finite=2, difference=Difference(0, None, None, None)),
    row("mlp", (0.8, 0.82), is_baseline=True),
)


def test_markdown_escapes_and_marks_what_is_significant() -> None:
    text = table.to_markdown(TESTED)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 5
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {11}
    assert r"cnn\_\[1\] & 5%" in text
    assert "**0.0400**" in text
    assert "0 (+2 not finite)" in text
    assert "\n- a note\n" in text


def test_latex_is_a_booktabs_tabular_with_every_special_letter_escaped() -> None:
    text = table.to_latex(TESTED)
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert r"\begin{tabular}{lrrrrrrrrr}" in text
    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}"))
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {9}
    assert body[1].startswith(r"cnn\_{[}1{]} \& 5\% & 2 & 0.910 & 0.014 & {[}0.900, 0.920{]} & +0.100 &")
    assert not re.search(r"(?<!\\)[#$%_^~](?!-)", "".join(body).replace("$-$", ""))


def test_a_newline_in_a_value_breaks_no_format() -> None:
    odd = comparison(row("a\nb", (0.1, 0.2)))
    assert "a b" in table.to_markdown(odd)
    assert "a b &" in table.to_latex(odd)
    assert next(csv.DictReader(io.StringIO(table.to_csv(odd))))["model"] == "a\nb"


def test_csv_holds_every_number_in_full() -> None:
    rows = list(csv.DictReader(io.StringIO(table.to_csv(TESTED))))
    best, vit, mlp = rows
    assert [float(value) for value in best["values"].split()] == [0.9, 0.92]
    assert float(best["mean"]) == TESTED.rows[0].mean
    assert (best["p"], best["difference_low"], best["is_baseline"]) == ("0.03125", "0.09", "False")
    assert (vit["mean"], vit["p"], vit["pairs"], vit["not_finite"]) == ("", "", "0", "2")
    assert (mlp["is_baseline"], mlp["difference"]) == ("True", "")


def test_decimals_follow_the_spread_of_the_seeds() -> None:
    def shown(*points: float) -> str:
        return table.formatter(comparison(row("x", points)))(points[0])

    assert shown(0.91234, 0.91834) == "0.9123"
    assert shown(3.2e-5, 3.9e-5) == "0.0000320"
    assert shown(52.0, 97.0) == "52.00"
    assert shown(4.2e9, 5e9) == "4.2e+09"
    assert shown(0.5) == "0.5000"


@pytest.mark.parametrize("groups", [1, 2, 30, 200])
def test_the_picture_shows_every_seed_up_to_a_readable_number_of_groups(groups: int) -> None:
    rows = [row(f"m{i}", tuple(0.9 - 0.001 * i + 0.01 * j for j in range(5))) for i in range(groups)]
    figure = plot_comparison(
        comparison(*rows, row("mlp", (0.1, 0.1, 0.1), is_baseline=True), row("nan", (), not_finite=1))
    )
    axes = figure.axes[0]
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels[0] == "m0  n=5"
    assert labels[-1] == "mlp (baseline)  n=3"
    assert len(labels) == min(groups, MAX_GROUPS) + 1
    assert len(axes.collections[0].get_offsets()) == 5
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axes.get_yticklabels()]
    assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))
    assert figure.get_size_inches()[1] < 20


def test_a_diverged_group_gets_a_logarithmic_axis_and_no_value_an_empty_one() -> None:
    rows = row("a", (0.1, 0.2)), row("b", (900.0, 1000.0))
    assert plot_comparison(comparison(*rows, metric="test/loss", lower=True)).axes[0].get_xscale() == "log"
    assert plot_comparison(comparison(row("a", (0.1, 0.2)))).axes[0].get_xscale() == "linear"
    assert plot_comparison(comparison(row("a", ()))).axes[0].get_xscale() == "linear"


def test_the_terminal_shows_the_best_rows_and_the_baseline_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row(f"[red]m{i}", (0.9 - 0.001 * i,)) for i in range(table.MAX_TERMINAL_ROWS + 10)]
    publish.print_comparison(comparison(*rows, row("mlp", (0.1,), is_baseline=True)))
    text = capsys.readouterr().out
    assert "[red]m0 " in text
    assert f"[red]m{table.MAX_TERMINAL_ROWS} " not in text
    assert "baseline" in text
    assert "- a note" in text
    assert "11 more rows are in the files" in text
