"""Parameter groups of an optimizer: which parameters are trained, and which of them decay."""

from torch import nn

from lightning_modules.config.errors import UserError
from lightning_modules.config.plain import PlainDict


def parameter_groups(
    model: nn.Module, weight_decay: float | None, decay_norms_and_biases: bool = True
) -> list[PlainDict]:
    """Return groups for a torch optimizer: one, or two of which the second does not decay.

    Frozen parameters are left out; shared ones appear once. A parameter counts as norm or bias if it has at most one
    dimension or belongs to a LayerNorm or RMSNorm. Raises UserError if there is nothing to train.

    Args:
        weight_decay: None leaves it to the optimizer.
    """
    decayed = [parameter for parameter in model.parameters() if parameter.requires_grad]
    undecayed: list[nn.Parameter] = []
    if not decayed:
        raise UserError("the model has no trainable parameters: all are frozen")
    if not decay_norms_and_biases:
        exempt = _norms_and_biases(model)
        undecayed = [parameter for parameter in decayed if id(parameter) in exempt]
        decayed = [parameter for parameter in decayed if id(parameter) not in exempt]
    groups: list[dict[str, object]] = [
        {"params": decayed, **({} if weight_decay is None else {"weight_decay": weight_decay})},
        {"params": undecayed, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _norms_and_biases(model: nn.Module) -> set[int]:
    return {
        id(parameter)
        for module in model.modules()
        for parameter in module.parameters(recurse=False)
        if parameter.ndim <= 1 or isinstance(module, nn.LayerNorm | nn.RMSNorm)
    }
