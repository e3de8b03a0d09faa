"""A trained ResNet-20 with half its operations, then in int8: how much faster, and what it costs in accuracy."""

from benchmarks.compression import FASHION, metrics_of, stages_of
from benchmarks.measure import Row, table

# A ResNet-20 takes six minutes an epoch here: a fifth of the data, few epochs
RESNET = (
    *FASHION,
    "model=resnet20",
    "data.fraction=0.2",
    "trainer.max_epochs=6",
    "scheduler=one_cycle",
    "optimizer.lr=3e-3",
)
RECIPE = (
    "compression=channels_int8", "compression.stages.channels.epochs=4", "compression.stages.channels.global_pruning=false",
)  # fmt: skip


def run(repeats: int) -> None:
    """Half the operations, fine-tuned, then int8: latency and accuracy of both files."""
    from lightning_modules.tracking.store import open_store

    metrics_of(*RESNET, *RECIPE, "name=resnet20")
    store = open_store()
    experiments = [experiment.experiment_id for experiment in store.client.search_experiments()]
    found = store.client.search_runs(experiments, "attributes.run_name = 'resnet20'")[0]
    stages, dense = stages_of(found.info.run_id), found.data.metrics
    half, int8 = stages["1-channels"], stages["2-int8"]
    note = f"macs x {half['compressed/macs'] / dense['dense/macs']:.2f}"
    best, eager = "compression/speedup_best_runtime", "compression/speedup"
    rows = [
        Row("structured / dense, both in ONNX Runtime", [1 / half[best]], 0.6, note=note),
        Row("structured + int8 / dense in eager", [1 / int8[eager]], 0.2),
        Row("structured + int8 / dense in ONNX Runtime", [1 / int8[best]], None),
    ]
    told = f"dense {100 * dense['dense/test/accuracy']:.2f} %"
    for name, stage, bar in (("structured", half, -0.5), ("structured + int8", int8, -1.0)):
        drop = 100 * (stage["compressed/test/accuracy"] - dense["dense/test/accuracy"])
        rows.append(Row(f"{name}: accuracy - dense, points", [drop], bar, True, told))
    table("ResNet-20, 28x28, a fifth of Fashion-MNIST (latency of one sample: medians, timed in turns)", rows)
