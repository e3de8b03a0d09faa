"""Generative adversarial networks: two optimizers take turns, and samples of the generator are measured."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Literal

import pytorch_lightning as pl
import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lightning_modules.compat.torch import BatchNorm
from lightning_modules.config.bounds import Count, NonNegative, Seed, bounded
from lightning_modules.config.errors import UserError
from lightning_modules.config.signals import raise_if_received
from lightning_modules.task.batches import as_dict
from lightning_modules.task.nan_guard import NanGuard
from lightning_modules.task.rng import derive_seed
from lightning_modules.zoo.model.gan import GeneratorAndDiscriminator
from lightning_modules.zoo.task.gan_metrics import ClassifierFeatures, feature_metrics, mode_metrics

_FIXED = 2**40  # as a step: the latents of all evaluations and pictures


class GAN(pl.LightningModule):
    """Trains a generator against a discriminator; served, it maps latents [B, latent] to samples.

    Each batch is a step of the discriminator, and every `critic_steps` batches one of the generator follows, on the same
    generated samples. Images are uint8, or floats in 0..1, and are trained on in -1..1; served ones are in 0..1. Latents
    are normal, and a function of (seed, batch, rank) only.

    Args:
        model: `DCGAN`, `MLPGAN` or another `GeneratorAndDiscriminator`.
        optimizer: partial of a ``torch.optim.Optimizer``, for each of the two networks.
        discriminator_optimizer: arguments of the discriminator's optimizer that differ, such as ``{lr: 4e-4}``.
        loss: ``nonsaturating`` (Goodfellow et al. 2014) or ``wasserstein_gp`` (Gulrajani et al. 2017).
        penalty: weight of the gradient penalty of ``wasserstein_gp``.
        ema: decay of the averaged generator, which then gives the samples, metrics and served model; 0: none.
        num_samples: generated for the metrics of an evaluation.
        features: a classifier's run, in whose features images are measured: ``fid``, ``precision`` and ``recall``.
        seed: of the latents.
    """

    @bounded
    def __init__(
        self,
        model: nn.Module,
        optimizer: Callable[..., torch.optim.Optimizer],
        *,
        loss: Literal["nonsaturating", "wasserstein_gp"] = "nonsaturating",
        critic_steps: Count = 1,
        penalty: NonNegative = 10.0,
        ema: Annotated[float, Ge(0), Lt(1)] = 0.0,
        discriminator_optimizer: Mapping[str, Any] | None = None,
        num_samples: Annotated[int, Ge(2)] = 2500,
        features: str | None = None,
        seed: Seed = 0,
    ) -> None:
        super().__init__()
        if not isinstance(model, GeneratorAndDiscriminator):
            raise UserError(f"task=gan: {type(model).__name__} is not a pair of networks; try model=dcgan or mlp_gan")
        if loss == "wasserstein_gp" and any(isinstance(layer, BatchNorm) for layer in model.discriminator.modules()):
            raise UserError(
                "task.loss=wasserstein_gp: its gradient penalty is one of each sample, so the discriminator cannot have batch "
                "norm; use model.norm=none or spectral"
            )
        self.automatic_optimization = False
        self.model, self.loss, self.critic_steps, self.penalty = model, loss, critic_steps, penalty
        average = get_ema_multi_avg_fn(ema)
        self.ema = AveragedModel(model.generator, multi_avg_fn=average) if ema else None
        self.num_samples, self.features, self.seed = num_samples, features, seed
        self._optimizers = optimizer, partial(optimizer, **(discriminator_optimizer or {}))
        self._noise = torch.Generator()
        self._classifier: list[ClassifierFeatures] = []  # in a list: no part of the module
        self._real: list[Tensor] = []
        self.nan_guard = NanGuard(50)
        self.example_input_array = self._latents(2)

    @property
    def makes_images(self) -> bool:
        """Whether samples are images [C, H, W], rather than points."""
        return len(self.model.input_shape) == 3

    # --- samples -----------------------------------------------------------------------------------------------
    def forward(self, latents: Tensor) -> Tensor:
        """Images [B, C, H, W] in 0..1, or points [B, D]; of the averaged generator where there is one."""
        samples: Tensor = (self.model.generator if self.ema is None else self.ema)(latents)
        return (samples + 1) / 2 if self.makes_images else samples

    def _latents(self, count: int) -> Tensor:
        return torch.randn(count, self.model.latent, generator=self._noise)

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """Samples of fixed latents, the first ones of which are the same for each `count`; on the CPU."""
        self._noise.manual_seed(derive_seed(self.seed, _FIXED, 0))
        training, latents = self.training, self._latents(self.num_samples if count <= self.num_samples else count)
        try:
            self.eval()
            return torch.cat([self(part.to(self.device)).cpu() for part in latents[:count].split(512)])
        finally:
            self.train(training)

    # --- training ----------------------------------------------------------------------------------------------
    def training_step(self, batch: Any, batch_idx: int) -> None:
        raise_if_received()
        batch, step = as_dict(batch), self.trainer.fit_loop.epoch_loop.total_batch_idx
        real = self._to_training_range(batch["x"])
        self._noise.manual_seed(derive_seed(self.seed, step, self.global_rank))
        of_generator, of_discriminator = self.optimizers()  # type: ignore[attr-defined]
        updates_generator = (step + 1) % self.critic_steps == 0
        with torch.set_grad_enabled(updates_generator):
            fake = self.model.generator(self._latents(len(real)).to(self.device))
        losses = {"discriminator_loss": self._discriminator_loss(real, fake.detach())}
        self._update(of_discriminator, losses["discriminator_loss"])
        if updates_generator:
            self.toggle_optimizer(of_generator)
            losses["generator_loss"] = self._generator_loss(fake)
            self._update(of_generator, losses["generator_loss"])
            self.untoggle_optimizer(of_generator)
            if self.ema is not None:
                self.ema.update_parameters(self.model.generator)
        for loss in losses.values():
            self.nan_guard.record(
                step, loss.detach(), batch.get("index", batch["y"][:0]), of_generator.param_groups[0]["lr"]
            )
        shown = {f"train/{name}": loss.detach() for name, loss in losses.items()}
        for logger in self.loggers if (step + 1) % self.nan_guard.window == 0 else ():
            logger.log_metrics(shown, step)  # type: ignore[arg-type]

    def _to_training_range(self, x: Tensor) -> Tensor:
        if not self.makes_images:
            return x
        return x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x * 2 - 1

    def _discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        on_real, on_fake = self.model.discriminator(real), self.model.discriminator(fake)
        if self.loss == "nonsaturating":
            return F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
        return on_fake.mean() - on_real.mean() + self.penalty * self._gradient_penalty(real, fake)

    def _generator_loss(self, fake: Tensor) -> Tensor:
        judged = self.model.discriminator(fake)
        return F.softplus(-judged).mean() if self.loss == "nonsaturating" else -judged.mean()

    def _gradient_penalty(self, real: Tensor, fake: Tensor) -> Tensor:
        """The mean squared distance to 1 of the gradient's norm, between real and generated samples."""
        shares = torch.rand(len(real), *[1] * (real.ndim - 1), generator=self._noise).to(self.device)
        between = (shares * real + (1 - shares) * fake).requires_grad_()
        scores = self.model.discriminator(between)
        (gradient,) = torch.autograd.grad(scores.sum(), between, create_graph=True)
        return (gradient.reshape(len(scores), -1).norm(dim=1) - 1).square().mean()

    def _update(self, optimizer: Any, loss: Tensor) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        of_generator, of_discriminator = self._optimizers
        return [
            of_generator(list(self.model.generator.parameters())),
            of_discriminator(list(self.model.discriminator.parameters())),
        ]

    def on_fit_start(self) -> None:
        self.nan_guard = NanGuard(self.trainer.log_every_n_steps)  # type: ignore[attr-defined]

    def on_train_epoch_end(self) -> None:
        self.nan_guard.check()

    # --- evaluation --------------------------------------------------------------------------------------------
    def setup(self, stage: str) -> None:
        if self.features and not self._classifier:
            if self.trainer.world_size > 1:
                raise UserError("task.features: images are measured in one process; use trainer.devices=1")
            self._classifier = [ClassifierFeatures(self.features, self.model.input_shape)]

    def on_validation_epoch_start(self) -> None:
        self.nan_guard.check()
        self._real = []

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if self._classifier and sum(map(len, self._real)) < self.num_samples:
            self._real.append(self._classifier[0](as_dict(batch)["x"]))

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")

    def on_test_epoch_start(self) -> None:
        self._real = []

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    def _log_metrics(self, part: str) -> None:
        data, found = self.trainer.datamodule, {}  # type: ignore[attr-defined]
        if (centers := getattr(data, "centers", None)) is not None and not self.makes_images:
            found = mode_metrics(self.sample(self.num_samples), centers, data.std)
        if self._real:
            real = torch.cat(self._real)[: self.num_samples]
            found |= feature_metrics(real, self._classifier[0].of_unit_images(self.sample(len(real))))
        self.log_dict({f"{part}/{name}": value for name, value in found.items()})
