"""Measure latency as an expert would sign it: each target in a process of its own, in interleaved rounds."""
