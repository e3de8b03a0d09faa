import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.cli.curve import build_curve, curve_markdown, plot_curve, write_curve_files, write_curve_section
from lightning_modules.config.errors import UserError

Make = Callable[..., str]
Ask = Callable[..., Any]


def low_data(add: Make, parent: str) -> None:
    """Two arms at three fractions with five seeds; at 1 % augmentation helps by 0.1, at 100 % not at all."""
    for fraction, gain in ((0.01, 0.1), (0.1, 0.05), (1.0, 0.0)):
        for arm in ("none", "image_basic"):
            for seed in range(5):
                swept = {"data.fraction": fraction, "augmentation": arm, "seed": seed}
                value = 0.5 + 0.2 * fraction + 0.01 * seed + (gain + 0.001 * (seed - 2)) * (arm != "none")
                tags = {"mlflow.parentRunId": parent, "sweep.trial": "0", "sweep.params": json.dumps(swept)}
                add(swept, {"test/accuracy": value}, **tags)


@pytest.fixture
def curve(add: Make, add_parent: Make, ask: Ask) -> Any:
    parent = add_parent(["data.fraction", "augmentation", "seed"])
    low_data(add, parent)
    return build_curve(ask(parent), "data.fraction", "none")


def test_the_table_has_a_row_for_each_fraction_and_the_paired_difference(curve: Any) -> None:
    head, _, one, ten, whole = curve_markdown(curve).splitlines()
    assert head == "| data.fraction | n | none | image_basic | image_basic − none |"
    assert one.startswith("| 0.01 | 5 | 0.522 [0.5")
    assert "**+0.100 [" in one and "**+0.050 [" in ten
    assert "**" not in whole, "no difference: its interval holds 0"


def test_the_picture_has_a_line_for_each_arm_on_a_logarithmic_axis(curve: Any) -> None:
    (axes,) = plot_curve(curve).axes
    lines = {line.get_label(): line.get_xydata() for line in axes.get_lines()}
    assert list(lines) == ["none", "image_basic"]
    assert lines["none"][:, 1].tolist() == pytest.approx([0.522, 0.54, 0.72])
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.01", "0.1", "1"]


def test_what_a_table_is_not_by_or_is_no_number_is_refused(add: Make, add_parent: Make, ask: Ask) -> None:
    parent = add_parent(["data.fraction", "augmentation", "seed"])
    low_data(add, parent)
    for key, reference, message in (
        ("data.fracton", None, "did you mean data.fraction|data.fraction"),
        ("augmentation", None, "is not a number"),
        ("data.fraction", "nothing", "no such line"),
    ):
        with pytest.raises(UserError, match=message):
            build_curve(ask(parent), key, reference)


def test_a_missing_arm_leaves_a_gap(add: Make, add_parent: Make, ask: Ask) -> None:
    parent = add_parent(["data.fraction", "augmentation", "seed"])
    low_data(add, parent)
    swept = {"data.fraction": 0.3, "augmentation": "none", "seed": 0}
    add(
        swept,
        {"test/accuracy": 0.6},
        **{"mlflow.parentRunId": parent, "sweep.trial": "9", "sweep.params": json.dumps(swept)},
    )
    lonely = curve_markdown(build_curve(ask(parent), "data.fraction", "none")).splitlines()[4]
    assert lonely == "| 0.3 | 1 | 0.600 | – | – |"


def test_it_is_written_between_the_marks_of_a_file_with_its_picture_and_origin(curve: Any, tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text("# Title\n\n<!-- digits -->\nold\n<!-- /digits -->\n\nthe end\n")
    write_curve_section(curve, file, "digits")
    text = file.read_text()
    assert "| 0.01 | 5 |" in text and "old" not in text and text.endswith("the end\n")
    assert "`test/accuracy` (higher is better)" in text and "30 runs, " in text
    assert (tmp_path / "digits.png").stat().st_size > 5000
    with pytest.raises(UserError, match="a line <!-- trec -->"):
        write_curve_section(curve, file, "trec")
    names = [path.name for path in write_curve_files(curve, tmp_path / "out")]
    assert names == ["test_accuracy_along_data.fraction.md", "test_accuracy_along_data.fraction.png"]
