"""Packages of the optional extras: CI installs them all."""

import importlib.util
import os

import pytest


def require_package(name: str) -> None:
    """Skip the test where a package is not installed; fail in CI."""
    if importlib.util.find_spec(name) is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{name} is not installed")
