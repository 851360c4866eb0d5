"""Shall we try again? Policy, back-off, throttle and the one budget that pays for all of it."""
