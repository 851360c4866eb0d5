"""The brain: an EndpointSet goes in, a Subchannel comes out."""
