"""Settings of the process that runs: its rank, its number of threads, and silenced warnings."""

import logging
import os
import warnings

import torch
from omegaconf import DictConfig

_NOT_APPLICABLE = (  # batches come from memory, checkpoints are overwritten on purpose
    ".*does not have many workers.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*`isinstance.treespec, LeafSpec.*",
    ".*The number of training batches .* is smaller than the logging interval.*",
    ".*Total length of `list` across ranks is zero.*",
    ".*No (positive|negative) samples in targets.*",  # `task/supervised.py` names the classes
    ".*module.s. in eval mode at the start.*",
    ".*The `srun` command is available on your system but is not used.*",
    ".*`broadcast_buffers` is deprecated.*",  # Lightning's own calls of torch
    ".*torch.distributed.nn.functional.all_gather is deprecated.*",
    ".*keys will be ignored. You need to call.*",  # under manual optimization a plateau schedule is stepped by the task
)


def is_rank_zero() -> bool:
    """Whether this is the process that records: rank 0."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "RANK", "SLURM_PROCID"))


def set_threads(cfg: DictConfig) -> None:
    """Set the number of threads; one if a strategy sets those of its processes itself (`strategy/ddp.py`)."""
    if cfg.strategy.get("_target_") and cfg.trainer.accelerator != "gpu":
        torch.set_num_threads(1)
    elif cfg.cpu_threads:
        torch.set_num_threads(cfg.cpu_threads)


def silence_lightning() -> None:
    """Silence Lightning's advice that does not apply."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # we report ended ranks ourselves
    for text in _NOT_APPLICABLE:
        warnings.filterwarnings("ignore", text)
