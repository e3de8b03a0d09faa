"""A sweep as the command starts it, in the process of the test."""

from typing import Any


def multirun(words: list[str]) -> list[Any]:
    """What ``touchstone train -m WORDS`` does, in this process; returns the children."""
    from hydra._internal.callbacks import Callbacks
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext

    from lightning_modules.sweep.hydra_plugin import compose_multirun

    config, loader = compose_multirun(words)
    context = HydraContext(config_loader=loader, callbacks=Callbacks())
    sweeper = Plugins.instance().instantiate_sweeper(hydra_context=context, task_function=print, config=config)
    return sweeper.sweep(list(config.hydra.overrides.task))
