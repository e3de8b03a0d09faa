"""Names that runs recorded earlier hold: where the modules and classes of their `_target_`s are now.

The table is long because every component that a recorded config may name has its line.
"""

import re
from collections.abc import Mapping
from typing import Any

_PACKAGE = "lightning_modules."
_MODULES = {
    "augmentation.audio.features": "augmentation.audio.spec_augment",
    "augmentation.audio.noise": "augmentation.audio.background_noise",
    "augmentation.audio.time": "augmentation.audio.time_shift_speed",
    "augmentation.audio.wave": "augmentation.audio.wave_transform",
    "augmentation.image.blur": "augmentation.image.blur_noise",
    "augmentation.image.erasing": "augmentation.image.random_erasing",
    "augmentation.image.images": "augmentation.image.image_transform",
    "augmentation.image.jitter": "augmentation.image.color_jitter",
    "augmentation.image.policies": "augmentation.image.rand_augment",
    "augmentation.interactions.history": "augmentation.interactions.history_transforms",
    "augmentation.interactions.negatives": "augmentation.interactions.negative_sampling",
    "augmentation.interactions.positives": "augmentation.interactions.uniform_users",
    "augmentation.interactions.ratings": "augmentation.interactions.rating_noise",
    "augmentation.series": "augmentation.time_series",
    "augmentation.test_time": "augmentation.tta",
    "augmentation.text.context": "augmentation.text.context_mixup",
    "augmentation.text.drop": "augmentation.text.word_dropout",
    "augmentation.text.order": "augmentation.text.reorder",
    "augmentation.text.replace": "augmentation.text.synonym_replacement",
    "augmentation.text.rows": "augmentation.text.text_transform",
    "compression.channels": "compression.structured.structured_pruning",
    "compression.distillation.stage": "compression.distillation.distillation",
    "compression.fold": "compression.structured.batch_norm_folding",
    "compression.half": "compression.quantization.half_precision",
    "compression.keeper": "compression.compression_callback",
    "compression.low_rank": "compression.structured.low_rank",
    "compression.pruning.prune": "compression.pruning.pruning_stage",
    "compression.quantization.codebook": "compression.quantization.weight_sharing",
    "compression.quantization.dynamic": "compression.quantization.dynamic_int8",
    "compression.quantization.mixed_bits": "compression.quantization.mixed_precision",
    "compression.quantization.prepared": "compression.quantization.qat_graph",
    "compression.quantization.program": "compression.quantization.onnx_stage",
    "compression.quantization.static": "compression.quantization.static_int8",
    "data.cifar": "zoo.data.cifar",
    "data.digits": "zoo.data.digits",
    "data.float64": "data.float64_scaling",
    "data.memory": "data.in_memory",
    "data.mnist": "zoo.data.mnist",
    "data.mnist1d": "zoo.data.mnist1d",
    "data.movielens": "zoo.data.movielens",
    "data.movielens_implicit": "zoo.data.movielens_implicit",
    "data.movielens_sequence": "zoo.data.movielens_sequence",
    "data.quadratic": "zoo.data.noisy_quadratic",
    "data.sonar": "zoo.data.sonar",
    "data.speech": "data.audio_data",
    "data.speech_folder": "data.audio_folder",
    "data.spoken_digits": "zoo.data.spoken_digits",
    "data.text.folder": "data.text.text_folder",
    "data.text.memory": "data.text.text_data",
    "data.text.sentences": "zoo.data.sentence_classification",
    "data.text.table": "data.text.text_table",
    "data.text.valence": "zoo.data.vader_sentiment",
    "data.ucr": "zoo.data.ucr",
    "model.audio": "zoo.model.audio",
    "model.basic_resnet": "zoo.model.basic_resnet",
    "model.bpr": "zoo.model.bpr",
    "model.cifar_resnet": "zoo.model.cifar_resnet",
    "model.constant": "zoo.model.learned_constant",
    "model.item_sequence": "zoo.model.sequential_recommender",
    "model.kim_cnn": "zoo.model.kim_cnn",
    "model.lenet": "zoo.model.lenet",
    "model.lightgcn": "zoo.model.lightgcn",
    "model.matrix_factorization": "zoo.model.matrix_factorization",
    "model.mnist1d": "zoo.model.mnist1d",
    "model.neumf": "zoo.model.neumf",
    "model.pairs": "zoo.model.pair_scorer",
    "model.series_conv": "zoo.model.time_series",
    "model.series_mlp": "zoo.model.time_series_mlp",
    "model.text_gru": "zoo.model.text_gru",
    "model.text_pretrained": "model.hf_text_classifier",
    "model.text_transformer": "zoo.model.text_transformer",
    "model.two_conv": "zoo.model.two_conv",
    "model.uniform_mlp": "zoo.model.uniform_mlp",
    "model.vit": "zoo.model.vit",
    "optimizer.scaling": "optimizer.lr_scaling",
    "optimizer.schedule": "optimizer.lr_schedules",
    "strategy.cuda": "run.cuda",
    "strategy.hooks": "strategy.comm_hooks",
    "strategy.outer": "strategy.diloco",
    "strategy.slow_ranks": "strategy.step_timer",
    "strategy.traffic": "strategy.comm_stats",
    "strategy.zero": "strategy.zero1",
    "task.anomaly": "task.nan_detector",
    "task.cost": "task.profiling",
    "task.full_ranking": "zoo.task.full_ranking",
    "task.hinge": "zoo.task.hinge",
    "task.next_item": "zoo.task.next_item",
    "task.progress": "task.progress_bar",
    "task.quadratic": "zoo.task.noisy_quadratic",
    "task.ranking": "zoo.task.ranking",
    "task.ranking_metrics": "zoo.task.ranking_metrics",
    "task.rating": "zoo.task.rating",
    "task.squared_error": "zoo.task.margin_squared_error",
    "task.weight_probe": "task.weight_projections",
}
_NAMES = {  # of classes and functions, by their former module
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
    "strategy.slow_ranks.Paced": "StepTimer",
    "strategy.traffic.Measured": "CommStats",
    "strategy.zero.ZeroOne": "ZeRO1",
    "task.anomaly.AnomalyDetection": "NanDetector",
    "task.cost.Latency": "LatencyMonitor",
    "task.progress.Progress": "CompactProgressBar",
    "task.weight_probe.WeightProbe": "WeightProjections",
}


def current_name(target: str) -> str:
    """The dotted path under which a component is found now, whatever version recorded it."""
    if not target.startswith(_PACKAGE):
        return target
    path = target.removeprefix(_PACKAGE)
    module, _, name = path.rpartition(".")
    return f"{_PACKAGE}{_MODULES.get(module, module)}.{_NAMES.get(path, name)}"


def update_callback_states(checkpoint: Mapping[str, Any]) -> None:
    """Store the states of renamed callbacks and stages under their current names, in place, where Lightning looks for it."""
    renamed = {old.rpartition(".")[2]: new for old, new in _NAMES.items()}
    states = checkpoint.get("callbacks", {})
    for key in list(states):
        name = re.match(r"\w*", str(key)).group()  # type: ignore[union-attr]
        if name in renamed:
            states[renamed[name] + str(key).removeprefix(name)] = states.pop(key)
