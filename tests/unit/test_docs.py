"""The docs are true: every command that they, or an error's hint, tell somebody to type exists; every link leads somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from ha_agent.cli.app import app

REPO = Path(__file__).parents[2]
PAGES = [REPO / "README.md", REPO / "CHANGELOG.md", *sorted((REPO / "docs").glob("*.md"))]
SOURCES = sorted((REPO / "ha_agent").rglob("*.py"))
LABELS = {"ha-agent probe 1"}  # texts of the wire protocol that only look like a command
# A command stands in `backticks`, after a quote, or after "see: " and the like.
TYPED = re.compile(r"(?:^|`|\"|: )ha-agent ([a-z][a-z-]*)((?: (?:--)?[a-zA-Z{][\w{}.-]*)*)", re.MULTILINE)
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)


def commands(text: str) -> Iterator[list[str]]:
    for first, rest in TYPED.findall(text):
        yield [first, *rest.split()]


def typed(path: Path) -> str:
    """The part of a file in which commands stand: all of a source, the code of a page."""
    text = path.read_text("utf-8")
    for label in LABELS:
        text = text.replace(f'"{label}"', "")
    return "\n".join(CODE.findall(text)) if path.suffix == ".md" else text


def problem(words: list[str]) -> str:
    """Why this cannot be typed; empty if it can."""
    node: Any = typer.main.get_command(app)
    for position, word in enumerate(words):
        children = getattr(node, "commands", None)
        if word.startswith("--"):
            if not any(word in option.opts for option in node.params):
                return f"{word} is no option of {' '.join(words[:position])}"
        elif children:
            if word not in children:
                return f"{word} is no command of {' '.join(['ha-agent', *words[:position]])}"
            node = children[word]
    return ""


@pytest.mark.parametrize("path", [*PAGES, *SOURCES], ids=lambda p: str(p.relative_to(REPO)))
def test_commands_exist(path: Path) -> None:
    wrong = [f"ha-agent {' '.join(words)}: {why}" for words in commands(typed(path)) if (why := problem(words))]
    assert wrong == []


def test_a_wrong_command_would_be_seen() -> None:
    assert [problem(words) for words in commands('"ha-agent confirm-fence h1", `ha-agent evacuate h1 --dry`')] == [
        "confirm-fence is no command of ha-agent",
        "--dry is no option of evacuate h1",
    ]
    assert [problem(words) for words in commands("`ha-agent remote gate --override`\nha-agent pki init\n")] == ["", ""]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]*)(?:#[^)]*)?\)", page.read_text("utf-8")):
        assert not target or (page.parent / target).exists(), target
