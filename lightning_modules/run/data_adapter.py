"""What a run asks of its data: the one adapter between a run and any LightningDataModule, ours or another's."""

import hashlib
import inspect
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.model_helpers import is_overridden

from lightning_modules.config.errors import UserError
from lightning_modules.config.signature import locate
from lightning_modules.data.fingerprint import files_digest
from lightning_modules.data.in_memory import InMemoryData
from lightning_modules.tracking.tags import DECLARED

RUN_KEYS = ("data_files", "data_hash")  # of the config group data, read here and not passed to the datamodule


class RunData:
    """A datamodule as a run sees it.

    Attributes:
        module: the datamodule that the Trainer gets.
        own: the same, if it is one of ours; it is set up by the constructor. Lightning sets up any other one.
        name: of the data set, as recorded.
    """

    def __init__(self, module: pl.LightningDataModule, config: Mapping[str, Any]) -> None:
        self.module = module
        self.own = module if isinstance(module, InMemoryData) else None
        if self.own is not None:
            self.own.setup()
        self.name = str(getattr(module, "name", None) or type(module).__name__)
        self._config = config
        self._fingerprint: str | None = None

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes, if the datamodule knows them."""
        return getattr(self.module, "class_names", None)

    def fingerprint(self) -> str:
        """The datamodule's ``fingerprint()``, else a hash of ``data_files``, else one of the config, marked as declared.

        Raises UserError if ``data_files`` name no file.
        """
        if self._fingerprint is None:
            own = getattr(self.module, "fingerprint", None)
            patterns = self._config.get("data_files")
            if callable(own):
                self._fingerprint = str(own())
            elif patterns:
                self._fingerprint = _hash_files(patterns, quick=self._config.get("data_hash") == "quick")
            else:
                settings = json.dumps(self._config, sort_keys=True, default=str)
                self._fingerprint = DECLARED + hashlib.sha256(settings.encode()).hexdigest()
        return self._fingerprint

    @property
    def is_declared(self) -> bool:
        """Whether the content of the data is unknown, so that two runs cannot be said to have the same data."""
        return self.fingerprint().startswith(DECLARED)

    def sizes(self) -> dict[str, int]:
        """Number of samples of each split, as recorded; empty if unknown."""
        splits = getattr(self.own, "splits", {})
        return {f"{part}_samples": len(index) for part, index in splits.items()}

    def has(self, part: str) -> bool:
        """Whether there are samples for ``val`` or ``test``, from the datamodule alone."""
        if self.own is not None:
            return len(self.own.splits[part]) > 0
        return is_overridden(f"{part}_dataloader", self.module)


def open_data(cfg: DictConfig) -> RunData:
    """Instantiate the datamodule; ours also reads its data. Raises UserError if they are missing."""
    config: Any = OmegaConf.to_container(cfg.data, resolve=True)
    pl.seed_everything(cfg.get("seed", 0), workers=True, verbose=False)  # for what the constructor of another's draws
    settings = {key: value for key, value in config.items() if key not in RUN_KEYS}
    own = issubclass(found, InMemoryData) if inspect.isclass(found := locate(str(config["_target_"]))) else False
    module = instantiate({"_convert_": "none" if own else "all", **settings})  # lists as lists, not as config nodes
    if not isinstance(module, pl.LightningDataModule):
        raise UserError(f"data: {cfg.data['_target_']} is not a LightningDataModule, but a {type(module).__name__}")
    return RunData(module, config)


def _hash_files(patterns: str | list[str], quick: bool) -> str:
    """A sha256 over the files that match, over their contents or (`quick`) their names, sizes and modification times."""
    found: set[Path] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        path = Path(pattern).expanduser().absolute()
        matches = path.rglob("*") if path.is_dir() else Path(path.anchor).glob(str(path.relative_to(path.anchor)))
        files = {file for file in matches if file.is_file()}
        if not files:
            raise UserError(f"data.data_files: no file matches {pattern}")
        found |= files
    if not quick:
        return files_digest(Path(os.path.commonpath([file.parent for file in found])), sorted(found))
    listed = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(found)]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()
