"""What a line of the log is about: its host, its incident and the step, also of a guest and of the line that closes it."""

from __future__ import annotations

import logging

import msgspec
import pytest

from ha_agent.controller.ownhost import OwnNetwork
from ha_agent.logs import FIELDS
from ha_agent.model import Incident, Kind, Phase
from tests.unit.cli_support import incident
from tests.unit.test_daemon_feels import Time, controller

GUEST = "5f0d3a52-7d2c-4b8c-9d0e-3c1b0f5a7e11"


def of(subject: str, key: str, phase: Phase) -> Incident:
    kind = Kind.HOST if subject == "h" else Kind.GUEST
    return incident(id=key, kind=kind, host="h", subject=subject, phase=phase)


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("h [fence] off is sent", {"HA_AGENT_HOST": "h", "HA_AGENT_INCIDENT": "open", "HA_AGENT_STEP": "fence"}),
        (f"{GUEST} [verify] closed", {"HA_AGENT_HOST": "h", "HA_AGENT_INCIDENT": "last", "HA_AGENT_STEP": "verify"}),
        ("h: bmc is machine m", {"HA_AGENT_HOST": "h"}),
        ("somebody [fence] is unknown here", {"HA_AGENT_STEP": "fence"}),
        ("leading since epoch 1", {}),
    ],
)
def test_fields(line: str, fields: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    made = controller(Time(), OwnNetwork())
    known = [of("h", "open", Phase.OPEN), of(GUEST, "first", Phase.CLOSED), of(GUEST, "last", Phase.CLOSED)]
    made.engine.state = msgspec.structs.replace(
        made.engine.state, incidents={each.id: each for each in known}, closed=("first", "last")
    )
    with caplog.at_level(logging.INFO, "ha_agent"):
        made._line(line)
    (record,) = [each for each in caplog.records if each.name == "ha_agent"]
    assert record.getMessage() == line
    assert getattr(record, FIELDS) == fields
