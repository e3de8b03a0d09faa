"""A task or datamodule that a Python program gives to a run as an object; the config names its class only."""

from contextvars import ContextVar

from lightning_modules.config.errors import UserError
from lightning_modules.config.trust import component

GIVEN: ContextVar[dict[str, object]] = ContextVar("given")  # config group -> object; set by `lightning_modules.run`


@component
def given_object(group: str, object_class: str, **hparams: object) -> object:
    """The object that this run was given, once. Raises UserError elsewhere: a record cannot rebuild it."""
    if group not in GIVEN.get({}):
        raise UserError(
            f"the run was given its {group} as an object of {object_class} in Python, which a record cannot rebuild: "
            "create the object again; lightning_modules.load(RUN, task=OBJECT) loads the weights"
        )
    return GIVEN.get().pop(group)
