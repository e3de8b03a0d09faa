"""The process of a caller: a user's mistake is one exception, signals are passed on, and what a run changes is restored."""

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lightning_modules.config.command_line import format_error
from lightning_modules.config.errors import UserError
from lightning_modules.config.project import enter_project
from lightning_modules.config.signals import SignalReceived

if TYPE_CHECKING:
    from lightning_modules.tracking.store import Store


@contextlib.contextmanager
def mlflow_on(store: "Store") -> Iterator[None]:
    """``mlflow.…`` uses this store, and afterwards what the environment names."""
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(store.uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type] # also removes it from the environment
        os.environ.update({"MLFLOW_TRACKING_URI": before} if before is not None else {})


@contextlib.contextmanager
def user_errors(overrides: Sequence[str] = ()) -> Iterator[None]:
    """Raise what the command line prints as one message as a UserError."""
    try:
        yield
    except Exception as error:
        message = format_error(error, list(overrides))
        if message is None or isinstance(error, UserError):
            raise
        raise UserError(message) from error


@contextlib.contextmanager
def as_command(overrides: Sequence[str] = ()) -> Iterator[None]:
    """In the project of the working directory; afterwards the caller's process is as it was."""
    import torch
    from pytorch_lightning.utilities.seed import isolate_rng

    environment, threads = dict(os.environ), torch.get_num_threads()
    exact, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        with signals_passed_on(), user_errors(overrides), isolate_rng(torch.cuda.is_initialized()):
            enter_project()
            yield
    finally:
        for key in os.environ.keys() - environment.keys():
            del os.environ[key]
        os.environ.update(environment)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(exact, warn_only=warn)


@contextlib.contextmanager
def signals_passed_on() -> Iterator[None]:
    """A signal that has ended the block has the effect that it has without it: Ctrl-C raises KeyboardInterrupt."""
    try:
        yield
    except SignalReceived as received:
        signal.raise_signal(received.signal_number)
        raise
