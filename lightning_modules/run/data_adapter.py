"""What a run asks of its data: the one adapter between a run and any LightningDataModule, ours or another's."""

import copy
import hashlib
import inspect
import json
from pathlib import Path

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.utilities.combined_loader import CombinedLoader
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor

from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import PlainDict, to_plain
from lightning_modules.config.signature import locate, require_lightning_type
from lightning_modules.data.fingerprint import hash_files
from lightning_modules.data.in_memory import InMemoryData, RawDataset
from lightning_modules.task.batches import as_dict, owner_of
from lightning_modules.tracking.tags import DECLARED

RUN_KEYS = ("data_files", "data_hash")  # of the config group data, read here and not passed to the datamodule
NOT_KNOWN = "declared by the config only: set data.data_files, or give the datamodule a fingerprint()"
_NUM_SAMPLES = 64  # of a first batch, with which parts are checked


class RunData:
    """A datamodule as a run sees it.

    Attributes:
        module: the datamodule that the Trainer gets.
        own: the same, if it is one of ours; it is set up by the constructor. Lightning sets up any other one.
        samples: what stands for another's datamodule in a task of ours, once they are read.
        name: of the data set, as recorded.
    """

    def __init__(self, module: pl.LightningDataModule, config: PlainDict) -> None:
        self.module = module
        self.own = module if isinstance(module, InMemoryData) else None
        if self.own is not None:
            self.own.setup()
        self.samples: FirstBatch | None = None
        self.name = str(getattr(module, "name", None) or type(module).__name__)
        self._config = config
        self._fingerprint: str | None = None

    def take_loaders(self, task: pl.LightningModule | None = None, trains: bool = True) -> None:
        """Request loaders that the datamodule lacks from the `task`; Lightning itself would ignore those.

        Raises UserError if there is none for training, unless the run `trains` nothing.
        """
        for name in (f"{part}_dataloader" for part in ("train", "val", "test")):
            if isinstance(getattr(vars(self.module).get(name), "__self__", None), pl.LightningModule):
                delattr(self.module, name)  # of an earlier run with this object
            if task and not is_overridden(name, self.module) and is_overridden(name, task):
                setattr(self.module, name, getattr(task, name))
        if trains and not is_overridden("train_dataloader", self.module):
            raise UserError(f"data: {self.name} has no train_dataloader, and neither has the task")

    def first_batch(self, trainer: pl.Trainer, task: pl.LightningModule | None = None) -> object:
        """A training batch as the `task` gets it, on the CPU. The datamodule is set up for it, as Lightning does again."""
        owners: list[pl.LightningDataModule | pl.LightningModule] = [self.module, *([task] if task else [])]
        lent = task and getattr(vars(self.module).get("train_dataloader"), "__self__", None) is task
        if task is not None and lent:
            owners.append(copy.deepcopy(task))  # whose loaders are used, perhaps of what its setup makes
        trainer.training = True  # hooks ask for it
        for owner in owners:
            owner.trainer = trainer
        sources = [self.module, *owners[2:]]
        for source in sources:
            if trainer.local_rank == 0:
                source.prepare_data()
            source.setup("fit")
        batch, *_ = next(iter(CombinedLoader(sources[-1].train_dataloader())), (None,))
        for hook in ("on_before_batch_transfer", "on_after_batch_transfer"):
            batch = getattr(owner_of(hook, self.module, task or self.module), hook)(batch, 0)
        for owner in owners:
            owner.trainer = None
        return batch

    def read_samples(self, trainer: pl.Trainer) -> "FirstBatch":
        """What stands for another's datamodule in a task of ours. Raises UserError if it cannot be trained on."""
        self.take_loaders()
        self.samples = FirstBatch(self, self.first_batch(trainer))
        self.samples.setup()
        loaders = CombinedLoader(self.module.val_dataloader()).flattened if self.has("val") else []
        if len(loaders) > 1:
            raise UserError(
                f"data: tasks derived from Supervised have one validation loader, {self.name} has {len(loaders)}"
            )
        self.samples.splits["val"] = self.samples.splits["train" if loaders else "test"]
        if not hasattr(self.module, "example"):  # what strategies and callbacks build the network with
            self.module.example = self.samples.example  # type: ignore[attr-defined]
        return self.samples

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

    def known_fingerprint(self, use: str) -> str:
        """The fingerprint, for a `use` that compares data. Raises UserError if their content is unknown."""
        if self.is_declared:
            raise UserError(f"{use} needs the content of the data={self.name}, which is {NOT_KNOWN}")
        return self.fingerprint()

    def sizes(self) -> dict[str, int]:
        """Number of samples of each split, as recorded; empty if unknown."""
        splits = getattr(self.own, "splits", {})
        return {f"{part}_samples": len(index) for part, index in splits.items()}

    def fold_part(self) -> dict[str, str]:
        """The part that is the fold of a cross-validation, as recorded."""
        if self.own is None or self.own.plan.fold is None:
            return {}
        return {"fold_part": "test" if self.own.arrays.test is None else "val"}

    def has(self, part: str) -> bool:
        """Whether there are samples for ``val`` or ``test``, from the datamodule alone."""
        if self.own is not None:
            return len(self.own.splits[part]) > 0
        return is_overridden(f"{part}_dataloader", self.module)


class FirstBatch(InMemoryData):
    """The first training batch of another's datamodule, with which a task of ours is built and checked."""

    in_memory = False
    chunk = None  # type: ignore[assignment] # its loader does not concatenate batches

    def __init__(self, data: RunData, batch: object) -> None:
        self._samples = as_dict(batch)
        super().__init__(batch_size=len(self._samples["y"]), val_fraction=0, test_fraction=0)
        self.name, self.source = data.name, data.module

    def load(self) -> RawDataset:
        x, y = (torch.cat([self._samples[key][:_NUM_SAMPLES]] * 4)[:_NUM_SAMPLES] for key in "xy")
        return RawDataset(x, y)

    def _describe_classes(self, arrays: RawDataset, train: Tensor) -> None:
        self.has_classes = arrays.y.ndim == 1 and not arrays.y.is_floating_point()
        self.num_classes = getattr(self.source, "num_classes", None) if self.has_classes else None
        self.class_names, self.class_counts = getattr(self.source, "class_names", None), None


def open_data(cfg: DictConfig) -> RunData:
    """Instantiate the datamodule; ours also reads its data. Raises UserError if they are missing."""
    config = to_plain(cfg.data)
    pl.seed_everything(cfg.get("seed", 0), workers=True, verbose=False)  # for what the constructor of another's draws
    settings = {key: value for key, value in config.items() if key not in RUN_KEYS}
    own = issubclass(found, InMemoryData) if inspect.isclass(found := locate(str(config["_target_"]))) else False
    module = instantiate({"_convert_": "none" if own else "all", **settings})  # lists as lists, not as config nodes
    require_lightning_type(module, pl.LightningDataModule, f"data: {cfg.data['_target_']}")
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
    return hash_files(sorted(found), quick)
