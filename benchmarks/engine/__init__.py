"""The engine next to its peers on the same audio: `python -m benchmarks.engine`."""
