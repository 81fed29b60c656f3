"""Log lines never wait for whoever reads them."""

from __future__ import annotations

import io
import logging
import os
import threading
from pathlib import Path

import pytest

from ha_agent.logs import WAITING, Patient, about, is_journal, journal, plain

SENT = 3 * WAITING
PIPE = 64 * 1024 // 100 + 1  # lines that fit into a pipe


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("test", logging.INFO, "", 0, "%s", (text,), None)


def test_lines_arrive_in_order() -> None:
    stream = io.StringIO()
    handler = Patient(plain(stream))
    for number in range(10):
        handler.emit(record(f"line {number}"))
    handler.drain(10.0)
    assert stream.getvalue().splitlines() == [f"INFO test: line {number}" for number in range(10)]


def test_a_reader_that_hangs_costs_lines_and_not_time() -> None:
    """A pipe that nobody reads, as journald's socket is when its disk hangs."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream, os.fdopen(reading) as reader:
        handler = Patient(plain(stream))

        def flood() -> None:
            for _ in range(SENT):
                handler.emit(record("x" * 100))

        sender = threading.Thread(target=flood)
        sender.start()
        sender.join(10.0)
        assert not sender.is_alive(), "it waits for its reader"
        handler.drain(0.01)  # nor does the end
        kept = lost = 0
        while kept + lost < SENT:  # each line has come, or is counted
            line = reader.readline()
            if line.endswith("x\n"):
                kept += 1
            else:
                lost += int(line.split(": ")[1].split()[0])
        assert lost >= SENT - WAITING - PIPE
        handler.drain(10.0)


def test_a_reader_that_is_gone_harms_nobody() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w")
    handler = Patient(plain(stream))
    handler.emit(record("nobody hears"))
    handler.drain(10.0)
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_fields_for_the_journal() -> None:
    """What a line is about is told beside it, and nothing that is not known."""
    sent: list[dict[str, object]] = []
    handler = Patient(journal(lambda message, **fields: sent.append({"MESSAGE": message, **fields})))
    log = logging.Logger("ha_agent")
    log.addHandler(handler)
    log.info("%s", "compute-1 [fence] off", extra=about(host="compute-1", incident="i-1", step="fence"))
    log.error("the store failed")
    handler.drain(10.0)
    fence, store = sent
    assert (fence["MESSAGE"], fence["PRIORITY"], fence["LOGGER"]) == ("compute-1 [fence] off", 6, "ha_agent")
    assert {k: v for k, v in fence.items() if k.startswith("HA_AGENT")} == {
        "HA_AGENT_HOST": "compute-1",
        "HA_AGENT_INCIDENT": "i-1",
        "HA_AGENT_STEP": "fence",
    }
    assert (store["MESSAGE"], store["PRIORITY"]) == ("the store failed", 3)
    assert not any(key.startswith("HA_AGENT") for key in store)


def test_a_line_that_cannot_be_written_is_not_the_last_one() -> None:
    stream = io.StringIO()
    write = plain(stream)

    def moody(line: logging.LogRecord) -> None:
        if "first" in line.getMessage():
            raise TypeError
        write(line)

    handler = Patient(moody)
    handler.emit(record("first"))
    handler.emit(record("second"))
    handler.drain(10.0)
    assert stream.getvalue() == "INFO test: second\n"


def test_whether_stderr_is_the_journal(tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("w") as stream:
        status = os.fstat(stream.fileno())
        assert is_journal(stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        assert not is_journal(stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"})
        assert not is_journal(stream, {})
    assert not is_journal(io.StringIO(), {"JOURNAL_STREAM": "1:1"})
