"""Where MLflow finds the loader of models that runs have published: the name is part of every recorded model."""

from lightning_modules.run.serve import _load_pyfunc

__all__ = ["_load_pyfunc"]
