"""A configuration that is broken in any way: one error that names fields, never another exception; and what is accepted makes sense."""

from __future__ import annotations

from pathlib import Path

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ha_agent import config
from ha_agent.errors import ConfigError
from tests.property.conftest import TIMES
from tests.property.mutations import broken_value

EXAMPLES = Path(__file__).parents[2] / "examples"
EXAMPLE = (EXAMPLES / "controller.yaml").read_text()
REMOTE = (EXAMPLES / "remote.yaml").read_text()
DATA = yaml.safe_load(EXAMPLE)
LINES = EXAMPLE.splitlines()
SCRAPS = (
    "",
    ":",
    "- ",
    "  x: 1",
    "? [a]: b",
    "&a [*a]",
    "*nobody",
    "!!python/name:os.system x",
    "\t",
    "{",
    "}",
    "[[",
    "1: 2",
)


def loaded(text: str) -> None:
    """Loads it, or is told what is wrong: every problem with a field and words."""
    try:
        result = config.loads(text, "/nowhere/controller.yaml", check_files=False, environ={})
    except ConfigError as error:
        problems = error.problems
    else:
        assert result.policy.hosts
        assert result.policy.storm.max_hosts >= 1
        for host in result.policy.hosts.values():
            assert 0 < host.detection.suspect_after_s < host.detection.down_after_s
            assert host.fencing.evidence_max_age_s > 0
        return
    assert problems
    assert all(field and problem for field, problem, _ in problems)


def loaded_remote(text: str, path: Path) -> None:
    """The same of a remote's."""
    path.write_bytes(text.encode(errors="surrogatepass"))
    try:
        result = config.load_remote(path)
    except ConfigError as error:
        problems = error.problems
    else:
        assert 0 < result.port < 65536
        return
    assert problems
    assert all(field and problem for field, problem, _ in problems)


@settings(max_examples=20 * max(TIMES, 1), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(broken_value(yaml.safe_load(REMOTE)))
def test_values_of_a_remote(tmp_path: Path, data: object) -> None:
    loaded_remote(yaml.safe_dump(data), tmp_path / "remote.yaml")


@settings(max_examples=20 * max(TIMES, 1), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(SCRAPS), st.integers(0, len(REMOTE.splitlines()) - 1))
def test_lines_of_a_remote(tmp_path: Path, scrap: str, at: int) -> None:
    lines = REMOTE.splitlines()
    lines[at] = scrap
    loaded_remote("\n".join(lines), tmp_path / "remote.yaml")


def test_the_example_is_good() -> None:
    assert config.loads(EXAMPLE, "/nowhere/controller.yaml", check_files=False, environ={}).policy.hosts


@settings(max_examples=30 * max(TIMES, 1))
@given(broken_value(DATA))
def test_values(data: object) -> None:
    loaded(yaml.safe_dump(data))


@settings(max_examples=30 * max(TIMES, 1))
@given(st.data())
def test_lines(data: st.DataObject) -> None:
    lines = list(LINES)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        how = data.draw(st.sampled_from(["scrap", "drop", "double", "indent", "cut"]))
        if how == "scrap":
            lines[at] = data.draw(
                st.sampled_from(SCRAPS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
            )
        elif how == "double":
            lines.insert(at, lines[at])
        elif how == "indent":
            lines[at] = "  " + lines[at]
        elif how == "cut":
            lines[at] = lines[at][: data.draw(st.integers(0, 20))]
        elif len(lines) > 1:
            del lines[at]
    loaded("\n".join(lines))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_noise(text: str) -> None:
    loaded(text)
