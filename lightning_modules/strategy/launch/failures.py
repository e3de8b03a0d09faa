"""What the others do when one rank fails: they learn which one and why, and one of them tells it."""

import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch.distributed as dist
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lightning_modules.compat.lightning import has_trainer, process_group_timeout, restore_on_exit
from lightning_modules.config.errors import UserError
from lightning_modules.config.signals import RunStopped, SignalReceived, received_signal
from lightning_modules.strategy.launch.rank_status import (
    ExitReason,
    collect_exit_reasons,
    dead_ranks,
    other_rank_failed,
    post_exit_reason,
)

_REPORT_WAIT_S = 5.0  # for the word of a rank that is gone
_MERGE_WAIT_S = 1.0  # for the words of ranks that fail at the same step
_POLL_S = 0.05
_STEP = re.compile(r"at step (\d+)")
_JOINED = re.compile(r"(\d+)/(\d+) clients joined")
_CONNECTION_ERROR = re.compile(
    r"gloo|NCCL|Connection (closed|reset|refused)|[Tt]imed? ?out|recvValue|sendBytes", re.DOTALL
)
_ALONE, _UNKNOWN = "has lost the others", "has ended without a word"


def run_rank(strategy: Any, forked: bool, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call `function` as a rank of `strategy`; an error ends all ranks, and is told once.

    A rank that fails leaves word of it. One whose collective fails looks for the words of the others. Forked ranks raise
    what all agree on, for the process that forked them; of others the first one does, and the rest exit with 1.
    """
    try:
        return function(*args, **kwargs)
    except RunStopped:
        raise
    except BaseException as error:
        if strategy.world_size == 1 or type(error) is SystemExit:
            raise
        number = _received_signal(strategy, error)
        if forked:
            _set_sigterm_action(
                strategy, signal.SIG_DFL
            )  # the process that forked this one ends it; it has nothing to save
            if number:
                raise SystemExit(128 + number) from None
        elif number and (number != signal.SIGTERM or not other_rank_failed(strategy)):
            post_exit_reason(strategy.global_rank, ExitReason("", number))
            _exit_rank(strategy, error, None, number)
        else:
            _set_sigterm_action(
                strategy, signal.SIG_IGN
            )  # a launcher that has seen a rank end asks the others to end as well
        message, lead_lost = _agree_on_message(strategy, error, bool(number))
        if forked:
            raise error if str(error) == message else UserError(message) from error
        _exit_rank(strategy, error, message, None, lead_lost)


def describe_fork_failure(trainer: Any, text: str) -> str:
    """What a forked rank raised, or, where it knows no more than that it lost another one, how that one ended."""
    if _ALONE in text or _UNKNOWN in text:
        for rank, process in enumerate(trainer.strategy.launcher.procs):
            if (process.exitcode or 0) < 0 and process.exitcode != -signal.SIGTERM:  # which the others were sent
                return rank_killed_message(trainer, rank, process.pid, -process.exitcode)
    return text


def rank_killed_message(trainer: Any, rank: int, pid: int | None, number: int | None) -> str:
    """The message for a rank that ended without a word: which, by what signal (None: unknown), and how to go on."""
    by = f"was ended by {_signal_name(number)}" if number else _UNKNOWN
    why = " (by hand, or because memory ran out)" if number in (None, signal.SIGKILL) else ""
    process = f", process {pid}," if pid else ""
    return f"Rank {rank} of {trainer.world_size}{process} {by}{why}, and the others with it{resume_hint(trainer)}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def warn(text: str) -> None:
    """Print a warning on the terminal, and keep it in the log of the run where one is recorded."""
    print(text, file=sys.stderr, flush=True)
    if logging.getLogger().handlers:  # without them it would be printed again
        logging.getLogger(__name__).warning(text)


def resume_hint(trainer: Any) -> str:
    """``; resume=ID goes on …`` where a run is recorded and has a checkpoint."""
    run_id = getattr(trainer.logger, "version", None)
    paths = [callback.path for callback in trainer.checkpoint_callbacks if hasattr(callback, "path")]
    if not run_id or not any(path.exists() for path in paths):
        return ""
    return f"; resume={run_id} goes on from the last checkpoint"


# --- the message -----------------------------------------------------------------------------------------------
def _agree_on_message(strategy: Any, error: BaseException, signalled: bool) -> tuple[str, bool]:
    """The message for all ranks, and whether the first one, which tells it, is gone."""
    if not dist.is_initialized():
        return _rendezvous_message(strategy, error), False
    mine = not (signalled or is_connection_error(error))
    if mine:
        post_exit_reason(strategy.global_rank, ExitReason(_describe_error(error)))
    end = time.monotonic() + (_MERGE_WAIT_S if mine else _REPORT_WAIT_S)
    while (words := collect_exit_reasons(strategy.world_size)) is not None:
        faults = {rank: word for rank, word in words.items() if word.signal is None}
        late = time.monotonic() > end
        if faults and (late or not mine or len(faults) == strategy.world_size):
            return merge_errors(faults, strategy.world_size), False
        if not mine and (lost := dead_ranks(strategy)):
            rank = min(lost)
            return rank_killed_message(strategy.lightning_module.trainer, rank, *lost[rank]), 0 in lost
        if late:
            break
        time.sleep(_POLL_S)
    if mine:
        return f"Rank {strategy.global_rank} of {strategy.world_size}: {_describe_error(error)}", False
    trainer = strategy.lightning_module.trainer
    return f"{_connection_lost_message(strategy, error)}{resume_hint(trainer)}", False


def merge_errors(words: Mapping[int, ExitReason], world_size: int) -> str:
    """One message of the mistakes by rank: of several, those of the first step, which the others may come from."""
    steps = {rank: int(found.group(1)) if (found := _STEP.search(w.text)) else 0 for rank, w in words.items()}
    first = {rank: w.text for rank, w in sorted(words.items()) if steps[rank] == min(steps.values())}
    everywhere = len(first) == world_size and (len(set(first.values())) == 1 or min(steps.values()) > 0)
    if everywhere:
        return first[0]
    return "\n".join(f"Rank {rank} of {world_size}: {text}" for rank, text in first.items())


def is_connection_error(error: BaseException) -> bool:
    """Whether a collective has failed, as it does on all ranks when one of them ends."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and bool(_CONNECTION_ERROR.search(str(error)))
    )


