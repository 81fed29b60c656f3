"""Debian's promtool, as tests ask it."""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

EXAMPLES = Path(__file__).parents[2] / "examples" / "prometheus"
RULES = ("ha-agent.rules.yml", "ha-agent.alerts.yml")


def run(*words: str | Path, stdin: bytes = b"") -> str:
    """What it says. Raises AssertionError with it where it objects."""
    done = subprocess.run(["promtool", *words], input=stdin, capture_output=True, check=False, timeout=300)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


def alerts() -> list[dict[str, Any]]:
    """Every alert of the example."""
    return _rules("ha-agent.alerts.yml")


def recorded() -> list[dict[str, Any]]:
    """Every recording rule of the example."""
    return _rules("ha-agent.rules.yml")


def _rules(name: str) -> list[dict[str, Any]]:
    whole = yaml.safe_load((EXAMPLES / name).read_text("utf-8"))
    return [rule for group in whole["groups"] for rule in group["rules"]]


def fired(
    name: str, interval_s: float, series: Sequence[Mapping[str, str]], until_s: float, alerts: Collection[str]
) -> Any:
    """A test: exactly these alerts fired at some time, whichever their labels."""
    return {
        "name": name,
        "interval": f"{interval_s:.0f}s",
        "input_series": [dict(each) for each in series],
        "promql_expr_test": [
            {
                "expr": 'group by (alertname) (last_over_time(ALERTS{alertstate="firing"}[30d]))',
                "eval_time": f"{until_s:.0f}s",
                "exp_samples": [{"labels": f'{{alertname="{each}"}}', "value": 1} for each in sorted(alerts)],
            }
        ],
    }


def judge(directory: Path, tests: Sequence[Any], interval_s: float) -> str:
    """Raises AssertionError with what promtool says where one fails."""
    path = directory / "simulated.test.yml"
    whole = {
        "rule_files": [str(EXAMPLES / each) for each in RULES],
        "evaluation_interval": f"{interval_s:.0f}s",
        "tests": list(tests),
    }
    path.write_text(yaml.safe_dump(whole, width=1_000_000), encoding="utf-8")
    return run("test", "rules", path)
