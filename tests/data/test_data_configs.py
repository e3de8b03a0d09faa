from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lightning_modules.config.errors import UserError
from lightning_modules.data.in_memory import InMemoryData

CONF = Path(__file__).parents[2] / "conf"


NOT_IN_MEMORY = ("lightning_datamodule", "memmap", "parquet", "tar_shards")


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (CONF / "data").glob("*.yaml") if path.stem not in NOT_IN_MEMORY)
)
def test_every_data_config_builds_and_says_where_its_set_is_missing(name: str, mnist1d_cache: Path) -> None:
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose(
            overrides=[f"+data={name}", "+seed=7", "data.batch_size=16", f"data.cache_dir={mnist1d_cache}"]
        )
    data = instantiate(config.data)
    assert isinstance(data, InMemoryData)
    assert (data.seed, data.batch_size) == (7, 16)
    try:
        data.setup()
    except UserError as error:
        assert "data.root" in str(error)
    else:
        shape = next(iter(data.train_dataloader()))["x"].shape[1:]
        if name == "sequence_pairs":  # a batch is as long as its longest sample
            assert shape[:-1] == data.input_shape[:-1] and shape[-1] <= data.input_shape[-1]
        else:
            assert shape == data.input_shape
    assert OmegaConf.to_container(config, resolve=True)
