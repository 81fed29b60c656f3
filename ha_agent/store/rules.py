"""What every store must refuse, as pure functions: bounds of a write, the epoch guard, and the changes of the lease."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ha_agent.errors import Conflict, LeaseLost, StoreError
from ha_agent.ports import Delete, Lease, Put

MAX_BODY = 1024 * 1024
MAX_NAME = 512
MAX_WRITES = 10_000


def check_writes(writes: Sequence[Put | Delete]) -> None:
    """Raises StoreError where a commit is larger than any that we mean to make. Nothing is written then."""
    if len(writes) > MAX_WRITES:
        raise StoreError(f"a commit of {len(writes)} documents was refused: the bound is {MAX_WRITES}")
    for write in writes:
        if not 0 < len(write.kind) <= MAX_NAME or not 0 < len(write.key) <= MAX_NAME:
            raise StoreError(f"kind and key of a document must have 1 to {MAX_NAME} characters: {write.kind[:64]!r}")
        if isinstance(write, Put) and len(write.body) > MAX_BODY:
            raise StoreError(
                f"document {write.kind}/{write.key} has {len(write.body)} bytes: the bound is {MAX_BODY}",
                "this is a defect of ha-agent: nothing that it keeps may grow so far",
            )


def check_epoch(lease: Lease | None, epoch: int | None) -> None:
    """The guard of S4: raises LeaseLost unless `epoch` is the newest one and its lease is not released."""
    if epoch is None:
        return
    if lease is None or lease.epoch != epoch:
        newest = "none" if lease is None else f"{lease.epoch}, of {lease.owner}"
        raise LeaseLost(f"epoch {epoch} is over: the newest is {newest}")
    if lease.released:
        raise LeaseLost(f"the lease of epoch {epoch} was released")


def check_expected(put: Put, revision: int) -> None:
    """Raises Conflict where the document is not at the revision that the writer expects."""
    if put.expect is not None and put.expect != revision:
        raise Conflict(f"{put.kind}/{put.key} is at revision {revision}, not {put.expect}: somebody else wrote it")


def taken(current: Lease | None, owner: str, lease_s: float, seen: Lease | None) -> Lease:
    """The lease of a new epoch. Raises Conflict where the stored lease is not the one that the taker has watched."""
    if not owner or lease_s <= 0:
        raise StoreError(f"a lease needs an owner and more than 0 seconds, not {owner!r} and {lease_s}")
    if current != seen:
        by = "nobody" if current is None else f"{current.owner}, epoch {current.epoch}"
        raise Conflict(f"the lease has changed since it was seen: it is now held by {by}")
    if current is None:
        return Lease(owner=owner, epoch=1, changes=1, lease_s=lease_s)
    return Lease(owner=owner, epoch=current.epoch + 1, changes=current.changes + 1, lease_s=lease_s)


def renewed(current: Lease | None, owner: str, epoch: int) -> Lease:
    """The lease, held for another `lease_s`. Raises LeaseLost."""
    check_epoch(current, epoch)
    assert current is not None
    if current.owner != owner:
        raise LeaseLost(f"epoch {epoch} belongs to {current.owner}, not to {owner}")
    return msgspec.structs.replace(current, changes=current.changes + 1)


def released(current: Lease | None, owner: str, epoch: int) -> Lease | None:
    """The released lease; None where it is not ours (any more), so that there is nothing to release."""
    if current is None or current.owner != owner or current.epoch != epoch or current.released:
        return None
    return msgspec.structs.replace(current, changes=current.changes + 1, released=True)
