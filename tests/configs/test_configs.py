"""Every shipped config is composed, checked and built."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from config_cache import without_cache
from hydra.utils import instantiate

from lightning_modules.config.check import check_config
from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.reproduction.discovery import claim_files, is_base_file
from lightning_modules.run import build
from lightning_modules.run.preflight import check_device
from lightning_modules.zoo.data.sonar import DEBIAN

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = sorted(
    f"{path.parent.name}={path.stem}" for path in (ROOT / "conf").glob("*/*.yaml") if path.parent.name != "experiment"
)
EXPERIMENTS = sorted(
    str(p.relative_to(ROOT / "experiments").with_suffix("")) for p in (ROOT / "experiments").rglob("*.yaml")
)
_LARGE = {"data=memmap", "data=parquet", "data=tar_shards"}  # tests/zoo/test_large_data.py builds them
_RANKING = ["data=movielens_implicit", "task=ranking"]
_PAIRS = ["data=sequence_pairs", "model=attention_gru", "task=translation"]
_BOXES = ["data=bccd", "model=fcos", "task=detection"]
FITTING = {  # data that a model needs where digits do not fit it
    "task=lightning_module": ["task._target_=pytorch_lightning.demos.boring_classes.BoringModel"],
    "data=lightning_datamodule": [
        "data._target_=pytorch_lightning.demos.boring_classes.BoringDataModule",
        "task=lightning_module",
        "task._target_=pytorch_lightning.demos.boring_classes.BoringModel",
    ],
    **{
        option: [
            "data.root=large",
            "task=lightning_module",
            "task._target_=pytorch_lightning.demos.boring_classes.BoringModel",
        ]
        for option in _LARGE
    },
    "model=mnist1d_cnn": ["data=mnist1d"],
    "model=mnist1d_gru": ["data=mnist1d"],
    "model=lenet5": ["data=fashion_mnist"],
    "model=series_fcn": ["data=ucr"],
    "model=series_resnet": ["data=ucr"],
    "model=series_mlp": ["data=ucr"],
    "model=matrix_factorization": [
        "data=movielens",
        "task=rating",
        "model.num_users=3",
        "model.num_items=4",
        "model.mean=3.5",
    ],
    "task=rating": ["data=movielens", "model=matrix_factorization"],
    "data=ucr": ["model=series_fcn"],
    "data=sonar": ["model=mlp"],
    "data=movielens": ["model=matrix_factorization", "task=rating"],
    "task=regression": ["data=tabular", "data.name=diabetes", "model=mlp"],
    "task=binary": ["data=tabular", "data.name=breast_cancer", "model=mlp"],
    "data=image_folder": ["data.root=images"],
    "data=mnist1d": ["model=mlp"],
    "data=tabular": ["model=mlp"],
    **{f"model={name}": ["data=trec", "model.vocab_size=50"] for name in ("kim_cnn", "text_gru", "text_transformer")},
    **{f"data={name}": ["model=kim_cnn"] for name in ("trec", "movie_reviews", "bbc_news", "text_file", "text_folder")},
    "data=valence": ["model=kim_cnn", "task=regression"],
    "model=bpr": [*_RANKING, "model.num_users=3", "model.num_items=4"],
    "model=neumf": [*_RANKING, "model.num_users=3", "model.num_items=4"],
    "model=lightgcn": [*_RANKING, "model.num_users=3", "model.num_items=4", "model.num_interactions=5"],
    "model=item_sequence": ["data=movielens_sequence", "task=next_item", "model.num_items=4"],
    "task=ranking": ["data=movielens_implicit", "model=bpr"],
    "task=next_item": ["data=movielens_sequence", "model=item_sequence"],
    "data=movielens_implicit": ["model=bpr", "task=ranking"],
    "data=movielens_sequence": ["model=item_sequence", "task=next_item"],
    "model=gpt": ["data=packed_text", "task=language_model"],
    "model=dcgan": ["task=gan"],
    "model=mlp_gan": ["data=gaussian_grid", "task=gan"],
    "data=gaussian_grid": ["model=mlp_gan", "task=gan"],
    "task=gan": ["model=dcgan"],
    "task=language_model": ["data=packed_text", "model=gpt"],
    "task=masked_language_model": ["data=text_lines", "model=masked_bert", "model.vocab_size=50"],
    "model=masked_bert": ["data=text_lines", "task=masked_language_model", "model.vocab_size=50"],
    "data=text_lines": ["model=masked_bert", "task=masked_language_model"],
    **{f"data={name}": ["model=gpt", "task=language_model"] for name in ("packed_text", "tiny_shakespeare")},
    "task=translation": _PAIRS[:2],
    **{
        f"model={name}": [_PAIRS[0], _PAIRS[2], "model.num_sources=12"]
        for name in ("attention_gru", "translation_transformer")
    },
    **{f"data={name}": _PAIRS[1:] for name in ("multi30k", "parallel_text", "sequence_pairs")},
    "data=bccd": _BOXES[1:],
    "data=detection_folder": ["data.root=folder", "data.format=voc", *_BOXES[1:]],
    "task=detection": _BOXES[:2],
    "model=fcos": [_BOXES[0], _BOXES[2]],
    "model=torchvision_detector": [_BOXES[0], _BOXES[2]],
    "task=segmentation": ["data=em_membranes", "model=unet"],
    **{f"model={name}": ["data=em_membranes", "task=segmentation"] for name in ("unet", "torchvision_segmentation")},
    **{f"data={name}": ["model=unet", "task=segmentation"] for name in ("em_membranes", "segmentation_folder")},
    "model=audio_cnn": ["data=spoken_digits"],
    "model=audio_gru": ["data=spoken_digits", "model.n_mels=40"],
    **{f"data={name}": ["model=audio_cnn"] for name in ("spoken_digits", "audio_folder")},
    "model=speech_gru": ["data=digit_strings", "task=speech_recognition", "model.n_mels=40"],
    "task=speech_recognition": ["data=digit_strings", "model=speech_gru"],
    **{
        f"data={name}": ["model=speech_gru", "task=speech_recognition"]
        for name in ("digit_strings", "transcribed_audio")
    },
    "model=timm": ["model.name=test_resnet"],
    "compression=distillation": ["compression.stages.distil.teacher=run"],
    "compression=feature_hints": ["compression.stages.distil.teacher=run", "compression.stages.distil.layers={a: b}"],
    "compression=attention_transfer": [
        "compression.stages.distil.teacher=run",
        "compression.stages.distil.layers={a: b}",
    ],
    "compression=relational": ["compression.stages.distil.teacher=run"],
}
BY_PATH = {
    "data=ucr",
    "data=sonar",
    "data=movielens",
    "data=mnist",
    "data=fashion_mnist",
    "data=cifar10",
    "data=cifar100",
    "data=image_folder",
    "data=trec",
    "data=movie_reviews",
    "data=bbc_news",
    "data=valence",
    "data=text_file",
    "data=text_folder",
    "data=text_lines",
    "data=spoken_digits",
    "data=audio_folder",
    "data=digit_strings",
    "data=transcribed_audio",
    "data=movielens_implicit",
    "data=movielens_sequence",
    "data=packed_text",
    "data=tiny_shakespeare",
    "data=multi30k",
    "data=parallel_text",
    "data=bccd",
    "data=detection_folder",
    "data=em_membranes",
    "data=segmentation_folder",
}
BUILT_ELSEWHERE = {"model=hf_text", "model=masked_bert", "model=dcgan", "model=mlp_gan"}  # by their own tests
SHAPES = {
    "model=series_fcn": [24],
    "model=series_resnet": [24],
    "model=series_mlp": [24],
    "model=matrix_factorization": [2],
    "model=lenet5": [1, 28, 28],
    "model=mnist1d_cnn": [40],
    "model=mnist1d_gru": [40],
    **{f"model={name}": [9] for name in ("kim_cnn", "text_gru", "text_transformer")},
    "model=speech_gru": [8000],
    **{f"model={name}": [2] for name in ("bpr", "neumf", "lightgcn")},
    "model=item_sequence": [50],
    "model=gpt": [64],
    **{f"model={name}": [2, 9] for name in ("attention_gru", "translation_transformer")},
    **{f"model={name}": [3, 32, 32] for name in ("fcos", "torchvision_detector")},
    **{f"model={name}": [8000] for name in ("audio_cnn", "audio_gru")},
}


MODELS = [option for option in OPTIONS if option.startswith("model=") and option not in BUILT_ELSEWHERE]
DATA = [o for o in OPTIONS if o.startswith("data=") and o not in {"data=lightning_datamodule", *_LARGE}]


@pytest.mark.parametrize("option", [option for option in OPTIONS if option not in {*MODELS, *DATA}])
def test_an_option_is_composed_and_all_its_signatures_fit(option: str) -> None:
    check_config(compose_run([option, *FITTING.get(option, [])]))


@pytest.mark.parametrize("words", [[], ["model=mlp", "model.dropout=0.1"], ["experiment=low_data/digits", "seed=3"]])
def test_the_cache_of_the_tests_changes_no_config(words: list[str]) -> None:
    with without_cache():
        expected = compose_run(words)
    assert compose_run(words) == compose_run(words) == expected


def test_every_experiment_is_a_claim_which_the_lint_composes_and_checks_or_a_part_of_others() -> None:
    others = {name for name in set(EXPERIMENTS) - claim_files().keys() if not name.startswith(("low_data/", "fast/"))}
    assert not [name for name in others if not is_base_file(ROOT / "experiments" / f"{name}.yaml")]


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name.startswith("low_data/") and "base" not in name])
def test_every_experiment_with_little_data_is_composed_and_its_signatures_fit(name: str) -> None:
    cfg = compose_run([f"experiment={name}", "data.fraction=0.01", "seed=3"])
    check_config(cfg)
    assert (cfg.data.split_seed, cfg.data.val_fraction, cfg.tracking.experiment) == (3, 0.0, "low_data")


@pytest.mark.parametrize("option", MODELS)
def test_a_model_is_composed_its_signatures_fit_and_it_is_built(option: str) -> None:
    cfg = compose_run([option, *FITTING.get(option, [])])
    check_config(cfg)
    cfg.model.update(input_shape=SHAPES.get(option, [1, 32, 32]), num_outputs=10)
    assert sum(p.numel() for p in build.build_model(cfg).parameters()) > 0


@pytest.mark.parametrize("option", DATA)
def test_a_datamodule_is_composed_its_signatures_fit_and_it_is_built(option: str, tmp_path: Path) -> None:
    cfg = compose_run([option, *FITTING.get(option, [])])
    check_config(cfg)
    if option not in BY_PATH:
        data = build.build_data(cfg)
        assert all(len(data.splits[part]) for part in ("train", "val", "test"))
        return
    cfg.data.root = str(tmp_path / "not there")
    if option == "data=fashion_mnist" and Path("/usr/share/datasets/fashion-mnist").exists():
        assert build.build_data(cfg).input_shape == (1, 28, 28)
        return
    if option == "data=ucr" and find_spec("aeon"):
        assert build.build_data(cfg).input_shape == (24,)
        return
    if option == "data=sonar" and DEBIAN.exists():
        assert build.build_data(cfg).input_shape == (60,)
        return
    with pytest.raises(UserError, match="not there"):
        build.build_data(cfg)


@pytest.mark.parametrize("group", ["optimizer", "scheduler", "augmentation", "tta", "strategy", "callbacks"])
def test_all_options_of_a_small_group_are_built(group: str) -> None:
    for option in (option for option in OPTIONS if option.startswith(f"{group}=")):
        node = compose_run([option])[group]
        parts = [node] if "_target_" in node else list(node.values())
        assert all(instantiate(part) is not None for part in parts), option


@pytest.mark.parametrize("trainer", ["cpu", "ddp"])
def test_a_trainer_for_this_machine_is_built(trainer: str) -> None:
    check_device(compose_run([f"trainer={trainer}"]))
