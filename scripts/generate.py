"""Alias of ``touchstone generate``."""

from lightning_modules.cli.main import main

if __name__ == "__main__":
    main("generate")
