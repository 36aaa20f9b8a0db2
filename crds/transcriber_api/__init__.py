"""The API `serving.transcriber.dev/v1alpha1` as typed models: the one source of the CRD, its documentation and its validation."""
