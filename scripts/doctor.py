"""Alias of ``touchstone doctor``."""

from lightning_modules.cli.main import main

if __name__ == "__main__":
    main("doctor")
