"""What happens when a rank fails: all ranks learn which one and why, and one of them reports it.

Longer than 200 lines: signals, lost connections and errors end in the same exchange of reasons.
"""

import os
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

import pytorch_lightning as pl
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lightning_modules.compat.lightning import has_trainer, process_group_timeout, restore_on_exit
from lightning_modules.compat.torch import is_connection_error, is_port_in_use, is_timeout, num_joined
from lightning_modules.config.errors import UserError, first_line
from lightning_modules.config.signals import RunStopped, SignalReceived, received_signal, set_sigterm_action
from lightning_modules.strategy.launch.rank_status import (
    ExitReason,
    Failure,
    collect_exit_reasons,
    dead_ranks,
    other_rank_failed,
    post_exit_reason,
    write_failure,
)  # fmt: skip
from lightning_modules.strategy.launch.rendezvous import port_in_use_message

_REPORT_WAIT_S = 5.0  # for the reason of a rank that exited
_MERGE_WAIT_S = 1.0  # for the reasons of ranks that fail at the same step
_POLL_S = 0.05


def run_rank(
    strategy: DDPStrategy, reports: Path | None, function: Callable[..., object], *args: object, **kwargs: object
) -> object:
    """Call `function` as a rank of `strategy`. An error ends all ranks and is reported once.

    A rank that fails posts its reason; a rank whose collective fails looks for the reasons of the others.

    Args:
        reports: of forked ranks, the folder in which each leaves its failure for the process that forked it. Of ranks
            that are separate processes, rank 0 raises the error, and the others exit with code 1.
    """
    try:
        return function(*args, **kwargs)
    except SystemExit:
        raise
    except RunStopped as stopped:
        if reports:
            write_failure(reports, strategy.local_rank, Failure(str(stopped), stopped=True))
        raise
    except BaseException as error:
        if reports:
            _fail_forked(strategy, reports, error)
        if strategy.world_size > 1:
            _fail_process(strategy, error)
        raise


def _fail_forked(strategy: DDPStrategy, reports: Path, error: BaseException) -> None:
    """Leave the failure for the process that forked this rank, which raises it."""
    if strategy.world_size == 1:
        if isinstance(error, UserError):
            write_failure(reports, strategy.local_rank, Failure(str(error)))
        return
    number = _signal_of(strategy, error)
    _set_sigterm_action(strategy, signal.SIG_DFL)  # the process that forked this one stops it; it has nothing to save
    if number:
        raise SystemExit(128 + number) from None
    write_failure(reports, strategy.local_rank, _agree_on_failure(strategy, error, signalled=False))
    raise error


def _fail_process(strategy: DDPStrategy, error: BaseException) -> NoReturn:
    """Raise the failure in rank 0, which records the run; exit from other ranks."""
    number = _signal_of(strategy, error)
    if number and (number != signal.SIGTERM or not other_rank_failed(strategy)):
        post_exit_reason(strategy.global_rank, ExitReason("", number))
        if strategy.global_rank > 0:
            raise SystemExit(128 + number) from None
        raise error
    _set_sigterm_action(strategy, signal.SIG_IGN)  # a launcher that has seen a rank exit sends it to the others
    failure = _agree_on_failure(strategy, error, bool(number))
    if strategy.global_rank > 0 and not failure.rank_zero_dead:
        raise SystemExit(1) from None
    raise error if str(error) == failure.message else UserError(failure.message, transient=True) from error


# --- messages --------------------------------------------------------------------------------------------------
def rank_killed_message(trainer: pl.Trainer, rank: int, pid: int | None, number: int | None) -> str:
    """The message for a rank that reported no reason: which, by what signal (None or 0: unknown), and how to resume."""
    names = {int(known): known.name for known in signal.Signals}
    how = f"was killed by {names.get(number, f'signal {number}')}" if number else "exited without reporting an error"
    why = " (manually, or because memory ran out)" if not number or number == signal.SIGKILL else ""
    process = f", process {pid}," if pid else ""
    return f"Rank {rank} of {trainer.world_size}{process} {how}{why}; the remaining ranks were stopped{_resume_hint(trainer)}"


def _resume_hint(trainer: pl.Trainer) -> str:
    """``; resume=ID continues …`` if a run is recorded and has a checkpoint."""
    run_id = getattr(trainer.logger, "version", None)
    saved = any(hasattr(callback, "path") and callback.path.exists() for callback in trainer.checkpoint_callbacks)
    return f"; resume={run_id} continues from the last checkpoint" if run_id and saved else ""


