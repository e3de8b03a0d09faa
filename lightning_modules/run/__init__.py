"""One run; ``lightning_modules.run(cfg)`` is the function of `lightning_modules.api`."""

import sys

from lightning_modules import CallableModule

sys.modules[__name__].__class__ = CallableModule
