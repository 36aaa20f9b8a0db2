"""A discrete-event simulation of the scaling: the operator's own decisions, and those of other scalers, over the same work."""
