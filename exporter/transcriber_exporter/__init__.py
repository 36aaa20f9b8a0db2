"""Sidecar of a serving pod: canary readiness, liveness and drain."""