def _describe_error(error: BaseException) -> str:
    """A user's mistake as it is; a fault of the program with its kind and place."""
    if isinstance(error, UserError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def _rendezvous_message(strategy: Any, error: BaseException) -> str:
    """What hindered the ranks from coming together, or the error as it is."""
    text = str(error)
    if "EADDRINUSE" in text or "address already in use" in text.lower():
        return port_in_use_message(os.environ.get("MASTER_PORT", ""))
    waited = process_group_timeout(strategy)
    if not is_connection_error(error):
        return _describe_error(error)
    if strategy.global_rank > 0:
        time.sleep(_REPORT_WAIT_S)  # the first rank knows how many came
    came = _JOINED.search(text)
    count = f"{came.group(1)} of {strategy.world_size}" if came else f"not all {strategy.world_size}"
    return (
        f"After strategy.timeout_s={waited:g} seconds {count} ranks have come to MASTER_ADDR="
        f"{os.environ.get('MASTER_ADDR')} MASTER_PORT={os.environ.get('MASTER_PORT')}: start the others "
        f"(trainer.num_nodes={strategy.num_nodes}, NODE_RANK=0 … {strategy.num_nodes - 1}), or take fewer nodes or devices"
    )


def port_in_use_message(port: int | str) -> str:
    """The message for a port that another program listens on."""
    return (
        f"MASTER_PORT={port}: another program of this machine listens on that port; "
        "unset MASTER_PORT, and a free one is taken, or give another one"
    )


def _connection_lost_message(strategy: Any, error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    waited = process_group_timeout(strategy)
    hint = f" (strategy.timeout_s={waited:g})" if re.search("[Tt]imed? ?out", lines[0]) else ""
    return f"Rank {strategy.global_rank} of {strategy.world_size} {_ALONE}{hint}: {lines[0]}"


# --- the end ---------------------------------------------------------------------------------------------------
def _received_signal(strategy: Any, error: BaseException) -> int | None:
    if isinstance(error, SignalReceived):
        return error.signal_number
    if isinstance(error, KeyboardInterrupt):
        return int(signal.SIGINT)
    task = strategy.lightning_module
    received = task is not None and has_trainer(task) and task.trainer.received_sigterm
    return int(signal.SIGTERM) if received or isinstance(error, SIGTERMException) else received_signal()


def _set_sigterm_action(strategy: Any, action: Any) -> None:
    """Set what SIGTERM does from now on, after Lightning has put the handlers back too."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, action)
        task = strategy.lightning_module
        if task is not None and has_trainer(task):
            restore_on_exit(task.trainer, action)


def _exit_rank(
    strategy: Any, error: BaseException, message: str | None, number: int | None, lead_lost: bool = False
) -> NoReturn:
    if strategy.global_rank > 0 and not lead_lost:
        raise SystemExit(128 + number if number else 1) from None
    if message is None or str(error) == message:
        raise error
    raise UserError(message) from error
