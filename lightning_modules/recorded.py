"""Run a config file as it stands: ``python -m lightning_modules.recorded CONFIG.yaml [RUN_ID of which this is a rerun]``.

`scripts/rerun.py` starts this in a checkout of the recorded code, so it must keep its name and its arguments.
"""

import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lightning_modules import CallableModule
from lightning_modules.config.command_line import run_cli
from lightning_modules.config.errors import UserError
from lightning_modules.tracking.tags import RERUN_OF_TAG


def main() -> None:
    """Read the config, check its targets, and run it."""
    from lightning_modules.config.trust import refuse_untrusted
    from lightning_modules.run.run import run
    from lightning_modules.tracking.resume import add_new_settings

    if not 2 <= len(sys.argv) <= 3 or not Path(sys.argv[1]).is_file():
        raise UserError("usage: python -m lightning_modules.recorded CONFIG.yaml [RUN_ID]")
    cfg = OmegaConf.load(sys.argv[1])
    assert isinstance(cfg, DictConfig)
    refuse_untrusted(cfg, sys.argv[1])
    add_new_settings(cfg)
    run(cfg, tags={RERUN_OF_TAG: sys.argv[2]} if len(sys.argv) == 3 else {})


sys.modules[__name__].__class__ = CallableModule  # `lightning_modules.recorded` is a function, too
if __name__ == "__main__":
    run_cli(main)
