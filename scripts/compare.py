"""Compare runs over seeds: ``python scripts/compare.py SWEEP | RUN… | EXPERIMENT [--by model] [--baseline model=mlp]``."""

import argparse
from pathlib import Path

from lightning_modules.command_line import answer


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Mean, spread and interval over seeds, and the paired difference to a baseline. "
        "The table is printed and logged to the sweep (or to a new run) as Markdown, LaTeX, CSV and a picture."
    )
    parser.add_argument(
        "targets",
        nargs="+",
        metavar="RUN",
        help="id, its first 6 or more characters, or name of a sweep or a run; or an experiment",
    )
    parser.add_argument(
        "--by", help="params that make a group: model,optimizer.lr (default: what was swept, or differs)"
    )
    parser.add_argument("--metric", help="what is compared (default: test/accuracy)")
    parser.add_argument("--better", choices=("higher", "lower"), help="direction of a metric that is not known")
    parser.add_argument("--baseline", metavar="KEY=VALUE,…", help="the group that all others are tested against")
    parser.add_argument(
        "--along", metavar="KEY", help="a curve over this number (one of --by), a line for each of the others"
    )
    parser.add_argument("--reference", metavar="LINE", help="the line of the curve that the others are compared with")
    parser.add_argument(
        "--into", metavar="FILE:MARK", help="write curve and picture into a Markdown file, between its marks"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write the files there too")
    parser.add_argument("--no-log", action="store_true", help="do not store the comparison")
    arguments = parser.parse_args()
    if (arguments.into or arguments.reference) and not arguments.along:
        parser.error("--into and --reference belong to a curve: --along KEY")
    if arguments.into and not arguments.into.rpartition(":")[0]:
        parser.error(f"--into {arguments.into}: FILE:MARK is wanted, as in README.md:digits")
    return arguments


def main() -> None:
    arguments = parsed()
    from lightning_modules.comparison import publish
    from lightning_modules.comparison.compare import Question, compare
    from lightning_modules.comparison.curve import curve_along
    from lightning_modules.comparison.reading import open_reader

    by = [key.strip() for key in arguments.by.split(",") if key.strip()] if arguments.by is not None else None
    question = Question(arguments.targets, by, arguments.metric, arguments.baseline, arguments.better)
    comparison = compare(open_reader(), question)
    curve = curve_along(comparison, arguments.along, arguments.reference) if arguments.along else None
    publish.show(comparison)
    if arguments.out:
        curves = publish.write_curve(curve, arguments.out) if curve else []
        for path in [*publish.write(comparison, arguments.out), *curves]:
            print(f"written: {path}")
    if arguments.into and curve:
        file, _, mark = arguments.into.rpartition(":")
        publish.write_into(curve, Path(file), mark)
        print(f"written: {file}")
    if not arguments.no_log:
        publish.log(comparison, curve)


if __name__ == "__main__":
    answer(main)
