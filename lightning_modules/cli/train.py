"""``touchstone train``: one run, or with ``-m`` a sweep: every combination of values, or what a search proposes."""

import sys

import hydra
from omegaconf import DictConfig

from lightning_modules.command_line import PROJECT_ROOT, answer, complete_choices, flags_last, names_as_text, told
from lightning_modules.help import show_help
from lightning_modules.sweep.plugin import (
    name_the_sweep,
    refuse_budget,
    refuse_sweep_without_m,
    refuse_wrong_ranks,
    register,
)


@hydra.main(version_base="1.3", config_path=str(PROJECT_ROOT / "conf"), config_name="train")
def task_function(cfg: DictConfig) -> float | str | None:
    """What Hydra calls for each job, with its composed config."""
    if cfg.sweep.job:  # one trial of a sweep, behind a launcher
        from lightning_modules.sweep.job import run_launched

        return run_launched(cfg)
    with told():  # here, not outside of Hydra, which would add a line of its own to the message
        refuse_wrong_ranks(cfg)
        refuse_budget(cfg)
        refuse_sweep_without_m(cfg)
        from lightning_modules.run import run

        return run(complete_choices(cfg)).get("val/loss")


def main() -> None:
    """Hand the overrides of this process to Hydra, or print the help."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        show_help()
        return
    sys.argv[1:] = names_as_text(flags_last(sys.argv[1:]))
    name_the_sweep()
    register()
    task_function()


if __name__ == "__main__":  # how Lightning starts the other ranks
    answer(main)
