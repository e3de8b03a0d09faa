"""Time series of the UCR/UEA archives (Dau et al. 2019; Bagnall et al. 2018) with their official test part."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lightning_modules.config.bounds import bounded
from lightning_modules.config.errors import UserError, did_you_mean, suggest
from lightning_modules.data.files import data_root
from lightning_modules.data.in_memory import InMemoryData, RawDataset
from lightning_modules.data.labels import normalize_labels
from lightning_modules.data.text_encoding import check_encoding, read_texts

Series = list[np.ndarray]  # each float64 [C, L], L may differ
ARCHIVE = (  # some names of the archives, for hints
    "ArrowHead", "BasicMotions", "CBF", "Coffee", "ECG200", "ECG5000", "Earthquakes", "FordA", "FordB", "GunPoint",
    "HandMovementDirection", "ItalyPowerDemand", "JapaneseVowels", "OSULeaf", "PhalangesOutlinesCorrect", "StarLightCurves",
    "SyntheticControl", "Trace", "TwoPatterns", "UWaveGestureLibrary", "Wafer", "Yoga",
)  # fmt: skip
Interpolation = Literal["linear", "cubic"]


def read_ts(path: Path, encoding: str | None = None) -> tuple[Series, list[str]]:
    """Return the series of a file, each [C, L], and their class labels; the `encoding` is detected by default.

    Raises UserError if the file has no classes, has time stamps or missing values, or a line is damaged.
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


class UCR(InMemoryData):
    """float32 [L] (one dimension) or [C, L]; `<root>/<name>/<name>_{TRAIN,TEST}.ts`, else the files bundled with `aeon`.

    Series of unequal length are interpolated to the longest of both parts. The raw values, which the fingerprint
    covers, are the interpolated and normalized ones.

    Args:
        name: as in the archive, for example ItalyPowerDemand.
        root: data folder; default the environment's TOUCHSTONE_DATA, else ``data/`` of the project.
        z_normalise: scale each dimension of each series to mean 0 and (population) std 1, a constant one to 0.
        interpolation: "linear" or "cubic" (a spline through all positions).
        encoding: of the files; null detects it.
    """

    domain = "series"

    @bounded
    def __init__(
        self,
        *,
        name: str = "ItalyPowerDemand",
        root: str | Path | None = None,
        z_normalise: bool = True,
        interpolation: Interpolation = "linear",
        encoding: str | None = None,
        **settings: Any,
    ) -> None:
        check_encoding(encoding)
        self.series, self.root = name, data_root(root)
        self.z_normalise, self.interpolation, self.encoding = z_normalise, interpolation, encoding
        super().__init__(**settings)
        self.name = name

    def load(self) -> RawDataset:
        """Find and read both files. Raises UserError if the files are missing, damaged or inconsistent."""
        files = self._find()
        parts = [read_ts(file, self.encoding) for file in files]
        if len({len(series[0]) for series, _ in parts}) > 1:
            raise UserError(f"{files[0]} and {files[1]} have different numbers of dimensions")
        length = max(one.shape[1] for series, _ in parts for one in series)
        written = normalize_labels([labels for _, labels in parts], f"data.name={self.series}")
        names = sorted({label for labels in written for label in labels}, key=_numeric_sort_key)
        x, x_test = (self._samples(interpolate_to_length(series, length, self.interpolation)) for series, _ in parts)
        y, y_test = (torch.tensor([names.index(label) for label in labels]) for labels in written)
        return RawDataset(x, y, test=(x_test, y_test), class_names=names)

    def _samples(self, values: np.ndarray) -> torch.Tensor:
        if self.z_normalise:
            std = values.std(-1, keepdims=True)
            constant = values.max(-1, keepdims=True) == values.min(-1, keepdims=True)
            values = np.where(constant, 0.0, (values - values.mean(-1, keepdims=True)) / np.where(constant, 1.0, std))
        values = values[:, 0] if values.shape[1] == 1 else values
        return torch.from_numpy(np.ascontiguousarray(values, np.float32))

    def _find(self) -> tuple[Path, Path]:
        folders = [self.root, *_bundled_folders()]
        for folder in folders:
            train, test = (folder / self.series / f"{self.series}_{part}.ts" for part in ("TRAIN", "TEST"))
            if train.is_file() and test.is_file():
                return train, test
        known = sorted({path.parent.name for folder in folders for path in folder.glob("*/*_TRAIN.ts")})
        hint = suggest(self.series, known) if known else f"no series were found; {did_you_mean(self.series, ARCHIVE)}"
        raise UserError(
            f"data.name={self.series}: {self.series}_TRAIN.ts and {self.series}_TEST.ts are neither in "
            f"{self.root / self.series} nor in the package aeon; {hint}. Copy them there, set data.root or "
            "TOUCHSTONE_DATA to their folder, or get some with `pip install --no-deps aeon` (only its files are read)"
        )


def _bundled_folders() -> list[Path]:
    """Return the data folder of the package aeon, without importing it (which takes seconds)."""
    spec = find_spec("aeon")
    return [Path(place) / "datasets" / "data" for place in (spec.submodule_search_locations or ())] if spec else []


def _numeric_sort_key(label: str) -> tuple[float, str]:
    """Sort numeric labels by value, before all others."""
    try:
        return float(label), label
    except ValueError:
        return float("inf"), label
