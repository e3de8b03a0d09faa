"""The picture of a claim: what stands in it, and that nothing stands on top of something else."""

import itertools
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
from claim_builder import make_claim, values_by_seed
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from lightning_modules.reproduction.claim import Claim, SeedValues
from lightning_modules.reproduction.claim_plot import plot_claim
from lightning_modules.reproduction.verdict import judge

ACCURACIES = values_by_seed(93.1, 94.2, 92.0, 93.9, 93.5)
LONG = "a_name_that_is_far_too_long_to_stand_beside_a_picture"
LOTTERY = {"name": "lottery", "runs": [75.6, 74.4]}
DENSE = {"name": "dense", "runs": [66.4, 64.8]}
TWO = {"lottery": values_by_seed(75, 74, 76, 75.5, 74.8), "dense": values_by_seed(65, 66, 66.5, 65.2, 64.1)}
TINY = {"value": 1e-6, "why": "rounding"}
SHORT = (
    "1,000 of the 10,000 steps, as one run of all takes 40 minutes on two cores and there are five of them to be run in "
    "an evening"
)

CASES: dict[str, tuple[Claim, SeedValues]] = {
    "runs": (make_claim(runs=[92.0, 93.0, 94.5, 93.3], unit=None), {"": ACCURACIES}),
    "mean and std": (make_claim(value=92.3, std=0.6, n=10), {"": ACCURACIES}),
    "one number": (make_claim(value=92.3), {"": ACCURACIES}),
    "curve": (make_claim(kind="curve", epoch=1, value=92.3), {"": ACCURACIES}),
    "far off": (make_claim(value=12.3), {"": ACCURACIES}),
    "difference": (make_claim(kind="difference", runs=[9.2, 9.6], arms=[LOTTERY, DENSE]), TWO),
    "difference to one number": (
        make_claim(kind="difference", value=9, arms=[{"name": "lottery"}, {"name": "dense"}]),
        TWO,
    ),
    "ordering": (
        make_claim(kind="ordering", arms=[LOTTERY, DENSE, {"name": "random"}]),
        {**TWO, "random": values_by_seed(61, 62, 60, 63, 61.5)},
    ),
    "equivalence": (
        make_claim(kind="equivalence", tolerance=TINY, unit=None, arms=[{"name": "one"}, {"name": "two"}]),
        {"one": values_by_seed(0.5, 0.6, 0.7), "two": values_by_seed(0.5 + 2e-8, 0.6 - 1e-7, 0.7)},
    ),
    "long names": (
        make_claim(kind="difference", value=9, arms=[{"name": LONG}, {"name": f"{LONG}2"}]),
        {LONG: TWO["lottery"], f"{LONG}2": TWO["dense"]},
    ),
    "constant": (make_claim(value=31.5), {"": values_by_seed(31.5, 31.5, 31.5)}),
    "shortened": (make_claim(value=92.3, shortened=SHORT), {"": ACCURACIES}),
    "one seed": (make_claim(value=92.3), {"": values_by_seed(92.0)}),
    "no seed": (make_claim(value=92.3), {"": {}}),
    "no arm": (make_claim(kind="ordering", arms=[LOTTERY, DENSE]), {}),
    "diverged": (make_claim(value=92.3), {"": values_by_seed(92.0, float("nan"), float("inf"), 93.0, 92.5)}),
    "odd metric": (make_claim(value=92.3, metric="test/$x_1$ & $"), {"": ACCURACIES}),
}


def drawn(case: str, **changes: Any) -> Figure:
    claim, values = CASES[case]
    claim = claim.model_copy(update=changes)
    return plot_claim("paper/result", claim, values, judge(claim, values))