def merge_errors(reasons: Mapping[int, ExitReason], world_size: int) -> str:
    """One message of the errors by rank: only those of the first step, which may have caused the others."""
    step = min(reason.step for reason in reasons.values())
    first = {rank: reason.message for rank, reason in sorted(reasons.items()) if reason.step == step}
    if len(first) == world_size and (step > 0 or len(set(first.values())) == 1):
        return first[0]
    return "\n".join(f"Rank {rank} of {world_size}: {text}" for rank, text in first.items())


def _describe_error(error: BaseException) -> str:
    """The message of a user's mistake; type, message and line of any other error."""
    if isinstance(error, UserError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def _rendezvous_message(strategy: DDPStrategy, error: BaseException) -> str:
    """Why the ranks did not find each other, or the error as it is."""
    if is_port_in_use(error):
        return port_in_use_message(os.environ.get("MASTER_PORT", ""))
    if not is_connection_error(error):
        return _describe_error(error)
    if strategy.global_rank > 0:
        time.sleep(_REPORT_WAIT_S)  # rank 0 knows how many joined
    joined = num_joined(error)
    return (
        f"After strategy.timeout_s={process_group_timeout(strategy):g} seconds "
        f"{'not all' if joined is None else f'{joined} of'} {strategy.world_size} ranks have joined at MASTER_ADDR="
        f"{os.environ.get('MASTER_ADDR')} MASTER_PORT={os.environ.get('MASTER_PORT')}: start the others "
        f"(trainer.num_nodes={strategy.num_nodes}, NODE_RANK=0 … {strategy.num_nodes - 1}), or use fewer nodes or devices"
    )


# --- agreement -------------------------------------------------------------------------------------------------
def _agree_on_failure(strategy: DDPStrategy, error: BaseException, signalled: bool) -> Failure:
    """Exchange reasons with the other ranks; what they agree on."""
    if not dist.is_initialized():
        return Failure(_rendezvous_message(strategy, error))
    own = not (signalled or is_connection_error(error))
    if own:
        reason = ExitReason(_describe_error(error), step=getattr(error, "step", 0))
        post_exit_reason(strategy.global_rank, reason)
    if failure := _wait_for_reasons(strategy, own):
        return failure
    me = f"Rank {strategy.global_rank} of {strategy.world_size}"
    if own:
        return Failure(f"{me}: {_describe_error(error)}")
    waited = f" (strategy.timeout_s={process_group_timeout(strategy):g})" if is_timeout(error) else ""
    hint = _resume_hint(_trainer(strategy))
    return Failure(f"{me} lost connection to the other ranks{waited}: {first_line(error)}{hint}", guessed=True)


def _wait_for_reasons(strategy: DDPStrategy, own: bool) -> Failure | None:
    """The failure by the reasons that arrive in time; None without any. `own`: this rank posted one itself."""
    end = time.monotonic() + (_MERGE_WAIT_S if own else _REPORT_WAIT_S)
    while (reasons := collect_exit_reasons(strategy.world_size)) is not None:
        errors = {rank: reason for rank, reason in reasons.items() if reason.signal is None}
        late = time.monotonic() > end
        if errors and (late or not own or len(errors) == strategy.world_size):
            return Failure(merge_errors(errors, strategy.world_size))
        if not own and (dead := dead_ranks(strategy)):
            rank, (pid, number) = min(dead.items())
            message = rank_killed_message(_trainer(strategy), rank, pid, number)
            return Failure(message, guessed=number is None, rank_zero_dead=0 in dead)
        if late:
            return None
        time.sleep(_POLL_S)
    return None


def _trainer(strategy: DDPStrategy) -> pl.Trainer:
    assert strategy.lightning_module is not None
    return strategy.lightning_module.trainer


# --- signals ---------------------------------------------------------------------------------------------------
def _signal_of(strategy: DDPStrategy, error: BaseException) -> int | None:
    """The signal that ends this rank, if one does."""
    if isinstance(error, SignalReceived):
        return error.signal_number
    if isinstance(error, KeyboardInterrupt):
        return int(signal.SIGINT)
    task = strategy.lightning_module
    received = task is not None and has_trainer(task) and task.trainer.received_sigterm
    return int(signal.SIGTERM) if received or isinstance(error, SIGTERMException) else received_signal()


def _set_sigterm_action(strategy: DDPStrategy, action: signal.Handlers) -> None:
    """Set the action of SIGTERM from now on, also after Lightning has restored the handlers."""
    task = strategy.lightning_module
    if set_sigterm_action(action) and task is not None and has_trainer(task):
        restore_on_exit(task.trainer, action)
