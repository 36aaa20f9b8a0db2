"""The scalers that are compared: the operator's own function, and formulas of other systems; each a pure function of a view."""
