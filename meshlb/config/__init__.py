"""What a process wants of meshlb: ``Config`` in code, ``MESHLB_*`` around it, ``Mode`` to turn it off."""

from __future__ import annotations

from meshlb.config.mode import Mode
from meshlb.config.settings import Config, resolve_config

__all__ = ["Config", "Mode", "resolve_config"]
