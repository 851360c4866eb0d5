"""Where things happen: the system's clock, the discovery thread with its helpers, and what a fork or an exit needs."""
