"""From the plain values that a checkpoint carries to the task they describe."""

from collections.abc import Mapping
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from lightning_modules.check import refuse_untrusted
from lightning_modules.task.supervised import Supervised


def task_of(passport: Mapping[str, Any], where: str) -> Supervised:
    """Build model, preprocessing and task, without their weights and without the data.

    Raises UserError where a target is no part of a model; `where` names the file in it.
    """
    config = OmegaConf.create(dict(passport))
    refuse_untrusted(config, where)
    if "weights" in config.model:
        config.model.weights = None  # they come from the file
    if "pretrained" in config.model:
        config.model.pretrained = False
    settings = {key: value for key, value in config.task.items() if key not in ("monitor", "class_weights")}
    with torch.random.fork_rng(devices=[]):
        model: nn.Module = instantiate(config.model)
        task: Supervised = instantiate(
            OmegaConf.create(settings), model=model, preprocess=instantiate(config.preprocess)
        )
    return task
