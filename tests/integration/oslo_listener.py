"""A notification listener of oslo.messaging, as other OpenStack services run one: prints one JSON line per notification.

python -m tests.integration.oslo_listener URL EXCHANGE TOPIC
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import oslo_messaging
from oslo_config import cfg


def say(**what: Any) -> None:
    """One line."""
    print(json.dumps(what), flush=True)


class Endpoint:
    """oslo.messaging calls the method that is named like the priority."""

    def info(self, context: Any, publisher_id: str, event_type: str, payload: Any, metadata: Any) -> None:
        """A notification of priority INFO."""
        say(priority="info", publisher=publisher_id, event=event_type, payload=payload, id=metadata["message_id"])

    def error(self, context: Any, publisher_id: str, event_type: str, payload: Any, metadata: Any) -> None:
        """A notification of priority ERROR."""
        say(priority="error", publisher=publisher_id, event=event_type, payload=payload, id=metadata["message_id"])


def main() -> None:
    """Listens until it is killed."""
    url, exchange, topic = sys.argv[1:]
    conf = cfg.ConfigOpts()
    conf([], project="listener")
    oslo_messaging.set_transport_defaults(control_exchange=exchange)
    transport = oslo_messaging.get_notification_transport(conf, url=url)
    conf.set_override("amqp_durable_queues", True, group="oslo_messaging_rabbit")
    listener = oslo_messaging.get_notification_listener(
        transport, [oslo_messaging.Target(topic=topic)], [Endpoint()], executor="threading"
    )
    conf.set_override("executor_thread_pool_size", 1)  # one at a time, so that the order shows
    listener.start()
    say(ready=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
