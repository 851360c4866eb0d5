"""Shall we try again? For now: only what certainly never left the client."""