def boxes(figure: Figure) -> list[tuple[str, Bbox]]:
    """Every text that is shown, and where."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    ticks = [tick for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for tick in _shown(axis)]
    titles = [axes.title for axes in figure.axes] + [axes._right_title for axes in figure.axes]
    labels = [axes.xaxis.label for axes in figure.axes]
    texts: list[Text] = [*ticks, *titles, *labels, *figure.texts]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in texts if text.get_text().strip()]


def _shown(axis: Any) -> list[Text]:
    low, high = sorted(axis.get_view_interval())
    return [t.label1 for t in axis.get_major_ticks() if low <= t.get_loc() <= high]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", CASES)
def test_every_kind_is_drawn_900_pixels_wide(case: str, tmp_path: Path) -> None:
    claim, values = CASES[case]
    plot_claim("paper/result", claim, values, judge(claim, values)).savefig(tmp_path / "picture.png")
    height, width = matplotlib.image.imread(tmp_path / "picture.png").shape[:2]
    assert width == 900
    assert 200 < height < 1000


@pytest.mark.parametrize("case", CASES)
def test_no_text_lies_over_another_or_outside(case: str) -> None:
    figure = drawn(case)
    found = boxes(figure)
    for (one, a), (other, b) in itertools.combinations(found, 2):
        assert not (a.shrunk(0.98, 0.9).overlaps(b.shrunk(0.98, 0.9))), (one, other)
    for text, box in found:
        assert box.x0 >= -1 and box.x1 <= 901 and box.y0 >= -1 and box.y1 <= figure.bbox.height + 1, text


def lines(axes: Axes, place: int) -> list[list[float]]:
    """The horizontal ends of what is drawn along a row."""
    found = [line for line in axes.lines if list(line.get_ydata()) == [place, place] and line.get_linestyle() == "-"]
    return [[float(x) for x in line.get_xdata()] for line in found]


def band(axes: Axes) -> tuple[float, float]:
    (patch,) = axes.patches
    return patch.get_x(), patch.get_x() + patch.get_width()  # type: ignore[attr-defined]


def test_the_interval_lies_inside_the_band_where_it_lies_inside_the_tolerance() -> None:
    claim, values = CASES["mean and std"]
    found = judge(claim, values)
    (axes,) = plot_claim("paper/result", claim, values, found).axes
    assert found.low is not None and found.high is not None
    assert band(axes) == pytest.approx((92.3 - 1.2, 92.3 + 1.2))
    assert lines(axes, 0) == [pytest.approx([91.7, 92.9])]  # their mean ± std
    assert lines(axes, 1) == [pytest.approx(list(found.ours_interval or ()))]
    assert lines(axes, 2) == [pytest.approx([92.3 + found.low, 92.3 + found.high])]


def test_each_seed_and_each_published_run_is_a_point() -> None:
    theirs, ours, *_ = drawn("runs").axes[0].collections
    assert sorted(x for x, _ in theirs.get_offsets()) == [92.0, 93.0, 93.3, 94.5]
    assert [x for x, _ in ours.get_offsets()] == list(ACCURACIES.values())
    assert len(drawn("diverged").axes[0].collections[1].get_offsets()) == 3


def test_the_title_has_the_verdict_and_the_foot_its_reason() -> None:
    claim, values = CASES["one number"]
    figure = drawn("one number")
    assert figure.get_suptitle() == "paper/result: CONSISTENT"
    assert " ".join(figure.get_supxlabel().split()) == judge(claim, values).reason


def test_arms_stand_above_what_is_judged_with_a_line_for_each_seed() -> None:
    above, below = drawn("difference").axes
    labels = [label.get_text().partition("\n")[0] for label in above.get_yticklabels()]
    assert labels == ["lottery, paper", "lottery, ours", "dense, paper", "dense, ours"]
    joined = [line for line in above.lines if line.get_alpha() == 0.25]
    assert sorted(tuple(line.get_xdata()) for line in joined) == sorted(
        zip(*(v.values() for v in TWO.values()), strict=True)
    )
    assert band(below)[0] < 9.4 < band(below)[1]
    assert len(drawn("ordering").axes[1].get_yticklabels()) == 2


def test_an_own_reference_is_not_called_a_paper() -> None:
    claim, _ = CASES["runs"]
    source = claim.source.model_copy(update={"kind": "internal"})
    assert drawn("runs", source=source).axes[0].get_yticklabels()[0].get_text().startswith("reference")
