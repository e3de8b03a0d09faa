"""``touchstone train``: one run, or with ``-m`` a sweep: every combination of values, or what a search proposes."""

import sys

import hydra
from omegaconf import DictConfig

from lightning_modules.config.command_line import (
    PROJECT_ROOT,
    complete_choices,
    move_flags_last,
    quote_run_ids,
    report_errors,
    run_cli,
)
from lightning_modules.config.help import show_help
from lightning_modules.sweep.hydra_plugin import (
    expand_sweep_name,
    refuse_former_budget,
    refuse_multiprocess_runs,
    refuse_sweep_without_m,
    register,
)


@hydra.main(version_base="1.3", config_path=str(PROJECT_ROOT / "conf"), config_name="train")
def task_function(cfg: DictConfig) -> float | str | None:
    """What Hydra calls for each job, with its composed config."""
    if cfg.sweep.job:  # one trial of a sweep, behind a launcher
        from lightning_modules.sweep.trial_job import run_launched_trial

        return run_launched_trial(cfg)
    with report_errors():  # here, not outside of Hydra, which would add a line of its own to the message
        refuse_multiprocess_runs(cfg)
        refuse_sweep_without_m(cfg)
        from lightning_modules.run.run import run

        return run(complete_choices(cfg)).get("val/loss")


def main() -> None:
    """Hand the overrides of this process to Hydra, or print the help."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        show_help()
        return
    sys.argv[1:] = quote_run_ids(move_flags_last(sys.argv[1:]))
    expand_sweep_name()
    refuse_former_budget(sys.argv[1:])
    register()
    task_function()


if __name__ == "__main__":  # how Lightning starts the other ranks
    run_cli(main)
