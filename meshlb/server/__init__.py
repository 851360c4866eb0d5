"""What servers may add: reports of their load, for callers that weigh servers by them. Needs grpcio and nothing else."""

from meshlb.server.reporter import LoadReporter, record_request_cost

__all__ = ["LoadReporter", "record_request_cost"]
