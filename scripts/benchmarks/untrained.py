"""A network with random weights through the stages of a recipe, to its file and back: for what speed alone can tell."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STAGES = {"channels": {"macs_ratio": 0.5, "round_to": 16}, "int8": {"samples": 8}}  # kernels like multiples of 16
CLASSES = 1000


def compressed_resnet18(x: Any, stages: Sequence[str]) -> Any:
    """torchvision's ResNet-18 after these `STAGES`, loaded back; the same random weights each time.

    `x`: floats [N, 3, 224, 224], with which it is traced and calibrated.
    """
    import torch

    from lightning_modules.compression.artifact import load_compressed, save_compressed
    from lightning_modules.compression.compressed_state import CompressedState
    from lightning_modules.compression.quantization.int8 import StaticInt8
    from lightning_modules.compression.stage import StageContext
    from lightning_modules.compression.structured.structured_pruning import StructuredPruning
    from lightning_modules.task.task_spec import build_task_from_spec

    model = {"_target_": "lightning_modules.zoo.model.image_classifiers.TorchvisionClassifier", "name": "resnet18"}
    task = {
        "_target_": "lightning_modules.task.classification.Classification",
        "loss": {"_target_": "torch.nn.CrossEntropyLoss"},
    }
    task_spec = {
        "name": "resnet18",
        "model": {**model, "input_shape": list(x.shape[1:]), "num_outputs": CLASSES},
        "task": {**task, "num_outputs": CLASSES},
        "preprocess": {"_target_": "torch.nn.Identity"},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # whatever the process has drawn before
        module = build_task_from_spec(task_spec, "the benchmark")
    labels = torch.zeros(len(x), dtype=torch.int64)
    with tempfile.TemporaryDirectory() as folder:
        context = StageContext(
            task=module.eval(), state=CompressedState(), example=x, batches=lambda: iter([{"x": x, "y": labels}]),
            evaluate=lambda network: 0.0, higher_is_better=True, seed=0, folder=Path(folder), log=lambda values: None,
        )  # fmt: skip
        kinds: dict[str, Any] = {"channels": StructuredPruning, "int8": StaticInt8}
        for name in stages:
            stage = kinds[name](**STAGES[name])
            stage.name = name
            stage.begin(context)
            stage.end(context)
        path = Path(folder) / "model.compressed.safetensors"
        save_compressed(path, module.model, context.state, task_spec)
        return load_compressed(path).model.eval()
