"""Metrics of queues, alerts, the dashboard and the autoscaler: what an operator sees and is told."""
