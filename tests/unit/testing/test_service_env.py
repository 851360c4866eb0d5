"""The variables a kubelet sets for a Service."""

from __future__ import annotations

from meshlb.testing.service_env import service_variables


def test_both_forms_are_set_for_every_port() -> None:
    """Dashes become underscores, the first port is the main one, unnamed ports have no variable by name."""
    assert service_variables("order-api", "10.0.0.1", {"grpc-web": 80, "http": 81}) == {
        "ORDER_API_SERVICE_HOST": "10.0.0.1",
        "ORDER_API_SERVICE_PORT": "80",
        "ORDER_API_SERVICE_PORT_GRPC_WEB": "80",
        "ORDER_API_SERVICE_PORT_HTTP": "81",
        "ORDER_API_PORT": "tcp://10.0.0.1:80",
        "ORDER_API_PORT_80_TCP": "tcp://10.0.0.1:80",
        "ORDER_API_PORT_80_TCP_PROTO": "tcp",
        "ORDER_API_PORT_80_TCP_PORT": "80",
        "ORDER_API_PORT_80_TCP_ADDR": "10.0.0.1",
        "ORDER_API_PORT_81_TCP": "tcp://10.0.0.1:81",
        "ORDER_API_PORT_81_TCP_PROTO": "tcp",
        "ORDER_API_PORT_81_TCP_PORT": "81",
        "ORDER_API_PORT_81_TCP_ADDR": "10.0.0.1",
    }
    assert set(service_variables("a", "10.0.0.1", {"": 80})) >= {"A_SERVICE_HOST", "A_SERVICE_PORT", "A_PORT"}
    assert "A_SERVICE_PORT_" not in service_variables("a", "10.0.0.1", {"": 80})
