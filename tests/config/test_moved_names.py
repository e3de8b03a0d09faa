"""Components that were recorded under former names are found under their current ones."""

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from lightning_modules.config import moved_names
from lightning_modules.config.moved_names import current_name, update_callback_states
from lightning_modules.config.trust import is_component, refuse_untrusted_targets


@pytest.mark.parametrize("path", sorted(moved_names.RENAMED))
def test_every_renamed_component_is_found(path: str) -> None:
    assert is_component(get_object(current_name(f"lightning_modules.{path}")))


@pytest.mark.parametrize(
    ("former", "current"),
    [
        ("augmentation.image.images.ImageTransform", "augmentation.image.image_transform.ImageTransform"),
        ("data.text.folder.BBCNews", "zoo.data.text_datasets.BBCNews"),
        ("model.bpr.BPRFactorization", "zoo.model.matrix_factorization.BPRMatrixFactorization"),
        ("strategy.hooks.HalfPrecision", "zoo.strategy.comm_hooks.HalfPrecision"),  # two rooms have one of it
        ("strategy.local_sgd.DiLoCo", "zoo.strategy.local_sgd.DiLoCo"),
        ("strategy.zero.ZeroOne", "zoo.strategy.sharded.ZeRO1"),
        ("optimizer.large_batch.LARS", "zoo.optimizer.large_batch.LARS"),
        ("model.image_classifiers.TimmClassifier", "zoo.model.image_classifiers.TimmClassifier"),
        ("compression.half.Half", "compression.quantization.half_precision.HalfPrecision"),
        ("model.convnet.ConvNet", "zoo.model.convnets.ConvNet"),
        ("config.given_object.given_object", "api.given_objects.given_object"),
        ("data.preprocess.Affine", "data.preprocess.Affine"),
        ("data.memory.Gone", "data.memory.Gone"),
    ],
)
def test_a_moved_component_is_found_by_its_name(former: str, current: str) -> None:
    assert current_name(f"lightning_modules.{former}") == f"lightning_modules.{current}"


def test_targets_of_a_recorded_config_are_updated_and_others_stay() -> None:
    cfg = OmegaConf.create(
        {
            "model": {"_target_": "lightning_modules.model.lenet.LeNet5"},
            "loss": {"_target_": "torch.nn.CrossEntropyLoss"},
        }
    )
    refuse_untrusted_targets(cfg, "a recorded config")
    assert cfg.model._target_ == "lightning_modules.zoo.model.convnets.LeNet5"
    assert cfg.loss._target_ == "torch.nn.CrossEntropyLoss"


def test_states_of_renamed_callbacks_and_stages_are_found() -> None:
    checkpoint = {"callbacks": {"Keeper": 1, "SharedWeights:share": 2, "EMA{'decay': 0.9}": 3, "ModelCheckpoint": 4}}
    update_callback_states(checkpoint)
    assert checkpoint["callbacks"] == {
        "CompressionCallback": 1, "WeightSharing:share": 2, "EMA{'decay': 0.9}": 3, "ModelCheckpoint": 4,
    }  # fmt: skip
