"""Pairs of a generator and a discriminator: of images (DCGAN, Radford et al. 2016) and of points."""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from annotated_types import Ge
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from lightning_modules.config.bounds import Count, Positive, bounded
from lightning_modules.config.errors import UserError

Norm = Literal["batch", "spectral", "none"]


class GeneratorAndDiscriminator(nn.Module):
    """Latent vectors [B, latent] -> samples [B, *input_shape]; the discriminator maps samples to scores [B, 1].

    Weights are initialised from N(0, init_std^2), biases are 0.
    """

    def __init__(
        self, generator: nn.Module, discriminator: nn.Module, input_shape: Sequence[int], latent: int, init_std: float
    ) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator
        self.input_shape, self.latent = tuple(input_shape), latent
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(layer.weight, std=init_std)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, latents: Tensor) -> Tensor:
        samples: Tensor = self.generator(latents)
        return samples


class DCGAN(GeneratorAndDiscriminator):
    """Images in [-1, 1] whose sides are multiples of 4, with two strided (transposed) convolutions in each network.

    Args:
        input_shape: [C, H, W]; from the data.
        width: channels of the convolution at half the size; twice as many at a quarter.
        norm: of the discriminator. ``spectral``: Miyato et al. 2018.
    """

    @bounded
    def __init__(
        self,
        input_shape: Sequence[int],
        latent: Count = 64,
        width: Count = 32,
        norm: Norm = "batch",
        init_std: Positive = 0.02,
    ) -> None:
        if len(input_shape) != 3 or any(side % 4 for side in input_shape[1:]):
            raise UserError(
                f"model=dcgan needs images [C, H, W] with sides that are multiples of 4, the data gives "
                f"{list(input_shape)}; model=mlp_gan takes points"
            )
        channels, height, columns = (int(size) for size in input_shape)
        height, columns = height // 4, columns // 4
        generator = nn.Sequential(
            nn.Linear(latent, 2 * width * height * columns, bias=False),
            nn.Unflatten(1, (2 * width, height, columns)),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, channels, 4, 2, 1),
            nn.Tanh(),
        )
        discriminator = nn.Sequential(
            nn.Conv2d(channels, width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            *([nn.BatchNorm2d(2 * width)] if norm == "batch" else []),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(2 * width * height * columns, 1),
        )
        super().__init__(generator, discriminator, input_shape, latent, init_std)
        _normalise(discriminator, norm)


class MLPGAN(GeneratorAndDiscriminator):
    """Points [D] of perceptrons: the generator has batch norm and ReLU, the discriminator maxout or LeakyReLU.

    Args:
        input_shape: [D]; from the data.
        generator, discriminator: widths of the hidden layers.
        maxout: linear pieces of which each unit of the discriminator takes the largest; 1: LeakyReLU.
        packing: samples that the discriminator judges together (Lin et al. 2018, PacGAN); divides the batch size.
        norm: of the discriminator.
    """

    @bounded
    def __init__(
        self,
        input_shape: Sequence[int],
        latent: Count = 2,
        generator: Sequence[int] = (128, 128),
        discriminator: Sequence[int] = (128, 128),
        maxout: Count = 1,
        packing: Count = 1,
        norm: Literal["spectral", "none"] = "none",
        init_std: Positive = 0.02,
        batch_norm_momentum: Annotated[float, Ge(0)] = 0.1,
    ) -> None:
        if len(input_shape) != 1:
            raise UserError(f"model=mlp_gan needs points [D], the data gives {list(input_shape)}; try model=dcgan")
        size = int(input_shape[0])
        layers: list[nn.Module] = []
        for inputs, outputs in zip([latent, *generator], generator, strict=False):
            norm_layer = nn.BatchNorm1d(outputs, momentum=batch_norm_momentum)
            layers += [nn.Linear(inputs, outputs, bias=False), norm_layer, nn.ReLU()]
        judge: list[nn.Module] = [Pack(packing)] if packing > 1 else []
        for inputs, outputs in zip([packing * size, *discriminator], discriminator, strict=False):
            judge += [nn.Linear(inputs, maxout * outputs), Maxout(maxout) if maxout > 1 else nn.LeakyReLU(0.2)]
        judge.append(nn.Linear([packing * size, *discriminator][-1], 1))
        layers.append(nn.Linear([latent, *generator][-1], size))
        super().__init__(nn.Sequential(*layers), nn.Sequential(*judge), input_shape, latent, init_std)
        _normalise(self.discriminator, norm)


class Maxout(nn.Module):
    """[B, pieces * D] -> [B, D]: the largest of each `pieces` consecutive values (Goodfellow et al. 2013)."""

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.pieces)).amax(-1)


class Pack(nn.Module):
    """[B, D] -> [B / count, count * D]: consecutive samples joined. Raises UserError if B is no multiple of `count`."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        if len(x) % self.count:
            raise UserError(
                f"model.packing={self.count}: a batch has {len(x)} samples; use a data.batch_size that it divides, with "
                "data.drop_last=true"
            )
        return x.reshape(len(x) // self.count, -1)


def _normalise(discriminator: nn.Module, norm: str) -> None:
    if norm == "spectral":
        wrap: Callable[[nn.Module], nn.Module] = spectral_norm
        for layer in discriminator.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                wrap(layer)
