"""Pairs of a step and a fault that cannot meet, and why."""

from __future__ import annotations


def reason(step: str, fault: str) -> str:
    """Why nothing that a controller sees or does can differ; empty where it can."""
    return ""
