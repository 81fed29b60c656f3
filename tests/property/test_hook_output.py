"""Whatever a hook prints: one printable line of bounded length is kept of it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ha_agent.notify.hook_run import TAIL_MAX, tail
from tests.property.conftest import TIMES


@settings(max_examples=100 * max(TIMES, 1))
@given(st.binary(max_size=3000) | st.text(max_size=3000).map(lambda t: t.encode(errors="surrogatepass")))
def test_one_printable_line(output: bytes) -> None:
    kept = tail(output)
    assert len(kept) <= TAIL_MAX
    assert kept.isprintable()


@given(st.binary(max_size=50_000), st.text("abcdefghij ", min_size=1, max_size=100))
def test_its_last_words_are_kept(noise: bytes, last: str) -> None:
    assert tail(noise + b"\n" + last.encode()).endswith(" ".join(last.split()))
