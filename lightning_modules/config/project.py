"""The project's root folder: conf/, experiments/, scripts/ and mlruns/ are beside the package in it."""

from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[2]
