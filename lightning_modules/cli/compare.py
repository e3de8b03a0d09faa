"""``touchstone compare``: runs over seeds, as a table, a curve and pictures."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from lightning_modules.cli.arguments import verb
from lightning_modules.config.errors import UserError

if TYPE_CHECKING:
    from lightning_modules.cli.curve import Curve
    from lightning_modules.comparison.result import Comparison


@verb(
    "SWEEP | RUN… | EXPERIMENT | study=NAME | diff=[A,B]",
    (
        "augmentation-study by=augmentation baseline=augmentation=none",
        "3e782338 9a01bc47 metric=val/loss",
        "data-sizes by=augmentation,data.per_class along=data.per_class out=results/",
        "my-sweep 'metric=test/accuracy / model/params' better=higher",
        "3e782338 9a01bc47 test=mcnemar",
        "study=augmentation_paper by=data,augmentation",
        "diff=3e782338,9a01bc47",
    ),
    {"--no-log": "log=false"},
)
def main(
    targets: Annotated[
        Sequence[str], "id, its first 6 or more characters, or name of a sweep or a run; or an experiment"
    ] = (),
    by: Annotated[list[str] | None, "params that make a group (default: what was swept, or differs)"] = None,
    metric: Annotated[
        str | None, "metric to compare (default: test/accuracy), or 'test/accuracy / model/params'"
    ] = None,
    better: Annotated[Literal["higher", "lower"] | None, "direction of a metric that is not known"] = None,
    baseline: Annotated[str | None, "KEY=VALUE,… of the group that all others are tested against"] = None,
    test: Annotated[Literal["mcnemar"] | None, "McNemar's exact test of recorded test predictions"] = None,
    study: Annotated[str | None, "all runs of this study; beside targets: only those of it"] = None,
    along: Annotated[str | None, "curve over this number (one of by=), a line for each of the others"] = None,
    reference: Annotated[str | None, "line of the curve that the others are compared with"] = None,
    into: Annotated[str | None, "FILE:MARK: write curve and picture into a Markdown file, between its marks"] = None,
    out: Annotated[Path | None, "folder: write the files there too"] = None,
    log: Annotated[bool, "store the comparison"] = True,
    diff: Annotated[list[str] | None, "two runs: what differs in config, code, data, packages, metrics"] = None,
) -> object:
    """Mean, spread and interval over seeds, and the paired difference to a baseline. The table is printed and logged to the
    sweep (or to a new run) as Markdown, LaTeX, CSV and a picture. metric= may be an expression: + - * / ** with spaces around
    them, parentheses, min, max, log. diff= shows instead what differs between two runs."""
    if diff is not None:
        others: dict[str, object] = {"by": by, "metric": metric, "better": better, "baseline": baseline, "study": study}
        others |= {"along": along, "test": test, "out": out}
        return _diff(diff, [*targets, *(f"{key}=" for key, value in others.items() if value is not None)])
    if not targets and study is None:
        raise UserError("RUN is missing: name a sweep, runs, an experiment or study=NAME, or two runs with diff=[A,B]")
    if (into or reference) and not along:
        raise UserError("into= and reference= belong to a curve: along=KEY is missing")
    if into and not into.rpartition(":")[0]:
        raise UserError(f"into={into}: expected FILE:MARK, as in README.md:digits")
    from lightning_modules.cli import curve as curves
    from lightning_modules.comparison import publish
    from lightning_modules.comparison.compare import compare, open_run_reader
    from lightning_modules.comparison.result import CompareRequest
    from lightning_modules.store.metric_expression import with_expressions
    from lightning_modules.store.study import within_study
    from lightning_modules.tracking.store import open_store

    reader, chosen = within_study(open_run_reader(), targets, study)
    request = CompareRequest(chosen, by, metric, baseline, better)
    comparison = compare(with_expressions(reader), request)
    curve = curves.build_curve(comparison, along, reference) if along else None
    tests = []
    if test:
        from lightning_modules.quality.mcnemar import describe, mcnemar

        tests = mcnemar(open_store(), comparison)
        comparison = replace(comparison, notes=(*comparison.notes, *describe(tests)))
    publish.print_comparison(comparison)
    _write(comparison, curve, out, into)
    if log:
        publish.log_comparison(comparison, partial(curves.write_curve_files, curve) if curve else None)
    return {**asdict(comparison), **({"mcnemar": [asdict(one) for one in tests]} if test else {})}


def _write(comparison: "Comparison", curve: "Curve | None", out: Path | None, into: str | None) -> None:
    from lightning_modules.cli import curve as curves
    from lightning_modules.comparison import publish

    if out:
        more = curves.write_curve_files(curve, out) if curve else []
        for path in [*publish.write_files(comparison, out), *more]:
            print(f"written: {path}")
    if into and curve:
        file, _, mark = into.rpartition(":")
        curves.write_curve_section(curve, Path(file), mark)
        print(f"written: {file}")


def _diff(runs: Sequence[str], others: Sequence[str]) -> dict[str, object]:
    if len(runs) != 2 or others:
        raise UserError(
            f"diff={','.join(runs)}: expected two runs, diff=[A,B], and nothing else {' '.join(others)}".strip()
        )
    from lightning_modules.store.run_diff import diff_runs, print_diff
    from lightning_modules.tracking.store import open_store

    found = diff_runs(open_store(), *runs)
    print_diff(found)
    return found
