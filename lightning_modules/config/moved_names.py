"""Names that runs recorded earlier hold: a moved component is found by its name, a renamed one has a line in `RENAMED`."""

import functools
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from lightning_modules.config.project import PACKAGE

_PACKAGE = "lightning_modules"
# Where this package defines components.
COMPONENT_MODULES = tuple(
    f"{_PACKAGE}.{name}"
    for name in (
        "augmentation", "cli.model_summary", "cli.progress_bar", "compression", "data", "model", "optimizer", "strategy",
        "task", "tracking.checkpoint", "quality.prediction_recorder", "run.cuda", "zoo", "api.given_objects",
    )
)  # fmt: skip
RENAMED = {  # former path of a class or function, without the package -> its name now
    "augmentation.audio.noise.Noise": "BackgroundNoise",
    "augmentation.audio.time.Shift": "TimeShift",
    "augmentation.audio.time.Speed": "SpeedPerturbation",
    "augmentation.image.policies.Policy": "RandomPolicy",
    "augmentation.interactions.history.History": "HistoryTransform",
    "augmentation.per_sample.PerSample": "PerSampleTransform",
    "augmentation.series.Jitter": "TimeSeriesJitter",
    "augmentation.test_time.TestTime": "TestTimeAugmentation",
    "augmentation.text.drop.HideWords": "ReplaceByUnknown",
    "augmentation.text.replace.WithSynonyms": "SynonymTransform",
    "compression.half.Half": "HalfPrecision",
    "compression.keeper.Keeper": "CompressionCallback",
    "compression.low_rank.LowRank": "LowRankFactorization",
    "compression.pruning.prune.Prune": "PruningStage",
    "compression.quantization.codebook.SharedWeights": "WeightSharing",
    "compression.quantization.mixed_bits.MixedBits": "MixedPrecision",
    "compression.quantization.prepared.Prepared": "QATGraph",
    "compression.quantization.program.ProgramStage": "OnnxStage",
    "compression.quantization.weight_only.WeightOnly": "WeightOnlyQuantization",
    "data.quadratic.Quadratic": "NoisyQuadratic",
    "data.speech.Speech": "AudioData",
    "data.text.sentences.Sentences": "LabelledSentences",
    "data.text.table.TextFile": "TextTable",
    "data.text.valence.Valence": "VaderSentiment",
    "model.basic_resnet.ProjectedBlock": "ProjectionBlock",
    "model.bpr.BPRFactorization": "BPRMatrixFactorization",
    "model.constant.Constant": "LearnedConstant",
    "model.item_sequence.ItemSequence": "SequentialRecommender",
    "model.series_conv.SeriesFCN": "TimeSeriesFCN",
    "model.series_conv.SeriesResNet": "TimeSeriesResNet",
    "model.series_mlp.SeriesMLP": "TimeSeriesMLP",
    "model.text_pretrained.PretrainedText": "HFTextClassifier",
    "optimizer.layer_wise.LayerWise": "LayerWiseOptimizer",
    "optimizer.scaling.scaled": "scaled_warmup",
    "strategy.hooks.GradientHook": "CommHook",
    "strategy.slow_ranks.Paced": "CommStats",
    "strategy.traffic.Measured": "CommStats",
    "strategy.zero.ZeroOne": "ZeRO1",
    "task.anomaly.AnomalyDetection": "NanDetector",
    "task.cost.Latency": "LatencyMonitor",
    "task.progress.Progress": "CompactProgressBar",
    "task.weight_probe.WeightProbe": "WeightProjections",
}


def current_name(target: str) -> str:
    """The dotted path under which a component is found now, whatever version recorded it."""
    module, _, name = target.rpartition(".")
    if not target.startswith(f"{_PACKAGE}."):
        return target
    name = RENAMED.get(target.removeprefix(f"{_PACKAGE}."), name)
    homes = _homes().get(name, [])
    room = module.split(".")[1]  # two rooms may have a component of the same name; zoo has folders named like rooms
    return f"{min(homes, key=lambda home: (home != module, room not in home.split('.')), default=module)}.{name}"


@functools.cache
def _homes() -> dict[str, list[str]]:
    """The modules that define each class or function of a name."""
    homes = defaultdict(list)
    for file in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
        if f"{module}.".startswith(tuple(f"{name}." for name in COMPONENT_MODULES)):
            for name in re.findall(r"^(?:class|def) (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE):
                homes[name].append(module)
    return homes


def update_callback_states(checkpoint: Mapping[str, Any]) -> None:
    """Store the states of renamed callbacks and stages under their current names, in place, where Lightning looks for it."""
    renamed = {old.rpartition(".")[2]: new for old, new in RENAMED.items()}
    states = checkpoint.get("callbacks", {})
    for key in list(states):
        name = str(key).partition(":")[0].partition("{")[0]
        if name in renamed:
            states[renamed[name] + str(key).removeprefix(name)] = states.pop(key)
