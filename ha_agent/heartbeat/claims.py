"""Who else claims this host. A lease guards one store only: two controllers with two stores meet nowhere but here."""

from __future__ import annotations

from ha_agent.heartbeat.wire import Foreign
from ha_agent.ports import Clock

REMEMBER_S = 60.0  # a claimant between two connections is still one; one that is gone for longer is not
MAX_CLAIMS = 64


class Claims:
    """The claims on one host, by controller and store. A claim of epoch 0 is none: that controller never led."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._claims: dict[tuple[str, str], tuple[int, float | None]] = {}  # → (epoch, forgotten at; None: connected)

    def made(self, controller: str, store_id: str, epoch: int) -> None:
        """`controller` says Hello or Claim."""
        self._forget()
        if epoch > 0 and (len(self._claims) < MAX_CLAIMS or (controller, store_id) in self._claims):
            self._claims[controller, store_id] = (epoch, None)

    def left(self, controller: str, store_id: str) -> None:
        """Its connection has ended."""
        claim = self._claims.get((controller, store_id))
        if claim is not None:
            self._claims[controller, store_id] = (claim[0], self._clock.now() + REMEMBER_S)

    def against(self, store_id: str, epoch: int) -> list[Foreign]:
        """The claims that one who claims (`store_id`, `epoch`) must hear of: another store's, or a newer epoch of the same. One that
        claims nothing itself is a standby: a leader in its own store is no news to it."""
        self._forget()
        return [
            Foreign(controller=controller, store_id=store, epoch=newest)
            for (controller, store), (newest, _) in self._claims.items()
            if store != store_id or (0 < epoch < newest)
        ]

    def _forget(self) -> None:
        now = self._clock.now()
        self._claims = {key: claim for key, claim in self._claims.items() if claim[1] is None or claim[1] > now}
