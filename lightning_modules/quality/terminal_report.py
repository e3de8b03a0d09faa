"""Terminal output of reports, exclusion lists and splits."""

from collections import Counter

from rich.table import Table

from lightning_modules.config.plain import PlainDict
from lightning_modules.report.tables import open_console, terminal_table

MAX_EXAMPLES = 5  # examples per kind of issue
MAX_COLUMNS = 50  # columns of a table that are listed


def show_report(report: PlainDict) -> None:
    """Print balance, findings, examples and notes."""
    out = open_console()
    out.print(_balance(report["balance"], report["data"]))
    out.print(_findings(report))
    if report["columns"]:
        out.print(_columns(report["columns"]))
    for line in _examples(report):
        out.print(line, markup=False, soft_wrap=True)
    for note in report["notes"]:
        out.print(f"- {note}", markup=False, soft_wrap=True)


def _balance(balance: PlainDict, name: str) -> Table:
    columns, rows = ["mean", "std", "min", "max"], []
    if classes := any("counts" in part for part in balance.values()):
        columns = ["smallest class", "largest class", "largest / smallest", "entropy"]
    for part, found in balance.items():
        if classes:
            smallest, largest = (pick(found["counts"].items(), key=lambda item: item[1]) for pick in (min, max))
            ratio = "a class is missing" if found["imbalance"] is None else f"{found['imbalance']:.2f}"
            named = [f"{label}: {count:,}" for label, count in (smallest, largest)]
            numbers = [*named, ratio, f"{found['entropy']:.3f}"]
        else:
            numbers = [f"{found[key]:.4g}" if key in found else "–" for key in columns]
        rows.append([part, f"{found['samples']:,}", *numbers])
    return terminal_table(["part", "samples", *columns], rows, title=name)


def _findings(report: PlainDict) -> Table:
    values, twice, out = report["values"], report["duplicates"], report["outliers"]
    missing = f"in {values['samples_with_missing']:,} samples; "
    if values["min"] is not None:
        missing += f"{values['dtype']} {values['shape']} from {values['min']:g} to {values['max']:g}"
    still = f"{values['constant_samples']:,} constant samples"
    groups = f"{twice['exact_groups']:,} groups; {twice['conflicting_exact_groups']:,} of them with different labels"
    near = f"similarity ≥ {twice['near_threshold']:g}; {twice['conflicting_near_pairs']:,} with different labels"
    across = ", ".join(f"{count:,} in {parts}" for parts, count in twice["leaks"].items()) or "none"
    far = out["far_in_a_column"]
    columns = "" if far is None else f"; {far:,} samples with a value that far out in its column"
    rows = [
        ("missing values", values["missing_values"], missing),
        ("constant columns", values["constant_columns"], still),
        ("exact copies", twice["exact_copies"], groups),
        ("near pairs", twice["near_pairs"], near),
        ("leaks", sum(twice["leaks"].values()), f"groups: {across}"),
        ("outliers", out["isolated"], f"z ≥ {out['limit_z']:g}{columns}"),
    ]
    if errors := report["label_errors"]:
        said = f"{errors['classifier']}, out-of-fold accuracy {errors['out_of_fold_accuracy']:.1%}"
        said += f"; noise about {errors['estimated_noise']:.1%}"
        rows.append(("suspected label errors", errors["found"], said))
    if drift := report["drift"]:
        rows.append(("drifted columns", drift["drifted_columns"], _drift(drift)))
    cells = [(issue, f"{count:,}", text) for issue, count, text in rows]
    return terminal_table(["issue", "count", "found"], cells, left=(0, 2))


def _columns(columns: list[PlainDict]) -> Table:
    """The columns that need attention: text, dates, missing values, outliers, constant or equal."""
    wrong = [c for c in columns if c["kind"] != "number" or c["missing"] or c["outliers"] or c["issue"]]
    keys = ("column", "kind", "missing", "distinct", "outliers", "issue")
    rows = [[f"{c[key]:,}" if isinstance(c[key], int) else c[key] for key in keys] for c in wrong[:MAX_COLUMNS]]
    title = f"{len(wrong)} of {len(columns)} columns need attention"
    return terminal_table(keys, rows, left=(0, 1, 5), title=title)


def _drift(drift: PlainDict) -> str:
    said = [f"of {len(drift['columns'])} (Holm, 5 %), {drift['between'][0]} against {drift['between'][1]}"]
    if drift["auc"] is not None:
        said.append(f"two-sample AUC {drift['auc']:.3f} (p {drift['auc_p']:.2g})")
    if drift["labels"]["p"] is not None:
        said.append(f"labels p {drift['labels']['p']:.2g}")
    return "; ".join(said)


def _examples(report: PlainDict) -> list[str]:
    listed, lines = report["listed"], []
    for group in listed["exact"][:MAX_EXAMPLES]:
        lines.append(f"- equal: {', '.join(group[:6])}{', …' * (len(group) > 6)}")
    for pair in listed["near"][:MAX_EXAMPLES]:
        lines.append(f"- similar ({pair['similarity']:.4f}): {', '.join(pair['samples'])}")
    for found in (report["label_errors"] or {"likeliest": []})["likeliest"][:MAX_EXAMPLES]:
        lines.append(
            f"- {found['sample']}: label {found['label']}, suggested {found['suggested']} (margin {found['margin']:+.2f})"
        )
    for found in report["outliers"]["farthest"][:MAX_EXAMPLES]:
        lines.append(f"- {found['sample']}: far from all others (z {found['z']:.1f})")
    return lines


def show_exclusions(record: PlainDict) -> None:
    """Print how many samples are excluded, and why."""
    rows = [(kind, f"{count:,}") for kind, count in count_exclusions(record).most_common()]
    title = f"{record['data']}: {len(record['excluded'])} samples to exclude"
    open_console().print(terminal_table(["why", "samples"], rows, title=title))


def count_exclusions(record: PlainDict) -> Counter[str]:
    """Return how many samples are excluded for each kind of reason: ``exact duplicate of 17 (leak)`` is a ``leak``."""
    kinds = {
        "exact": "exact duplicate",
        "near": "near duplicate",
        "equal": "conflicting labels",
        "label": "label error",
    }
    reasons = [entry["why"] for entry in record["excluded"]]
    return Counter("leak" if why.endswith("(leak)") else kinds.get(why.split(" ")[0], "outlier") for why in reasons)


def show_split(found: PlainDict) -> None:
    """Print the parts and the results of the checks."""
    out = open_console()
    out.print(_balance({name: part for name, part in found["parts"].items() if part["samples"]}, found["data"]))
    checks = found["checks"].items()
    rows = [(name.replace("_", " "), "yes" if check["holds"] else "no", check["found"]) for name, check in checks]
    out.print(terminal_table(["check", "holds", "found"], rows, left=(0, 2)))
