"""The Kopf operator: watches TranscriberDeployments and makes the cluster what they ask for."""
