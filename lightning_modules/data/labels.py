"""Labels: unified spellings, missing values, and checks of the classes in each part."""

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from lightning_modules.config.errors import UserError

# missing values, if all other values of the column are numbers
MISSING_MARKERS = {"", "na", "n/a", "nan", "none", "null", "<na>", "#n/a"}
_WHOLE = re.compile(r"([+-]?\d+)\.0+")


def canonical_spelling(label: str) -> str:
    """Return the canonical form of a label: " a" and "a", "1" and "1.0" are the same label."""
    label = label.strip()
    return _WHOLE.sub(r"\1", label) if _WHOLE.fullmatch(label) else label


def normalize_labels(parts: Sequence[Sequence[str]], what: str) -> list[list[str]]:
    """Return the labels of each part, stripped and with one spelling (the shortest) per label.

    A warning lists the spellings that were replaced. `what` names the column or file in messages.
    """
    spellings: dict[str, set[str]] = {}
    for label in {label for part in parts for label in part}:
        spellings.setdefault(canonical_spelling(label), set()).add(label)
    chosen = {
        label: min((other.strip() for other in same), key=lambda text: (len(text), text))
        for same in spellings.values()
        for label in same
    }
    merged = [sorted(same) for same in spellings.values() if len(same) > 1]
    if merged:
        listed = "; ".join(f"{', '.join(map(repr, same))} as {chosen[same[0]]!r}" for same in sorted(merged)[:5])
        warnings.warn(f"{what}: spellings of the same label are read as one class: {listed}", stacklevel=3)
    return [[chosen[label] for label in part] for part in parts]


def are_numbers(labels: Iterable[str], fits: Callable[[float], bool] = lambda value: True) -> bool:
    """Return whether every label is a number for which `fits` holds."""
    try:
        return all(fits(float(label)) for label in labels)
    except ValueError:
        return False


def look_like_identifiers(labels: Sequence[str]) -> bool:
    """Return whether labels that look like numbers are identifiers: zero-padded ("007") or versions ("3.9", "3.10").

    Versions are repeated numbers with a decimal point, unequal numbers of decimals, and some trailing 0.
    """
    distinct = set(labels)
    if any(re.fullmatch(r"0\d+", label) for label in distinct):
        return True
    if len(distinct) * 3 > len(labels) or not all(re.fullmatch(r"\d+\.\d+", label) for label in distinct):
        return False
    decimals = {label: len(label.partition(".")[2]) for label in distinct}
    return any(label.endswith("0") and decimals[label] > min(decimals.values()) for label in distinct)


def warn_identifiers(labels: Sequence[str], what: str) -> None:
    """Warn that labels that look like numbers are read as class names."""
    sample = ", ".join(repr(label) for label in sorted(set(labels))[:3])
    text = f"{what}: zero-padded labels or versions ({sample}) are read as class names"
    warnings.warn(f"{text}; set data.regression=true to read them as numbers", stacklevel=3)


def require_labels(labels: Sequence[str], what: str, classes: bool = False) -> None:
    """Raise UserError if labels are missing: empty, or "NA" and the like if all others are numbers or booleans.

    With `classes`, "NA" is always a class.
    """
    distinct = set(labels)
    missing = {label for label in distinct if not label.strip()}
    gaps = {label for label in distinct if label.strip().lower() in MISSING_MARKERS}
    rest = distinct - gaps
    if gaps and rest and not classes and (are_numbers(rest) or {label.lower() for label in rest} <= {"true", "false"}):
        missing = gaps
    if missing:
        empty = [row for row, label in enumerate(labels, start=1) if label in missing]
        first = labels[empty[0] - 1]
        hint = "; data.regression=false makes it a class of its own" if first.strip() else ""
        raise UserError(
            f"{what}: the label is missing in {len(empty)} rows, the first is row {empty[0]} ({first!r}): "
            f"fill them in or drop the rows{hint}"
        )


def check_classes(y: Tensor, y_test: Tensor | None, names: Sequence[str] | None) -> None:
    """Raise UserError if all samples have one class, or two class names are spellings of the same label.

    Integers without `names` need not be classes and are not checked.
    """
    if names is None or y.is_floating_point() or y.ndim != 1:
        return
    known: dict[str, str] = {}
    for name in names:
        if (other := known.setdefault(canonical_spelling(name), name)) != name:
            raise UserError(f"classes {other!r} and {name!r} are spellings of the same label: rename one of them")
    found = torch.cat([y, y_test]).unique() if y_test is not None else y.unique()
    if len(found) == 1:
        raise UserError(f"every sample has class {class_label(int(found), names)}: at least two classes are required")


def check_part_classes(parts: Mapping[str, Tensor], names: Sequence[str] | None) -> None:
    """Compare the classes of each part, given its labels [N], with those of the training part.

    One warning lists classes missing from validation and test. Raises UserError for a class without training samples.
    """
    if parts["train"].is_floating_point() or parts["train"].ndim != 1:
        return
    trained = parts["train"].unique()
    lacking = []
    for part, labels in parts.items():
        for label, count in class_counts(labels):
            if label not in trained:
                raise UserError(
                    f"class {class_label(label, names)} has {count} samples in the {part} part, but none in the training part"
                )
        missing = trained[~torch.isin(trained, labels)].tolist() if len(labels) else []
        if missing:
            more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
            lacking.append(f"{part}: {', '.join(class_label(label, names) for label in missing[:10])}{more}")
    if lacking:
        text = "parts without samples of some classes (their metrics do not cover these)"
        warnings.warn(f"{text}: {'; '.join(lacking)}", stacklevel=3)


def class_label(label: int, names: Sequence[str] | None) -> str:
    """Return the quoted name of a class, or its number if classes have no names."""
    return f"'{names[label]}'" if names else str(label)


def class_counts(y: Tensor) -> list[tuple[int, int]]:
    """Return each class that occurs in `y` with its number of samples."""
    return list(zip(*(column.tolist() for column in y.unique(return_counts=True)), strict=True))
