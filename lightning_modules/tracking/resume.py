"""Resume a recorded run, or start from its weights (init_from): its config, checkpoint and differences to the record.

Longer than most: the three ways to go on (resume, after a restart, from weights) share what they read of a run.
"""

import contextlib
import copy
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning import LightningModule
from torch import nn

from lightning_modules.config.check import SCALAR_RULES
from lightning_modules.config.command_line import GROUPS
from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import flatten, to_plain
from lightning_modules.config.project import CONF, home
from lightning_modules.config.trust import refuse_untrusted
from lightning_modules.tracking.artifacts import artifact_path, download_model, local_folder
from lightning_modules.tracking.checkpoint import call_load_hook, read_checkpoint
from lightning_modules.tracking.liveness import is_alive
from lightning_modules.tracking.outbox import deliver_run
from lightning_modules.tracking.record import add_model
from lightning_modules.tracking.resume_drift import check_allow, config_drift, data_drift, refuse_drift, resume_options
from lightning_modules.tracking.store import Store, find_run
from lightning_modules.tracking.tags import (
    ENDED_TAG,
    ERROR_TAG,
    MODEL_ID_TAG,
    NOT_RERUNNABLE_TAG,
    PID_TAG,
    RESUME_DRIFT_TAG,
    SIGNATURE_TAG,
    WORKING_DIRECTORY_TAG,
)

if TYPE_CHECKING:
    from mlflow.entities import Run

_DATA_PATHS = ("path", "root", "folder", "exclude", "augmented", "cache_dir")


@dataclass(frozen=True)
class ResumedRun:
    """A recorded run that continues.

    Attributes:
        cfg: the recorded config with the overrides of this command.
        checkpoint: the last checkpoint; None starts from the beginning.
        wanted: how the user named the run, for messages.
        tags: those of the record.
        drift: differences to the record that `allow` accepts (`drift.py`).
    """

    run_id: str
    model_id: str
    cfg: DictConfig
    checkpoint: Path | None
    wanted: str
    tags: Mapping[str, str]
    allow: Sequence[str] = ()
    drift: Mapping[str, str] = field(default_factory=dict)

    @property
    def starts_anew(self) -> bool:
        """Whether it trains from its first step."""
        return self.checkpoint is None and self.cfg.trainer.max_epochs != 0

    def check_data(self, fingerprint: str, samples: Mapping[str, int]) -> "ResumedRun":
        """Compare the data with the record, unless the run starts from the beginning.

        Raises UserError if the data differ and ``resume.allow`` does not accept it.
        """
        if self.starts_anew:
            return self
        found = data_drift(self.tags, fingerprint, samples)
        refuse_drift(self.wanted, found, self.allow)
        return replace(self, drift={**self.drift, **found})

    def marks(self, signature: str) -> dict[str, str]:
        """Tags of the resumed run: its signature (empty if another config trained a part of it), and the accepted drift."""
        whole = self.starts_anew or self.tags.get(SIGNATURE_TAG) == signature
        marks = {SIGNATURE_TAG: signature if whole else ""}
        if self.drift:
            marks[RESUME_DRIFT_TAG] = "; ".join(filter(None, [self.tags.get(RESUME_DRIFT_TAG), self.accepted]))
        return marks

    @property
    def accepted(self) -> str:
        """The accepted differences in one line."""
        return "; ".join(f"{key}: {change}" for key, change in self.drift.items())


def recorded_config(store: Store, run: "Run") -> DictConfig:
    """Read the config of a recorded run and check its targets. Raises UserError if it does not exist, or is not the whole run."""
    if parts := run.data.tags.get(NOT_RERUNNABLE_TAG):
        raise UserError(
            f"run {run.info.run_id} cannot be rerun or resumed: its {parts} existed only in the Python program that "
            "started it; run that program again"
        )
    cfg = OmegaConf.load(artifact_path(store, run, "config/config.yaml"))
    assert isinstance(cfg, DictConfig)
    with open_dict(cfg):
        cfg.overrides = OmegaConf.load(artifact_path(store, run, "config/overrides.yaml"))
    refuse_untrusted(cfg, f"config of run {run.info.run_id}")
    _resolve_paths(cfg, [Path(run.data.tags.get(WORKING_DIRECTORY_TAG, home())), home()])
    return cfg


