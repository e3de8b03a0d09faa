"""Train one model as the config says, and record the run: ``python scripts/train.py [GROUP=OPTION …] [KEY=VALUE …]``."""

import hydra
from omegaconf import DictConfig

from lightning_modules.command_line import answer, complete_choices, told


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(cfg: DictConfig) -> float | None:
    with told():  # here, not outside of Hydra, which would add a line of its own to the message
        from lightning_modules.run import run

        return run(complete_choices(cfg)).get("val/loss")


if __name__ == "__main__":
    answer(main)
