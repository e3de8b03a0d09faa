"""Local SGD: every H steps the weights of the ranks are averaged (Stich 2018, algorithm 1)."""

from lightning_modules.strategy.flatten import flatten_by_dtype, unflatten_into
from lightning_modules.strategy.local_steps import LocalSteps


class LocalSGD(LocalSteps):
    """Local steps of any optimizer, with the weights averaged every `period` steps.

    With `synchronous_steps` it is post-local SGD (Lin et al. 2018, section 3): DDP first, then local steps.

    With period 1 and SGD, with or without momentum, it equals DDP: the update is linear in the gradient, so the mean of
    the ranks' updates is the update of the mean gradient. This does not hold for Adam, nor for clipped gradients.
    """

    def end_period(self, step: int) -> None:
        unflatten_into(self.parameters(), self.mean(flatten_by_dtype(self.parameters())))