def _resolve_paths(cfg: DictConfig, folders: Sequence[Path]) -> None:
    """Make the data's relative paths absolute: they are relative to the folder in which the run was started."""
    for key in _DATA_PATHS:
        value = OmegaConf.select(cfg, f"data.{key}")
        if isinstance(value, str) and value and not Path(value).expanduser().is_absolute():
            found = next((folder / value for folder in folders if (folder / value).exists()), None)
            if found is not None:
                cfg.data[key] = str(found)


def add_new_settings(cfg: DictConfig) -> None:
    """Add settings that are newer than a recorded config, with their defaults."""
    defaults: Any = OmegaConf.load(CONF / "train.yaml")
    with open_dict(cfg):
        for key in SCALAR_RULES:
            if "." not in key and key not in cfg:
                cfg[key] = defaults[key]


def resume_run(store: Store, cfg: DictConfig, alone: bool = True) -> ResumedRun:
    """Find the run of ``resume=…`` with its last checkpoint.

    Args:
        alone: whether to check that no other process trains it; false on ranks other than 0.

    Raises UserError if the run cannot continue, or overrides change its results and ``resume.allow`` does not accept it.
    """
    wanted, allow = resume_options(cfg)
    run = find_run(store, str(wanted))
    tags, run_id = run.data.tags, run.info.run_id
    named = f"resume={wanted}"
    if alone:
        if run.info.status == "RUNNING" and is_alive(tags):
            raise UserError(f"{named}: the run is still training in process {tags[PID_TAG]}")
        deliver_run(store, run_id)
    recorded = recorded_config(store, run)
    add_new_settings(recorded)
    check_allow(allow, recorded)
    changed = _with_overrides(copy.deepcopy(recorded), list(cfg.get("overrides", [])))
    drift = config_drift(recorded, changed)
    refuse_drift(named, drift, allow)
    with open_dict(changed):
        changed.resume = {"run": run_id, "allow": allow}
    epochs = changed.trainer.max_epochs
    if epochs == 0:  # no training, only compression
        return ResumedRun(run_id, tags[MODEL_ID_TAG], changed, None, named, tags, allow, drift)
    checkpoint = artifact_path(store, run, "checkpoints/last.ckpt")
    trained = int(read_checkpoint(checkpoint)["epoch"]) + 1
    if epochs is not None and 0 <= epochs < trained:
        raise UserError(
            f"trainer.max_epochs={epochs}: the run has already trained {trained} epochs; give at least that number"
        )
    return ResumedRun(run_id, tags[MODEL_ID_TAG], changed, checkpoint, named, tags, allow, drift)


def continue_run(store: Store, run_id: str, cfg: DictConfig, alone: bool = True) -> ResumedRun:
    """Continue a run of this same config from its last checkpoint, or from the beginning if it has no valid one.

    `alone` and errors: as in `resume_run`.
    """
    run = store.client.get_run(run_id)
    checkpoint: Path | None = None
    named, (_, allow), drift = f"run {run_id}", resume_options(cfg), {}
    if alone:
        deliver_run(store, run_id)
    try:
        checkpoint = artifact_path(store, run, "checkpoints/last.ckpt")
        read_checkpoint(checkpoint)
    except UserError as error:
        if checkpoint is not None:
            warnings.warn(f"{error}. The run restarts from its first step.", stacklevel=2)
        checkpoint = None
    if checkpoint is not None:
        with contextlib.suppress(UserError):  # the run ended before its config was recorded
            recorded = recorded_config(store, run)
            old, new = (flatten(to_plain(c)) for c in (recorded, cfg))
            unset = {
                key for key in new if key.split(".")[0] in ("model", "task") and new[key] is None
            }  # inferred from data
            both = (old.keys() & new.keys()) - unset  # a new version may have more keys
            drift = {key: change for key, change in config_drift(recorded, cfg).items() if key in both}
        refuse_drift(named, drift, allow)
    model_id = run.data.tags.get(MODEL_ID_TAG) or add_model(store, run, to_plain(cfg))  # it failed before
    return ResumedRun(run_id, model_id, cfg, checkpoint, named, run.data.tags, allow, drift)


