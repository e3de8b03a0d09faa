"""Metrics of generated samples: modes of a mixture, and distances of images in the features of a classifier."""

import torch
from torch import Tensor, nn

from lightning_modules.config.errors import UserError
from lightning_modules.task.task_spec import load_task_from_spec, model_shapes
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.resume import best_checkpoint
from lightning_modules.tracking.store import find_run, open_store


def mode_metrics(samples: Tensor, centers: Tensor, std: float) -> dict[str, float]:
    """As in the experiments of PacGAN (Lin et al. 2018).

    Args:
        samples, centers: [N, D] and [M, D]; each mode is a Gaussian of standard deviation `std` in each dimension.

    Returns:
        ``high_quality``: share of samples within three standard deviations of a mode's center; ``modes``: number of
        modes that are the nearest of at least one such sample.
    """
    distance, nearest = torch.cdist(samples.double(), centers.double()).min(1)
    good = distance < 3 * std
    return {"modes": float(nearest[good].unique().numel()), "high_quality": float(good.double().mean())}


def feature_metrics(real: Tensor, fake: Tensor) -> dict[str, float]:
    """``fid``, ``precision`` and ``recall`` of features [N, D] and [M, D]."""
    precision, recall = precision_and_recall(real, fake)
    return {"fid": frechet_distance(real, fake), "precision": precision, "recall": recall}


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """The squared Fréchet distance of two Gaussians with the mean and covariance of features [N, D] (Heusel et al. 2017)."""
    a, b = a.double(), b.double()
    first, second = a.T.cov(), b.T.cov()
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # the eigenvalues of first @ second, of which the trace of the root is needed, are those of a symmetric matrix
    of_product = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + first.trace() + second.trace() - 2 * of_product)


def precision_and_recall(real: Tensor, fake: Tensor, neighbours: int = 3) -> tuple[float, float]:
    """Share of generated samples in the real ones' manifold, and the reverse (Kynkäänniemi et al. 2019).

    The manifold of features [N, D] is the balls around each of them up to its `neighbours`-th nearest other one.
    """
    real, fake = real.double(), fake.double()
    return _share_inside(fake, real, neighbours), _share_inside(real, fake, neighbours)


def _share_inside(x: Tensor, manifold: Tensor, neighbours: int) -> float:
    order = min(neighbours + 1, len(manifold))  # each is the nearest to itself
    radius = torch.cat([torch.cdist(part, manifold).kthvalue(order).values for part in manifold.split(1000)])
    inside = [(torch.cdist(part, manifold) <= radius).any(1) for part in x.split(1000)]
    return float(torch.cat(inside).double().mean())


class ClassifierFeatures:
    """Images -> features [B, D]: the input of the last linear layer of a classifier's run.

    Args:
        run: its id or name.
        input_shape: of the images, [C, H, W].

    Raises:
        UserError: there is no such run, it was trained on other images, or it has no linear layer.
    """

    def __init__(self, run: str, input_shape: tuple[int, ...]) -> None:
        store = open_store()
        checkpoint = read_checkpoint(best_checkpoint(store, find_run(store, run)))
        spec = checkpoint.get("passport") or {}
        if "preprocess" not in spec or model_shapes(spec)[0] != tuple(input_shape):
            raise UserError(
                f"task.features={run}: it is no classifier of images {list(input_shape)}; train one on the same data with "
                "task=classification"
            )
        self.task = load_task_from_spec(spec, checkpoint["state_dict"], f"task.features={run}")
        linear = [layer for layer in self.task.model.modules() if isinstance(layer, nn.Linear)]
        if not linear:
            raise UserError(f"task.features={run}: its network has no linear layer, whose input the features are")
        linear[-1].register_forward_pre_hook(self._keep)
        self._kept = torch.empty(0)
        self._dtype = torch.uint8

    def _keep(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._kept = inputs[0].flatten(1)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Features, on the CPU, of raw images as the classifier was trained on."""
        self._dtype = x.dtype
        self.task.to(x.device)(x)
        return self._kept.cpu()

    def of_unit_images(self, images: Tensor) -> Tensor:
        """Features of images in 0..1, in the grey levels of the last raw ones."""
        raw = (images * 255).round().to(torch.uint8) if self._dtype == torch.uint8 else images
        return torch.cat([self(part.to(self.task.device)) for part in raw.split(512)])
