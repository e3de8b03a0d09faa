"""What the tests of claims share."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from claim_project import CLAIM, Project


@pytest.fixture
def project(tmp_path: Path, empty_database: Path) -> Project:
    """A copy of the project in a folder with a space in its name, with an empty store."""
    made = Project(tmp_path / "a project")
    for file in empty_database.parent.glob("mlflow.db*"):
        shutil.copy(file, made.folder / "mlruns" / file.name)
    return made


@pytest.fixture(scope="session")
def digits_hash() -> str:
    """The sha256 of scikit-learn's digits as the datamodule holds them."""
    from lightning_modules.zoo.data.image_datasets import Digits

    return Digits().content_fingerprint()


@pytest.fixture
def new_claim(digits_hash: str) -> Callable[..., Any]:
    """A parsed claim: `CLAIM` with what is given changed."""
    from lightning_modules.reproduction.claim import Claim

    def make(**changes: Any) -> Claim:
        node = {key: value for key, value in {**CLAIM, "data": digits_hash, **changes}.items() if value is not None}
        return Claim.model_validate(node)

    return make
