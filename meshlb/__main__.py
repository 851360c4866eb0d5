"""``python -m meshlb``: the same as the ``meshlb`` command."""

from __future__ import annotations

import sys

from meshlb.cli import main

if __name__ == "__main__":
    sys.exit(main())
