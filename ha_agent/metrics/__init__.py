"""Metrics for Prometheus. Labels are known hosts, devices and the words of the model only, so that their number is bounded.

A scrape takes a snapshot on the event loop (cheap: values are frozen) and renders it in a thread.
"""

from ha_agent.metrics.families import CONTENT_TYPE, Snapshot, render

__all__ = ["CONTENT_TYPE", "Snapshot", "render"]
