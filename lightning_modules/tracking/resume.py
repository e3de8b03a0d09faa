"""Going on in a recorded run, and starting from one: the config, the checkpoint and the weights it left."""

import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from lightning_modules.command_line import GROUPS
from lightning_modules.config.trust import refuse_untrusted
from lightning_modules.errors import UserError
from lightning_modules.tracking.alive import is_alive
from lightning_modules.tracking.artifacts import artifact, fetch_model, local_folder
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.delivery import deliver_run
from lightning_modules.tracking.store import Store, find_run


@dataclass(frozen=True)
class Resumed:
    """A run that goes on: its config with this command's overrides, and its last checkpoint (None: from the start)."""

    run_id: str
    model_id: str
    cfg: DictConfig
    checkpoint: Path | None


def recorded_config(store: Store, run: Any) -> DictConfig:
    """Read the config of a recorded run; its targets are checked. Raises UserError where it is not there."""
    cfg = OmegaConf.load(artifact(store, run, "config/config.yaml"))
    assert isinstance(cfg, DictConfig)
    with open_dict(cfg):
        cfg.overrides = OmegaConf.load(artifact(store, run, "config/overrides.yaml"))
    refuse_untrusted(cfg, f"config of run {run.info.run_id}")
    return cfg


def resume_run(store: Store, cfg: DictConfig, alone: bool = True) -> Resumed:
    """Find the run of ``resume=…`` with its last checkpoint. Raises UserError where it cannot go on.

    `alone`: nobody else may be training it now; false for the ranks beside the first one.
    """
    run = find_run(store, str(cfg.resume))
    tags, run_id = run.data.tags, run.info.run_id
    if alone and run.info.status == "RUNNING" and is_alive(tags):
        raise UserError(
            f"resume={cfg.resume}: the run is still training, as process {tags['touchstone.pid']} of this machine"
        )
    if alone:
        deliver_run(store, run_id)
    changed = _with_overrides(recorded_config(store, run), list(cfg.get("overrides", [])))
    changed.resume = run_id
    epochs = changed.trainer.max_epochs
    if epochs == 0:  # no training of its own: it only compresses
        return Resumed(run_id, tags["touchstone.model_id"], changed, None)
    checkpoint = artifact(store, run, "checkpoints/last.ckpt")
    trained = int(read_checkpoint(checkpoint)["epoch"]) + 1
    if epochs is not None and 0 <= epochs < trained:
        raise UserError(
            f"trainer.max_epochs={epochs}: the run has {trained} epochs behind it already; give that number or more"
        )
    return Resumed(run_id, tags["touchstone.model_id"], changed, checkpoint)


def go_on(store: Store, run_id: str, cfg: DictConfig, alone: bool = True) -> Resumed:
    """Go on in a run of this very config: from its last checkpoint, or from the start where it has none that is whole.

    `alone`: as in `resume_run`.
    """
    run = store.client.get_run(run_id)
    checkpoint: Path | None = None
    if alone:
        deliver_run(store, run_id)
    try:
        checkpoint = artifact(store, run, "checkpoints/last.ckpt")
        read_checkpoint(checkpoint)
    except UserError as error:
        if checkpoint is not None:
            warnings.warn(f"{error}. The run starts again from its first step.", stacklevel=2)
        checkpoint = None
    from lightning_modules.tracking.record import add_model

    model_id = run.data.tags.get("touchstone.model_id") or add_model(store, run)  # none: it failed before it began
    return Resumed(run_id, model_id, cfg, checkpoint)


def reopen(store: Store, run_id: str, marks: Mapping[str, str]) -> None:
    """Set a run RUNNING again, with these tags, and without what its earlier end left on it."""
    store.client.update_run(run_id, status="RUNNING")
    tags = store.client.get_run(run_id).data.tags
    for key in ("touchstone.error", "touchstone.ended"):
        if key in tags:
            store.client.delete_tag(run_id, key)
    for key, value in marks.items():
        store.client.set_tag(run_id, key, value)


def _with_overrides(recorded: DictConfig, overrides: list[str]) -> DictConfig:
    """Apply the overrides of this command to a recorded config; whole groups cannot be exchanged."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create()
    for word in overrides:
        override = parser.parse_override(word)
        key = override.key_or_group
        parent, _, leaf = key.rpartition(".")
        node = OmegaConf.select(recorded, parent) if parent else recorded
        if key in GROUPS:
            raise UserError(
                f"{word}: a resumed run keeps its {key}; change single values, or start a new run with init_from=…"
            )
        if key == "resume":
            continue
        if override.is_delete() and node is not None:
            node.pop(leaf, None)
        else:
            OmegaConf.update(recorded, key, override.value(), force_add=True)
    return recorded


def load_weights(store: Store, wanted: str, module: nn.Module) -> None:
    """Load the model's weights of another run's best checkpoint into `module.model`.

    Raises UserError where the run has none, or where they belong to another network.
    """
    run = find_run(store, wanted)
    path = best_checkpoint(store, run)
    state = {
        k.removeprefix("model."): v for k, v in read_checkpoint(path)["state_dict"].items() if k.startswith("model.")
    }
    network: Any = module.model
    own = network.state_dict()
    wrong = sorted(
        k for k in own.keys() | state.keys() if k not in own or k not in state or own[k].shape != state[k].shape
    )
    if wrong:
        raise UserError(
            f"init_from={wanted}: {len(wrong)} of {len(own)} tensors of that run's model do not fit this one "
            f"({', '.join(wrong[:4])} …): choose the same model group and the same number of outputs"
        )
    network.load_state_dict(state)


def best_checkpoint(store: Store, run: Any) -> Path:
    """The file of the best weights of a run (the last ones where it watched no metric), fetched if need be."""
    model_id = run.data.tags.get("touchstone.model_id")
    if model_id:
        location = store.client.get_logged_model(model_id).artifact_location
        folder = local_folder(location)
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="touchstone-"))
            fetch_model(store, model_id, folder)
        for name in ("best.ckpt", "last_weights.ckpt"):
            if (folder / name).is_file():
                return folder / name
    raise UserError(f"run {run.info.run_id} ({run.info.run_name}, {run.info.status}) has saved no weights")
