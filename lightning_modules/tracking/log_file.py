"""The log file of a run: Python's logging and warnings."""

import logging
import tempfile
from pathlib import Path
from typing import Any

from lightning_modules.tracking.provenance import mask_secrets


class _SilentHandler(logging.StreamHandler[Any]):
    """Prints no traceback if the disk is full."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 # logging's name
        pass


class LogFile:
    """Collects Python's logging and warnings of this process for the record."""

    def __init__(self) -> None:
        self._file = tempfile.NamedTemporaryFile("w+", suffix=".log", encoding="utf-8")  # noqa: SIM115
        self._handler = _SilentHandler(self._file)
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.captureWarnings(True)
        logging.getLogger().addHandler(self._handler)
        for name in ("pytorch_lightning", "lightning.pytorch", "py.warnings"):
            logging.getLogger(name).addHandler(self._handler)

    def text(self) -> str:
        path = Path(self._file.name)
        return str(mask_secrets(path.read_text(encoding="utf-8"))) if path.exists() else self._text

    def close(self) -> None:
        self._handler.flush()
        self._text = self.text()
        for name in ("", "pytorch_lightning", "lightning.pytorch", "py.warnings"):
            logging.getLogger(name).removeHandler(self._handler)
        self._file.close()
