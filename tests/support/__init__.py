"""What several test rooms share: real servers and real pools, without a cluster."""
