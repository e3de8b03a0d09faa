"""Alias of ``touchstone promote``."""

from lightning_modules.cli.main import main

if __name__ == "__main__":
    main("promote")
