"""Scenarios: a target under a referee's load, a camera's, for minutes, at its start; reported with what decides."""
