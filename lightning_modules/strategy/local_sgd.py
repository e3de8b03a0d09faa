"""Local SGD: every H steps the weights of the ranks are averaged (Stich 2018, algorithm 1)."""

from lightning_modules.strategy.flatten import flatten_by_dtype, unflatten_into
from lightning_modules.strategy.local_steps import LocalSteps


class LocalSGD(LocalSteps):
    """Local steps of any optimizer, and the mean of the weights every `period` steps.

    With `synchronous_steps` it is post-local SGD (Lin et al. 2018, section 3): DDP first, local steps after it.

    With period 1 and SGD, with or without momentum, it is DDP: the mean of the ranks' steps is the step of the mean
    gradient, as both are linear in the gradient. With Adam it is not: each rank divides by the root of the squares of
    its own gradients, and their mean is not that of the mean gradient. With clipped gradients it is not either.
    """

    def end_period(self, step: int) -> None:
        unflatten_into(self.parameters(), self.mean(flatten_by_dtype(self.parameters())))
