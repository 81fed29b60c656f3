"""How many hosts fell silent at about the same time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ha_agent.controller.together import Together

silences = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(("r1", "r2")), st.integers(0, 40).map(float)),
    unique_by=lambda each: each[0],
)


@given(silences, st.sampled_from("abcxyz"), st.sampled_from(("r1", "r2", "r3")), st.integers(0, 40).map(float))
def test_it_counts_as_one_who_looks_at_every_host(
    silent: list[tuple[str, str, float]], host: str, domain: str, since: float
) -> None:
    known = {h: (d, at) for h, d, at in silent}
    if host in known:
        domain, since = known[host]
    near = [d for h, (d, at) in known.items() if h != host and abs(at - since) <= 10.0]
    counts = Together(silent).with_host(host, domain, since, 10.0)
    assert counts == (1 + len(near), 1 + near.count(domain))
