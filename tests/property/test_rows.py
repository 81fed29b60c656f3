"""Whether Nova hears anybody, against the plain definition: a look at every row."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from ha_agent.controller.rows import Row, Rows

HOSTS = ("h1", "h2", "h3", "h4")
STEPS = st.tuples(
    st.floats(0, 12, allow_nan=False),  # seconds until it is read
    st.sampled_from(HOSTS),
    st.sampled_from(["", "a", "b"]),  # what it says; empty: the host leaves
    st.sampled_from([5.0, 25.0]),
)


class Plain:
    """All rows, and a look at each."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}

    def note(self, host: str, text: str, at: float, lasts_s: float) -> None:
        known = self.rows.get(host)
        if known is None or known.read_at < at - lasts_s:
            known = Row(text=text, read_at=at)
        moved_at = known.moved_at if text == known.text else at
        self.rows[host] = Row(text=text, read_at=at, moved_at=moved_at)

    def hears(self, since: float, but: str) -> bool:
        return any(r.moved_at is not None and r.moved_at >= since for h, r in self.rows.items() if h != but)


MOVED_AGAIN = [
    (1.0, h, text, 25.0) for text, hosts in (("a", "123"), ("b", "123"), ("a", "1")) for h in (f"h{n}" for n in hosts)
]


@example(MOVED_AGAIN, 0.5)
@given(st.lists(STEPS, max_size=40), st.floats(0, 60, allow_nan=False))
def test_the_newest_two_say_as_much_as_all(steps: list[tuple[float, str, str, float]], lately_s: float) -> None:
    rows, plain, now = Rows(), Plain(), 100.0
    for pause_s, host, text, lasts_s in steps:
        now += pause_s
        if text:
            rows.note(host, text, now, lasts_s)
            plain.note(host, text, now, lasts_s)
        else:
            rows.forget(host)
            plain.rows.pop(host, None)
        for but in HOSTS:
            assert rows.hears(now - lately_s, but) is plain.hears(now - lately_s, but)
