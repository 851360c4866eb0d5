"""May it be sent now? Limits on calls in flight, and the queues of those that wait for their turn."""
