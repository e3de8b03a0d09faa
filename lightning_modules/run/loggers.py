"""Loggers beside the record, from the config group `loggers`: CSV, TensorBoard, W&B and others of Lightning."""

from pathlib import Path

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.loggers import MLFlowLogger
from pytorch_lightning.loggers.logger import Logger

from lightning_modules.config.errors import UserError, first_line
from lightning_modules.config.signature import locate, parameters_of, require_lightning_type


def build_loggers(cfg: DictConfig, folder: Path | None) -> list[Logger]:
    """Instantiate the loggers of the config. Raises UserError if one is no logger, or its package is missing.

    Args:
        folder: of the run, for those whose ``save_dir`` is not set; None with ``tracking=none``.
    """
    return [_build_logger(str(key), node, folder) for key, node in (cfg.get("loggers") or {}).items() if node]


def _build_logger(key: str, node: DictConfig, folder: Path | None) -> Logger:
    settings, target = {}, locate(node["_target_"])
    if target is MLFlowLogger:
        raise UserError(f"loggers.{key}: {node['_target_']} would start a second run; tracking=mlflow records this one")
    if "save_dir" in parameters_of(target)[0] and node.get("save_dir") is None:
        if folder is None:
            raise UserError(
                f"loggers.{key}.save_dir: tracking=none has no folder of the run; set the folder to write to"
            )
        settings["save_dir"] = str(folder / "loggers" / key)
    try:
        logger: Logger = instantiate(node, **settings)
    except InstantiationException as error:
        if not isinstance(error.__cause__, ImportError):
            raise
        package = node["_target_"].rpartition(".")[2].removesuffix("Logger").lower()
        reason = first_line(error.__cause__)
        raise UserError(f"loggers.{key}: {reason} Install it: pip install {package}") from error
    require_lightning_type(logger, Logger, f"loggers.{key}")
    return logger