def reopen_run(store: Store, run_id: str, marks: Mapping[str, str]) -> None:
    """Set a run to RUNNING again, with these tags and without those of its earlier end."""
    store.client.update_run(run_id, status="RUNNING")
    tags = store.client.get_run(run_id).data.tags
    for key in (ERROR_TAG, ENDED_TAG):
        if key in tags:
            store.client.delete_tag(run_id, key)
    for key, value in marks.items():
        store.client.set_tag(run_id, key, value)


def _with_overrides(recorded: DictConfig, overrides: list[str]) -> DictConfig:
    """Apply the overrides of this command to a recorded config; groups cannot be replaced."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create()
    for word in overrides:
        override = parser.parse_override(word)
        key = override.key_or_group
        parent, _, leaf = key.rpartition(".")
        node = OmegaConf.select(recorded, parent) if parent else recorded
        if key in GROUPS:
            raise UserError(
                f"{word}: a resumed run cannot replace its {key}; override single values, or start a new run with init_from=…"
            )
        if key.split(".")[0] == "resume":
            continue
        if override.is_delete() and node is not None:
            node.pop(leaf, None)
        else:
            OmegaConf.update(recorded, key, override.value(), force_add=True)
    return recorded


def is_checkpoint_file(wanted: str) -> bool:
    """Whether ``init_from`` names a file, also one of plain Lightning, rather than a run."""
    return wanted.endswith(".ckpt")


def load_weights(store: Store, wanted: str, module: nn.Module) -> None:
    """Load the weights of a file, or of another run's best checkpoint, into `module.model`, or into a whole module that has
    no spec.

    Raises UserError if there are none, or if they belong to another network.
    """
    is_file = is_checkpoint_file(wanted)
    path = Path(wanted).expanduser() if is_file else best_checkpoint(store, find_run(store, wanted))
    checkpoint = read_checkpoint(path, ours=not is_file)
    if (weights := checkpoint.get("state_dict")) is None:
        raise UserError(f"init_from={wanted}: the file has no state_dict; it is not a checkpoint of Lightning")
    prefix = "model." if getattr(module, "task_spec", None) else ""  # of a task of ours only the network
    state = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    network = module.get_submodule(prefix.rstrip("."))
    if not prefix and isinstance(network, LightningModule):
        call_load_hook(network, checkpoint, f"init_from={wanted}")
    own = network.state_dict()
    both = own.keys() & state.keys()
    if wrong := sorted((own.keys() ^ state.keys()) | {k for k in both if own[k].shape != state[k].shape}):
        raise UserError(
            f"init_from={wanted}: {len(wrong)} of {len(own)} tensors do not match this model "
            f"({', '.join(wrong[:4])} …): use the same model and the same number of outputs"
        )
    network.load_state_dict(state)


def best_checkpoint(store: Store, run: "Run") -> Path:
    """The file of a run's best weights (the last ones if it monitors no metric), downloaded if necessary."""
    model_id = run.data.tags.get(MODEL_ID_TAG)
    if model_id:
        location = store.client.get_logged_model(model_id).artifact_location
        folder = local_folder(location)
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="touchstone-"))
            download_model(store, model_id, folder)
        for name in ("best.ckpt", "last_weights.ckpt"):
            if (folder / name).is_file():
                return folder / name
    raise UserError(f"run {run.info.run_id} ({run.info.run_name}, {run.info.status}) has no saved weights")
