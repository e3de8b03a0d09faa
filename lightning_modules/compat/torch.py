"""What we need of torch beyond its public interface."""

import os
import re
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm  # the one base of BatchNorm1d, 2d and 3d
from torch.nn.modules.batchnorm import _NormBase as BatchOrInstanceNorm  # the one base of batch and instance norms
from torch.nn.modules.conv import _ConvNd as Convolution  # the one base of all convolutions, transposed ones too
from torch.nn.parallel import DistributedDataParallel

__all__ = ["BatchNorm", "BatchOrInstanceNorm", "Convolution"]
StateDict = dict[str, Any]  # tensors and plain values, nested, as torch's `state_dict` methods return them


def check_input_dim(layer: BatchNorm, x: Tensor) -> None:
    """Raise as the layer does where `x` has not its number of axes: our batch norm over the ranks replaces `forward`."""
    layer._check_input_dim(x)


def is_compiled(module: nn.Module) -> bool:
    """Whether `module.compile()` was called: torch does not say so."""
    return module._compiled_call_impl is not None


def tensor_version(tensor: Tensor) -> int:
    """How often the tensor was changed in place: what was computed from it is computed again after a change."""
    return tensor._version


def replace_forward(module: nn.Module, forward: Callable[..., object]) -> None:
    """Call `forward` for this one module, which keeps its class, names and parameters."""
    module.forward = forward


def restore_forward(module: nn.Module) -> None:
    """Undo `replace_forward`."""
    module.__dict__.pop("forward", None)


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """The module's table of its own parameters, to be written to: shared ones and None are in it under each name."""
    return module._parameters


def share_members(module: nn.Module, source: nn.Module) -> None:
    """Make the parameters, buffers and submodules of `source` those of `module` too, under the same names."""
    module._parameters, module._buffers, module._modules = source._parameters, source._buffers, source._modules
    module._non_persistent_buffers_set = source._non_persistent_buffers_set


# --- learning rate schedules -----------------------------------------------------------------------------------
def one_cycle_plan(schedule: torch.optim.lr_scheduler.OneCycleLR) -> dict[str, object]:
    """The part of the state that says how long the schedule is: it comes from the config, not from a checkpoint."""
    return {"total_steps": schedule.total_steps, "_schedule_phases": schedule._schedule_phases}


def set_last_lr(schedule: torch.optim.lr_scheduler.LRScheduler, rates: list[float | Tensor]) -> None:
    """Have `get_last_lr` return `rates`: after a restart we set the optimizer's rates without a step."""
    schedule._last_lr = rates


# --- processes -------------------------------------------------------------------------------------------------
def default_store() -> dist.Store:
    """The key-value store of the default process group: ranks leave messages in it when collectives no longer work."""
    return dist.distributed_c10d._get_default_store()


def meet_at_port(port: int) -> None:
    """Have the default process group meet at `port` of the first rank, not in the store of torchrun's agent."""
    os.environ["MASTER_PORT"] = str(port)
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # the first rank has the store of this attempt


def may_restart() -> bool:
    """Whether torchrun's agent may start these ranks again, with the store of the attempts before."""
    return (
        os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
        and int(os.environ.get("WORLD_SIZE", "1")) > 1
    )


def set_ddp_sync(model: DistributedDataParallel, sync: bool) -> None:
    """Send gradients and buffers in the next step or not, as `no_sync` does: a step is not a block of ours."""
    model.require_backward_grad_sync = sync
    model.require_forward_param_sync = sync  # else the next forward would take rank 0's buffers


def sends_gradients(model: DistributedDataParallel) -> bool:
    """Whether the backward pass averages gradients: not in the steps that accumulate them."""
    return bool(model.require_backward_grad_sync)


def sample_ddp_timing(model: DistributedDataParallel, every: int) -> None:
    """Time one backward pass in `every`: DDP's default of 100 leaves a short epoch without a sample."""
    model._set_ddp_runtime_logging_sample_rate(every)


def ddp_timing(model: DistributedDataParallel) -> dict[str, float]:
    """DDP's own clocks, in nanoseconds: only its reducer knows what communication overlaps with."""
    return dict(model._get_ddp_logging_data())


def shard_offset(tensor: Any) -> tuple[int, ...]:
    """Where this rank's shard of a DTensor begins in the whole one: the public interface gives its contents only."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    _, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tuple(offset)


# --- AOTInductor: its public home is torch._inductor -----------------------------------------------------------
def compile_aoti(program: torch.export.ExportedProgram, path: str) -> None:
    """Compile to a package; the number of threads is that of the machine that runs it, not of this one."""
    from torch._inductor import aoti_compile_and_package, config

    with config.patch({"cpp.dynamic_threads": True}):
        aoti_compile_and_package(program, package_path=path)


def load_aoti(path: str) -> Callable[..., object]:
    """Load a package of `compile_aoti`."""
    from torch._inductor import aoti_load_package

    return aoti_load_package(path)


def require_cpp_compiler() -> None:
    """Raise where Inductor finds no C++ compiler, before a long export is begun."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    get_cpp_compiler()


# --- errors of collectives: torch raises RuntimeErrors that differ in their text only --------------------------
_CONNECTION_ERROR = re.compile(r"gloo|NCCL|Connection (closed|reset|refused)|[Tt]imed? ?out|recvValue|sendBytes")
_JOINED = re.compile(r"(\d+)/\d+ clients joined")


def is_connection_error(error: BaseException) -> bool:
    """Whether a collective failed, as it does on all ranks when one of them exits."""
    known = isinstance(error, RuntimeError) and _CONNECTION_ERROR.search(str(error)) is not None
    return known or isinstance(error, dist.DistError)


def is_timeout(error: BaseException) -> bool:
    """Whether a collective failed because it took too long."""
    return re.search("[Tt]imed? ?out", str(error).partition("\n")[0]) is not None


def is_port_in_use(error: BaseException) -> bool:
    """Whether the store of a process group could not listen on its port."""
    return "EADDRINUSE" in str(error) or "address already in use" in str(error).lower()


def num_joined(error: BaseException) -> int | None:
    """How many ranks had joined the process group when it timed out, if torch says so."""
    found = _JOINED.search(str(error))
    return int(found.group(1)) if found else None
