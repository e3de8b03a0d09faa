"""Which linear layers are cut over the ranks, and how: pairs by column and row, others by column alone."""

from collections.abc import Sequence

from torch import nn
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel

from lightning_modules.config.errors import UserError
from lightning_modules.model.mlp import MLP

_ELEMENTWISE = (nn.ReLU, nn.GELU, nn.SiLU, nn.ELU, nn.Tanh, nn.Sigmoid, nn.Dropout, nn.Identity)  # act on units alone
_FUSED_ATTENTION = (nn.MultiheadAttention,)  # uses the weights of its projection without calling it


def parallelize_plan(model: nn.Module, ranks: int) -> dict[str, ParallelStyle]:
    """For ``parallelize_module``: the names of `model`'s linear layers, and how each is cut into `ranks` parts.

    Of two layers with nothing but functions of single units between them, the first is cut by its outputs and the
    second by its inputs: one sum over the ranks in each direction (Shoeybi et al. 2019, section 3). Such pairs are
    those of an `MLP`, of a ``Sequential`` and of torch's encoder layers. Each other layer is cut by its outputs, which
    are gathered at once. Layers with fewer units than ranks, and attention that torch has fused, stay whole.

    Raises:
        UserError: no layer can be cut.
    """
    plan: dict[str, ParallelStyle] = {}
    fused = [name for name, module in model.named_modules() if isinstance(module, _FUSED_ATTENTION)]
    for first, second in linear_pairs(model):
        if _has_enough_outputs(model, first, ranks):
            plan |= {first: ColwiseParallel(), second: RowwiseParallel()}
    for name, module in model.named_modules():
        single = isinstance(module, nn.Linear) and name not in plan and _has_enough_outputs(model, name, ranks)
        if single and not any(name.startswith(f"{attention}.") for attention in fused):
            plan[name] = ColwiseParallel(output_layouts=Replicate())
    if not plan:
        raise UserError(
            f"strategy=tensor_parallel: {type(model).__name__} has no linear layer of at least {ranks} outputs that could be "
            "cut; use strategy=fsdp2 or strategy=ddp"
        )
    return plan


def is_rowwise(style: ParallelStyle) -> bool:
    """Whether a layer is cut by its inputs."""
    return isinstance(style, RowwiseParallel)


def linear_pairs(model: nn.Module) -> list[tuple[str, str]]:
    """The names of linear layers whose outputs reach one other linear layer through functions of single units alone."""
    found: list[tuple[str, str]] = []
    for name, module in model.named_modules():
        here = f"{name}." if name else ""
        if isinstance(module, MLP) and not module.residual:
            chain = [f"{here}hidden.{i}" for i in range(len(module.hidden))] + [f"{here}head"]
            found += list(zip(chain[::2], chain[1::2], strict=False))
        elif isinstance(module, nn.TransformerEncoderLayer):
            found.append((f"{here}linear1", f"{here}linear2"))
        elif isinstance(module, nn.Sequential):
            found += [(f"{here}{a}", f"{here}{b}") for a, b in _pairs_in_sequence(list(module))]
    return found


def _pairs_in_sequence(layers: Sequence[nn.Module]) -> list[tuple[int, int]]:
    """Positions of linear layers in a sequence that make pairs; none is in two."""
    found, open_at = [], -1
    for position, layer in enumerate(layers):
        if isinstance(layer, nn.Linear):
            if open_at >= 0:
                found.append((open_at, position))
                open_at = -1
            else:
                open_at = position
        elif not isinstance(layer, _ELEMENTWISE):
            open_at = -1
    return found


def _has_enough_outputs(model: nn.Module, name: str, ranks: int) -> bool:
    layer = model.get_submodule(name)
    return isinstance(layer, nn.Linear) and layer.out_features >= ranks
