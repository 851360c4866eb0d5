"""Where are they? Sources of endpoints, and the chain that chooses among them."""
