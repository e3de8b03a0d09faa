"""The log file of a run: Python's logging and warnings."""

import logging
import tempfile
from pathlib import Path

from lightning_modules.tracking.secrets import mask_secrets


class _SilentHandler(logging.StreamHandler):
    """Prints no traceback if the disk is full."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 # logging's name
        pass


class LogFile:
    """Collects Python's logging and warnings of this process for the record."""

    LOGGERS = ("", "pytorch_lightning", "lightning.pytorch", "py.warnings")

    def __init__(self) -> None:
        self._file = tempfile.NamedTemporaryFile("w+", suffix=".log", encoding="utf-8")  # noqa: SIM115
        self._handler = _SilentHandler(self._file)
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.captureWarnings(True)
        for name in self.LOGGERS:
            logging.getLogger(name).addHandler(self._handler)

    def close(self) -> str:
        """End the collection; return the text without secrets."""
        self._handler.flush()
        for name in self.LOGGERS:
            logging.getLogger(name).removeHandler(self._handler)
        text = Path(self._file.name).read_text(encoding="utf-8")
        self._file.close()
        return mask_secrets(text)
