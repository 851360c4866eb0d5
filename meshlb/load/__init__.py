"""How loaded is it? One file a metric; a metric belongs to one subchannel and survives updates with it."""
