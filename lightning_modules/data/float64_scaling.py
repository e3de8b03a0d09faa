"""Float64 scaling of columns whose values float32 cannot represent or distinguish, such as time stamps."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lightning_modules.config.errors import UserError

SAMPLE = 1000  # values from which quartiles are estimated, before all are sorted


def first_imprecise_row(values: np.ndarray, dtype: type[np.floating] = np.float32) -> int | None:
    """Return the first row of a column that `dtype` cannot represent or distinguish from its neighbours; else None.

    The rounding error is compared with the interquartile range of the column (its whole range if that is 0).
    """
    if values.dtype == dtype and np.isfinite(values).all():
        return None
    long = values.dtype.kind in "iu" and len(values) and (values.min() < -(2**53) or values.max() > 2**53)
    wide: np.ndarray = values.astype(np.longdouble if long else np.float64, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.abs(wide - values.astype(dtype))
    if not np.isfinite(error).all():
        return int(np.flatnonzero(~np.isfinite(error))[0])
    if len(wide) > SAMPLE and _range_exceeds(wide, error.max() * 1e4):
        return None
    low, high = np.percentile(wide, [25, 75], method="nearest")
    if low == high:
        low, high = wide.min(), wide.max()
    off = np.flatnonzero((wide >= low) & (wide <= high) & (error > 1e-4 * (high - low)))
    return int(off[0]) if len(off) and high > low else None


def _range_exceeds(values: np.ndarray, least: float) -> bool:
    """Return whether the interquartile range is certainly at least `least`, from a sample of the values."""
    low, high = np.percentile(values[:: len(values) // SAMPLE], [35, 65])
    sides = (values <= low, values >= high)
    return bool(high - low >= least and min(map(np.count_nonzero, sides)) > 0.26 * len(values))


def require_precision(table: pd.DataFrame, dtype: type[np.floating], hint: str) -> None:
    """Raise UserError with the first column and row that `dtype` cannot represent or distinguish."""
    for i, name in enumerate(table.columns):
        values = table.iloc[:, i].to_numpy()
        if (row := first_imprecise_row(values, dtype)) is not None:
            with np.errstate(over="ignore"):
                rounded = dtype(values[row])
            raise UserError(
                f"column '{name}', row {row + 1}: {values[row]} is {rounded} in {dtype.__name__}, which cannot represent "
                f"or distinguish the column's values: {hint}"
            )


class Float64Affine(nn.Module):
    """``(x - shift) / scale`` per feature of float64 [B, F], computed in float64, then cast to the training dtype.

    Shift and scale are plain lists, because ``trainer.precision`` would convert buffers.
    """

    def __init__(self, shift: Sequence[float], scale: Sequence[float], fitted: bool = False) -> None:
        super().__init__()
        self.fitted = fitted
        self.shift, self.scale = list(shift), list(scale)
        self.register_buffer("unit", torch.ones(()), persistent=False)
        self.unit: Tensor

    @classmethod
    def fit(cls, x: Tensor, train: Tensor, names: Sequence[str], scaling: str) -> "Float64Affine":
        """Fit mean and population std, or minimum and range, on the training part; a constant column is only shifted.

        Raises UserError for a column whose moments float64 cannot represent.
        """
        part = x[train]
        low, high = part.amin(0), part.amax(0)
        standardise = scaling == "standardise"
        shift = part.mean(0) if standardise else low
        scale = part.std(0, correction=0) if standardise else high - low
        scale = torch.where(low == high, 1.0, scale)
        wrong = ~(shift.isfinite() & scale.isfinite() & (scale > 0))
        if wrong.any():
            name = names[int(wrong.nonzero()[0])]
            raise UserError(f"column '{name}': its values are too large or too small for float64; rescale the column")
        return cls(shift.tolist(), scale.tolist(), fitted=True)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype in (torch.float16, torch.bfloat16):
            raise UserError("a column of this table needs float64: use trainer.precision=32-true or a mixed precision")
        shift, scale = (torch.tensor(v, dtype=torch.float64, device=x.device) for v in (self.shift, self.scale))
        return ((x.double() - shift) / scale).to(self.unit.dtype)

    def recipe(self) -> dict[str, object]:
        """Return the plain values from which ``hydra.utils.instantiate`` rebuilds this module."""
        target = f"{type(self).__module__}.{type(self).__qualname__}"
        return {"_target_": target, "shift": self.shift, "scale": self.scale, "fitted": self.fitted}
