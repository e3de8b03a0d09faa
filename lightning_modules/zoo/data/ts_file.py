"""Reader for the `.ts` format of the UCR/UEA archives (described at timeseriesclassification.com)."""

from pathlib import Path
from typing import Literal

import numpy as np

from lightning_modules.config.errors import UserError
from lightning_modules.data.text_encoding import read_texts

Series = list[np.ndarray]  # each float64 [C, L], L may differ
Interpolation = Literal["linear", "cubic"]


def read_ts(path: Path, encoding: str | None = None) -> tuple[Series, list[str]]:
    """Return the series of a file, each [C, L], and their class labels; the `encoding` is detected by default.

    Raises:
        UserError: the file has no classes, has time stamps or missing values, or a line is damaged.
    """
    header: dict[str, str] = {}
    series: Series = []
    labels: list[str] = []
    begun = False
    for number, line in enumerate(read_texts([path], encoding)[0].splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if begun:
            *dimensions, label = line.split(":")
            series.append(_values(dimensions, f"{path}, line {number}"))
            labels.append(label.strip())
        elif line.lower().startswith("@data"):
            _check_header(header, path)
            begun = True
        else:
            key, _, value = line.lstrip("@").partition(" ")
            header[key.lower()] = value.strip().lower()
    if not series:
        raise UserError(f"{path} contains no series: expected a line '@data' followed by series")
    if len({len(one) for one in series}) > 1:
        raise UserError(f"{path} is damaged: its series have {sorted({len(one) for one in series})} dimensions")
    return series, labels


def _check_header(header: dict[str, str], path: Path) -> None:
    if not header.get("classlabel", "").startswith("true"):
        raise UserError(f"{path} has no classes ('@classLabel true' is missing): only classification is supported")
    if header.get("timestamps") == "true":
        raise UserError(f"{path} has time stamps, which are not supported: provide evenly sampled series without them")


def _values(dimensions: list[str], place: str) -> np.ndarray:
    try:
        values = np.array([np.array(one.split(","), np.float64) for one in dimensions])
    except ValueError as error:
        raise UserError(
            f"{place}: expected a series of numbers without missing values ('?') and with dimensions of equal length"
        ) from error
    if values.ndim != 2 or not np.isfinite(values).all():
        raise UserError(f"{place}: expected a series of finite numbers")
    return values


def interpolate_to_length(series: Series, length: int, kind: Interpolation = "linear") -> np.ndarray:
    """Return [N, C, length]: shorter series are interpolated to `length` evenly spaced positions.

    Raises UserError if a series is too short to be interpolated.
    """
    least = {"linear": 2, "cubic": 4}[kind]
    shortest = min(one.shape[1] for one in series)
    if shortest < min(least, length):
        raise UserError(
            f"data.interpolation={kind} needs series of at least {least} positions; the shortest has {shortest}"
        )
    return np.stack([one if one.shape[1] == length else _interpolate(one, length, kind) for one in series])


def _interpolate(series: np.ndarray, length: int, kind: Interpolation) -> np.ndarray:
    from scipy.interpolate import CubicSpline

    old, new = np.arange(series.shape[1]), np.linspace(0, series.shape[1] - 1, length)
    if kind == "linear":
        return np.stack([np.interp(new, old, one) for one in series])
    return np.asarray(CubicSpline(old, series, axis=1)(new))
