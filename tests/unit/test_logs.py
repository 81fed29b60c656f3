"""Log lines never wait for whoever reads them."""

from __future__ import annotations

import io
import logging
import os
import threading

import pytest

from ha_agent.logs import WAITING, Patient

SENT = 3 * WAITING
PIPE = 64 * 1024 // 100 + 1  # lines that fit into a pipe


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("test", logging.INFO, "", 0, "%s", (text,), None)


def test_lines_arrive_in_order() -> None:
    stream = io.StringIO()
    handler = Patient(stream)
    for number in range(10):
        handler.emit(record(f"line {number}"))
    handler.drain(10.0)
    assert stream.getvalue().splitlines() == [f"INFO test: line {number}" for number in range(10)]


def test_a_reader_that_hangs_costs_lines_and_not_time() -> None:
    """A pipe that nobody reads, as journald's socket is when its disk hangs."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream, os.fdopen(reading) as reader:
        handler = Patient(stream)

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
    handler = Patient(stream)
    handler.emit(record("nobody hears"))
    handler.drain(10.0)
    with pytest.raises(BrokenPipeError):
        stream.close()
