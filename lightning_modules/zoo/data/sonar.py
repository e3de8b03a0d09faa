"""Sonar returns of mines and rocks (Gorman and Sejnowski 1988; UCI, "Connectionist Bench")."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_modules.config.errors import UserError
from lightning_modules.data.files import data_root
from lightning_modules.data.in_memory import InMemoryData, RawDataset

FILES = ("sonar.all-data", "Sonar.rda")
DEBIAN = Path("/usr/lib/R/site-library/mlbench/data/Sonar.rda")
CLASSES = ("M", "R")  # in the order of R's factor levels


class Sonar(InMemoryData):
    """float32 [60], the energy in each frequency band in [0, 1]; 208 returns from a metal cylinder (M) or a rock (R).

    Args:
        root: contains ``sonar/sonar.all-data`` (UCI's CSV) or ``sonar/Sonar.rda`` (R's mlbench); default the
            environment's TOUCHSTONE_DATA, else ``data/`` of the project. Debian's r-cran-mlbench is also found.
    """

    name = "sonar"

    def __init__(self, *, root: str | Path | None = None, **settings: Any) -> None:
        self.root = data_root(root)
        super().__init__(**settings)

    def load(self) -> RawDataset:
        """Find and read the file.

        Raises UserError if the file is missing or damaged, or the package that reads it is not installed.
        """
        path = self._find()
        x, labels = _read_rda(path) if path.suffix == ".rda" else _read_csv(path)
        if x.ndim != 2 or x.shape[1] != 60 or not set(labels) <= set(CLASSES):
            raise UserError(f"{path} is not the Sonar data set: expected 60 numbers and M or R in each row")
        y = torch.tensor([CLASSES.index(label) for label in labels])
        return RawDataset(torch.from_numpy(x.astype(np.float32)), y, class_names=["mine", "rock"])

    def _find(self) -> Path:
        places = [*(self.root / "sonar" / file for file in FILES), DEBIAN]
        for place in places:
            if place.is_file():
                return place
        raise UserError(
            f"Sonar was not found: neither {' nor '.join(map(str, places))} exists. Get it from Debian with\n"
            "  apt-get download r-cran-mlbench && dpkg-deb --fsys-tarfile r-cran-mlbench_*.deb"
            f" | tar -xO ./{DEBIAN.relative_to('/')} > Sonar.rda\n"
            f"and put Sonar.rda, or UCI's sonar.all-data, into {self.root / 'sonar'}; data.root or "
            "TOUCHSTONE_DATA sets another folder"
        )


def _read_csv(path: Path) -> tuple[np.ndarray, list[str]]:
    rows = [line.split(",") for line in path.read_text().splitlines() if line.strip()]
    try:
        return np.array([row[:-1] for row in rows], np.float64), [row[-1].strip() for row in rows]
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error


def _read_rda(path: Path) -> tuple[np.ndarray, list[str]]:
    try:
        import rdata
    except ModuleNotFoundError as error:
        raise UserError(f"reading {path} needs the package rdata: pip install -e '.[classics]'") from error
    try:
        table = rdata.read_rda(path, default_encoding="ascii")["Sonar"]
        return table.drop(columns="Class").to_numpy(np.float64), [str(label) for label in table["Class"]]
    except Exception as error:  # the reader and pandas raise anything on damaged files
        raise UserError(f"{path} is not an R data file with the table Sonar: {error}") from error
