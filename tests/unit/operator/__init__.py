"""The pure rooms of the operator: rendering and deciding."""
