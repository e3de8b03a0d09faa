"""Alias of ``touchstone reproduce``."""

from lightning_modules.cli.main import main

if __name__ == "__main__":
    main("reproduce")
