"""What holds for all tests: a Ctrl-C works in the programs that they start, also where the shell that started pytest ignores it."""

from __future__ import annotations

import signal

# A shell's background jobs inherit SIGINT as ignored, and so would every program below them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
