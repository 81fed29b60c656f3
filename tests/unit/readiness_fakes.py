"""What a facade says of readiness where nothing real is behind it: the second host has a note, the third is not ready."""

from __future__ import annotations

from ha_agent.api.readiness import Check, Finding, HostReadiness, Protection, Readiness
from tests.unit.fencing_fakes import HasHosts

DRIVERS_WORD = "bmc: \x1b[2Jwrong password"


class SaysOfReadiness:
    """To be inherited by a fake of the facade. `standby`: who leads instead."""

    standby = ""

    def readiness(self: HasHosts) -> Readiness:
        note = Finding(check=Check.SERVERS, text="1 server is chosen and would stay", fix="look at it", stops=False)
        bad = Finding(check=Check.FENCING, text=DRIVERS_WORD, fix="ha-agent fencing check")
        found: dict[int, tuple[Finding, ...]] = {1: (note,), 2: (bad,)}
        hosts = tuple(
            HostReadiness(
                host=name,
                ready=number != 2,
                findings=found.get(number, ()),
                servers=Protection(protected=7, at_risk=1, unprotected=2, age_s=60.0) if number < 2 else None,
            )
            for number, name in enumerate(self.hosts)
        )
        return Readiness(ready=len(hosts) < 3, standby=getattr(self, "standby", ""), hosts=hosts)
