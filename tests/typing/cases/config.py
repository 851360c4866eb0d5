"""What a type checker knows of ``Config``: names, and the forms that a value may have."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, assert_type

import meshlb

config = meshlb.Config(policy="least_request", connect_timeout_s=1, first_answer_timeout_s=timedelta(seconds=2))
meshlb.Config(policy={"name": "least_request", "choice_count": 3}, discovery="dns", connect_timeout_s="250ms")
assert_type(config.connect_timeout_s, float)
assert_type(meshlb.Config.from_dict({"policy": "rr"}), meshlb.Config)
assert_type(meshlb.Config.from_env({"MESHLB_POLICY": "rr"}), meshlb.Config)
assert_type(config.to_dict(), dict[str, Any])

meshlb.Config(polcy="p2c")  # type: ignore[call-arg]
meshlb.Config("p2c")  # type: ignore[call-arg]  # keyword-only
meshlb.Config(connect_timeout_s=None)  # type: ignore[arg-type]
config.connect_timeout_s = 2.0  # type: ignore[misc]  # frozen
