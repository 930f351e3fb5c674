"""Traces: spans of enqueues, deliveries and settlements, sent to an OpenTelemetry collector.

Nothing imports this package unless `--traces` is on, because it imports OpenTelemetry, an optional dependency.
"""
