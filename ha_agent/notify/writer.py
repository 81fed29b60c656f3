"""Notifications as documents of the store: written in the same transaction as the change that they report, read by the outbox."""

from __future__ import annotations

import msgspec

from ha_agent.model import Notification
from ha_agent.ports import Put

KIND = "outbox"


class OutboxWriter:
    """Makes the documents of one leadership. Their keys sort by epoch and then by order of making; the notification's id keeps
    them apart whatever happens."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._number = 0

    def put_for(self, notification: Notification) -> Put:
        """The write that adds the notification. To be committed together with what it reports."""
        self._number += 1
        key = f"{self._epoch:010d}.{self._number:010d}.{notification.id}"
        return Put(kind=KIND, key=key, body=msgspec.json.encode(notification))
