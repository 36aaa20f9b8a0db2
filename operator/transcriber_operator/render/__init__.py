"""Manifests of the children of a TranscriberDeployment, as pure functions of its spec and the installation."""
