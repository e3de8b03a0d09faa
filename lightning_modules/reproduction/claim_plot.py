"""Plot of a claim: published values and ours, the judged interval, and the tolerance around the published value."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_modules.report.figures import COLOURS, INK, blank_figure, draw_seeds, seed_offsets, style_axes
from lightning_modules.report.statistics import Interval
from lightning_modules.report.t_intervals import mean_interval, summarize
from lightning_modules.reproduction.claim import Claim, PublishedValue, SeedValues
from lightning_modules.reproduction.evidence import ArmPair, arm_pairs, common_seed_values, drop_nonfinite
from lightning_modules.reproduction.verdict import Judgement

OURS, THEIRS, BAND = COLOURS[0], COLOURS[1], COLOURS[2]
WIDTH = 7.5  # inches: 900 pixels
_ROW_HEIGHT, _AXES_HEIGHT, _TITLE_HEIGHT = 0.36, 0.75, 0.7  # inches: of a row, the rest of the axes, and the title
_MAX_NAME, _LINE_LENGTH = 24, 132  # characters of an arm's name and of a line


@dataclass(frozen=True)
class _Row:
    """A row of the plot; `points` by seed, or by position if the seeds are unknown."""

    label: str
    colour: str
    points: Mapping[int, float] = field(default_factory=dict)
    mean: float | None = None
    bar: Interval | None = None
    is_judged: bool = False


def plot_claim(claim_id: str, claim: Claim, values: SeedValues, judgement: Judgement) -> Figure:
    """Plot all finite values, 900 pixels wide.

    The upper panel shows arms, if any, with a pale line for each seed. The lower one shows what is judged: published runs,
    our seeds, and the interval of the difference, centred on the published value to compare it with the tolerance.
    """
    values = drop_nonfinite(values)
    panels = [_arm_rows(claim, values)] if claim.arms else []
    panels.append(_judged_rows(claim, values, judgement))
    reason = textwrap.fill(judgement.reason, _LINE_LENGTH).replace("$", r"\$")
    heights = [_AXES_HEIGHT + _ROW_HEIGHT * len(rows) for rows in panels]
    figure = blank_figure(WIDTH, _TITLE_HEIGHT + 0.15 * reason.count("\n") + sum(heights))
    title = textwrap.fill(f"{claim_id}: {judgement.verdict}".replace("$", r"\$"), 80)
    figure.suptitle(title, fontsize=11.5, fontweight="bold", x=0.012, ha="left", color=INK)
    figure.supxlabel(reason, fontsize=8, x=0.012, ha="left", color=INK)
    axes = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0]
    for place, rows in zip(axes, panels, strict=True):
        style_axes(place, "", _axis_label(claim, of_arms=place is not axes[-1]), "")
        _draw_rows(place, rows)
    if claim.arms:
        _connect_seeds(axes[0], panels[0], common_seed_values(claim, values))
    _draw_tolerance(axes[-1], judgement)
    return figure


def _axis_label(claim: Claim, of_arms: bool) -> str:
    unit = f", {claim.unit}" if claim.unit else ""
    metric = f"{claim.metric}{f' at epoch {claim.epoch}' if claim.epoch else ''}{unit}"
    if claim.arms and not of_arms:
        return f"difference of {metric}"
    return f"{metric} ({claim.better} is better)"


def _arm_rows(claim: Claim, values: SeedValues) -> list[_Row]:
    """For each arm the published row, if any, and ours."""
    rows = []
    for arm in claim.arms:
        rows += [_published_row(arm, f"{_shorten(arm.name)}, {_source_label(claim)}")] if arm.sample() else []
        rows.append(_our_row(values.get(arm.name, {}), f"{_shorten(arm.name)}, ours"))
    return rows


def _judged_rows(claim: Claim, values: SeedValues, judgement: Judgement) -> list[_Row]:
    pairs = arm_pairs(claim, values)
    if claim.kind in ("equivalence", "ordering"):
        return [_pair_row(pair, extremes=claim.kind == "equivalence") for pair in pairs]
    ours = pairs[0].differences if claim.arms else values.get("", {})
    what = f"{_difference_label(*claim.arm_names)}, " if claim.arms else ""
    rows = [_published_row(claim, what + _source_label(claim)), _our_row(ours, f"{what}ours")]
    if judgement.theirs is not None and judgement.low is not None and judgement.high is not None:
        bar = Interval(judgement.theirs + judgement.low, judgement.theirs + judgement.high)
        rows.append(_Row("90 % interval\nof the difference", INK, {}, judgement.ours_mean, bar, is_judged=True))
    return rows


def _source_label(claim: Claim) -> str:
    return "reference" if claim.source.kind == "internal" else "paper"


def _shorten(name: str) -> str:
    half = _MAX_NAME // 2  # the ends of names are more specific than the middle
    return name if len(name) <= _MAX_NAME else f"{name[: half - 1]}…{name[-half:]}"


def _difference_label(first: str, second: str) -> str:
    return f"{_shorten(first)} minus {_shorten(second)}"


def _published_row(original: PublishedValue, label: str) -> _Row:
    sample = original.sample()
    assert sample is not None
    bar = Interval(sample.mean - sample.std, sample.mean + sample.std) if sample.std is not None else None
    spread = f"mean ± std, n {sample.n}" if bar else "one run" if sample.n == 1 else f"n {sample.n}"
    return _Row(f"{label}\n({spread})", THEIRS, dict(enumerate(original.runs)), sample.mean, bar)


def _our_row(points: Mapping[int, float], label: str) -> _Row:
    sample = summarize(list(points.values()))
    bar = mean_interval(sample) if sample else None
    text = f"{label}\n({'95 % interval, ' if bar else ''}n {len(points)})"
    return _Row(text, OURS, points, sample.mean if sample else None, bar)


def _pair_row(pair: ArmPair, extremes: bool) -> _Row:
    values = pair.differences.values()
    bar = Interval(min(values), max(values)) if extremes and values else pair.interval
    label = f"{_difference_label(pair.first, pair.second)}\n({'all seeds' if extremes else '90 % interval'}, n {len(values)})"
    return _Row(label, OURS, pair.differences, pair.sample.mean if pair.sample else None, bar, is_judged=True)


def _draw_rows(axes: Axes, rows: Sequence[_Row]) -> None:
    axes.grid(visible=False, axis="y")
    for place, row in enumerate(rows):
        draw_seeds(axes, place, list(row.points.values()), row.mean, row.bar, row.colour)
        if row.bar and row.is_judged:
            axes.plot(row.bar, [place, place], "|", color=row.colour, markersize=10, markeredgewidth=2, zorder=4)
    axes.set_yticks(range(len(rows)), [row.label.replace("$", r"\$") for row in rows], fontsize=7.5)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.margins(x=0.05)
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.xaxis.label.set_fontsize(9)
    axes.xaxis.get_offset_text().set_fontsize(8)


def _connect_seeds(axes: Axes, rows: Sequence[_Row], whole: SeedValues) -> None:
    """Connect the points of each seed that all arms have."""
    ours = [(place, row.points) for place, row in enumerate(rows) if row.colour == OURS]
    for seed in next(iter(whole.values()), {}):
        values = [points[seed] for _, points in ours]
        heights = [place + seed_offsets(len(points))[list(points).index(seed)] for place, points in ours]
        axes.plot(values, heights, color=OURS, alpha=0.25, linewidth=0.9, zorder=2)


def _draw_tolerance(axes: Axes, judgement: Judgement) -> None:
    """Mark the published value (or 0) and the tolerance around it."""
    centre = judgement.theirs if judgement.theirs is not None else 0.0
    axes.axvline(centre, color=THEIRS if judgement.theirs is not None else INK, linestyle="--", linewidth=1, zorder=2)
    if judgement.tolerance is None:
        return
    axes.axvspan(
        centre - judgement.tolerance, centre + judgement.tolerance, color=BAND, alpha=0.13, linewidth=0, zorder=0
    )
    axes.set_title(f"tolerance ±{judgement.tolerance:.3g}", loc="right", color=BAND, fontsize=8)
