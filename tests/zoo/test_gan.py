"""GANs: their networks, losses and metrics against closed forms and independent computations."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from sklearn.neighbors import NearestNeighbors
from torch import nn

from lightning_modules.config.errors import UserError
from lightning_modules.zoo.data.generated_datasets import GaussianGrid
from lightning_modules.zoo.model.gan import DCGAN, MLPGAN, GeneratorAndDiscriminator
from lightning_modules.zoo.task.gan import GAN
from lightning_modules.zoo.task.gan_metrics import frechet_distance, mode_metrics, precision_and_recall


def make_gan(model: nn.Module, **settings: Any) -> GAN:
    return GAN(model, torch.optim.Adam, **settings)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_the_networks_of_images_fit_each_other(shape: tuple[int, ...]) -> None:
    model = DCGAN(shape, latent=5, width=4)
    images = model(torch.randn(3, 5)).detach()
    assert images.shape == (3, *shape) and float(images.abs().max()) <= 1
    assert model.discriminator(images).shape == (3, 1)


def test_pairs_reject_what_they_cannot_make() -> None:
    with pytest.raises(UserError, match=r"multiples of 4, the data gives \[1, 30, 30\]"):
        DCGAN((1, 30, 30))
    with pytest.raises(UserError, match=r"mlp_gan needs points \[D\], the data gives \[1, 8, 8\]; try model=dcgan"):
        MLPGAN((1, 8, 8))
    with pytest.raises(UserError, match="task=gan: Linear is not a pair of networks; try model=dcgan or mlp_gan"):
        make_gan(nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"cannot have batch norm; use model.norm=none or spectral"):
        make_gan(DCGAN((1, 8, 8)), loss="wasserstein_gp")
    with pytest.raises(UserError, match=r"model.packing=2: a batch has 3 samples"):
        MLPGAN((2,), packing=2).discriminator(torch.zeros(3, 2))


def test_spectral_norm_limits_each_layer_and_the_generator_has_none() -> None:
    torch.manual_seed(0)
    model = DCGAN((1, 8, 8), latent=5, width=4, norm="spectral", init_std=0.5)
    for _ in range(100):
        model.discriminator(torch.randn(2, 1, 8, 8))
    weights = [layer.weight.detach() for layer in model.discriminator if hasattr(layer, "weight")]
    assert [float(torch.linalg.matrix_norm(w.flatten(1), 2)) for w in weights] == pytest.approx([1.0] * 3, rel=1e-3)
    assert not any("parametrizations" in name for name, _ in model.generator.named_parameters())


def test_a_packed_discriminator_judges_consecutive_samples_together_and_maxout_takes_the_largest() -> None:
    model, x = MLPGAN((2,), packing=2, maxout=3, discriminator=[4]), torch.randn(6, 2)
    first, last = (layer for layer in model.discriminator if isinstance(layer, nn.Linear))
    hidden = first(x.reshape(3, 4)).reshape(3, 4, 3).max(-1).values
    torch.testing.assert_close(model.discriminator(x), last(hidden))


@pytest.mark.parametrize("packing", [1, 2])
def test_the_gradient_penalty_of_a_linear_critic_is_that_of_its_weights(packing: int) -> None:
    model = MLPGAN((2,), discriminator=[], packing=packing, init_std=3.0)
    norm = float(model.discriminator[-1].weight.detach().norm())
    task, (real, fake) = make_gan(model, loss="wasserstein_gp"), torch.randn(2, 8, 2)
    assert float(task._gradient_penalty(real, fake).detach()) == pytest.approx((norm - 1) ** 2, rel=1e-4)
    on_real, on_fake = (float(model.discriminator(x).detach().mean()) for x in (real, fake))
    expected = on_fake - on_real + 10 * (norm - 1) ** 2
    assert float(task._discriminator_loss(real, fake).detach()) == pytest.approx(expected, rel=1e-4)
    assert float(task._generator_loss(fake).detach()) == pytest.approx(-on_fake)


def test_the_nonsaturating_loss_is_binary_cross_entropy() -> None:
    model, (real, fake) = MLPGAN((2,), init_std=1.0), torch.randn(2, 8, 2)
    task, entropy = make_gan(model), nn.BCEWithLogitsLoss()
    ones, zeros = torch.ones(8, 1), torch.zeros(8, 1)
    expected = entropy(model.discriminator(real), ones) + entropy(model.discriminator(fake), zeros)
    torch.testing.assert_close(task._discriminator_loss(real, fake), expected)
    torch.testing.assert_close(task._generator_loss(fake), entropy(model.discriminator(fake), ones))


def test_images_are_trained_on_between_minus_one_and_one_and_served_between_zero_and_one() -> None:
    task = make_gan(DCGAN((1, 8, 8), latent=5, width=4), ema=0.9)
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8)
    torch.testing.assert_close(task._to_training_range(pixels), torch.tensor([-1.0, -0.6, 1.0]))
    torch.testing.assert_close(task._to_training_range(torch.tensor([0.0, 0.2, 1.0])), torch.tensor([-1.0, -0.6, 1.0]))
    for parameter in task.model.generator.parameters():
        parameter.data.fill_(float("nan"))  # what is served is the average
    images = task.sample(4)
    assert 0 <= float(images.min()) < float(images.max()) <= 1
    torch.testing.assert_close(task.sample(2), images[:2])


def test_points_lie_at_the_modes_and_depend_on_their_seed() -> None:
    grid, ring = GaussianGrid(num_samples=1000), GaussianGrid(layout="ring", num_samples=1000)
    for data, modes, std in ((grid, 25, 0.05), (ring, 8, 0.01)):
        x, y = data.arrays.x, data.arrays.y
        assert data.centers.shape == (modes, 2) and x.dtype == torch.float32 and data.num_classes == modes
        assert float((x - data.centers[y]).std()) == pytest.approx(std, rel=0.1)
        assert mode_metrics(x, data.centers, data.std)["modes"] == modes
        assert mode_metrics(x, data.centers, data.std)["high_quality"] > 0.97
    torch.testing.assert_close(ring.centers.norm(dim=1), torch.ones(8))
    assert grid.centers.unique().tolist() == [-4.0, -2.0, 0.0, 2.0, 4.0]
    again, other = GaussianGrid(num_samples=1000), GaussianGrid(num_samples=1000, data_seed=1)
    assert grid.fingerprint() == again.fingerprint() != other.fingerprint()


def test_modes_are_counted_by_samples_within_three_standard_deviations() -> None:
    centers = torch.tensor([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0]])
    samples = torch.tensor([[0.0, 0.29], [0.0, 0.31], [2.2, 0.2], [2.22, 0.22]])  # 2.9, 3.1, 2.83, 3.11
    assert mode_metrics(samples, centers, 0.1) == {"modes": 2.0, "high_quality": 0.5}


def test_the_frechet_distance_is_that_of_scipys_root() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(300, 6)) @ draw.normal(size=(6, 6)), draw.normal(1.0, 2.0, (200, 6))
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = sqrtm(first @ second).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * root)
    assert frechet_distance(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected, rel=1e-9)
    few = torch.from_numpy(a[:4])  # of fewer samples than features: singular covariances
    assert frechet_distance(few, few) == pytest.approx(0.0, abs=1e-4)


def test_precision_and_recall_are_those_of_nearest_neighbours() -> None:
    draw = np.random.default_rng(0)
    real, fake = draw.normal(size=(120, 3)), draw.normal(0.5, 0.4, (90, 3))

    def share(x: np.ndarray, manifold: np.ndarray) -> float:
        radius = NearestNeighbors(n_neighbors=4).fit(manifold).kneighbors(manifold)[0][:, -1]
        return float(np.mean([(np.linalg.norm(manifold - point, axis=1) <= radius).any() for point in x]))

    found = precision_and_recall(torch.from_numpy(real), torch.from_numpy(fake))
    assert found == pytest.approx((share(fake, real), share(real, fake))) and found[0] > found[1]


def test_the_pair_of_a_user_is_trained_as_well() -> None:
    pair = GeneratorAndDiscriminator(nn.Linear(3, 2), nn.Linear(2, 1), (2,), latent=3, init_std=0.1)
    assert make_gan(pair).sample(5).shape == (5, 2)
