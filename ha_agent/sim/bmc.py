"""BMCs that speak real IPMI over UDP, many in one process, each with a switch that we are given and faults that we can
order.

pyghmi's server class does the protocol. It keeps one process-wide loop, so one thread serves all, and one farm at a
time exists.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from enum import StrEnum
from typing import Any

from pyghmi.ipmi import bmc
from pyghmi.ipmi.private import serversession, session

from ha_agent.model import Power

USER = "admin"
PASSWORD = "s3cret"
LOOP_S = 0.02
COMMANDS_KEPT = 1000

_SHA1_ONLY = (0, 1)  # authentication algorithms of an open session request: none said, HMAC-SHA1
_NO_CIPHER = 0x11
_OPEN_SESSION_REQUEST = 16
_SET_PRIVILEGE = (6, 0x3B)


class Fault(StrEnum):
    """What can be wrong with a BMC."""

    DEAD = "dead"  # answers nothing at all
    HANG = "hang"  # logs in, then answers nothing
    IGNORE_OFF = "ignore_off"  # says yes to off and does nothing
    SLOW_OFF = "slow_off"  # off works some seconds later
    REFUSE_OFF = "refuse_off"  # says no to off
    WRONG_GUID = "wrong_guid"  # says that it is another machine
    FLAPS = "flaps"  # once off, it reads off and on by turns
    COMES_BACK = "comes_back"  # once it was read off, its host is on again by itself
    UNREADABLE = "unreadable"  # its power state cannot be read
    DIES = "dies"  # takes the off, does not do it, and answers nothing from then on


class BmcFarm:
    """BMCs on loopback UDP ports. `start`, then `add`; everything else at any time, from any thread."""

    def __init__(self, address: str = "127.0.0.1", username: str = USER, password: str = PASSWORD) -> None:
        self.address = address
        self.username = username
        self.password = password
        self._bmcs: dict[str, _Bmc] = {}
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self._running = False
        self._thread = threading.Thread(target=self._serve, name="bmc-farm", daemon=True)

    def start(self) -> None:
        """Starts the thread that serves all."""
        self._running = True
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread and closes the ports. No host is switched."""
        if self._running:
            self._running = False
            self._thread.join()

    def add(self, name: str, on_off: Callable[[bool], None], initially_on: bool = True, guid: str = "") -> int:
        """A new BMC; returns its UDP port. `on_off` is called in the farm's thread when the power changes (True: on)
        and must be quick, for it holds up all BMCs. `guid`: a UUID, random if empty."""
        machine = uuid.UUID(guid) if guid else uuid.uuid4()
        port: int = self._call(lambda: self._add(name, on_off, initially_on, machine))
        return port

    def fault(self, name: str, kind: Fault | str | None, delay_s: float = 2.0) -> None:
        """Orders a fault, None ends it. `delay_s`: of `slow_off`."""
        target = self._bmcs[name]
        target.delay_s = delay_s
        target.fault = None if kind is None else Fault(kind)

    def power(self, name: str) -> Power:
        """What the host's power really is."""
        return Power.ON if self._bmcs[name].on else Power.OFF

    def set_power(self, name: str, on: bool) -> None:
        """The power button: changes the state without IPMI, and without calling `on_off`."""
        self._bmcs[name].on = on

    def commands(self, name: str) -> list[str]:
        """The power commands that arrived, `off` and `on`, oldest first; also those that a fault made useless."""
        return list(self._bmcs[name].commands)

    def guid(self, name: str) -> str:
        """Which machine it is."""
        return str(self._bmcs[name].machine)

    def _add(self, name: str, on_off: Callable[[bool], None], on: bool, machine: uuid.UUID) -> int:
        self._bmcs[name] = _Bmc(self, on_off, on, machine)
        return int(self._bmcs[name].port)

    def later(self, delay_s: float, work: Callable[[], None]) -> None:
        """Does it in the farm's thread, after a while."""
        self._timers.append((time.monotonic() + delay_s, work))

    def _call(self, work: Callable[[], Any]) -> Any:
        """Does it in the farm's thread, for pyghmi's loop belongs to that one."""
        future: Future[Any] = Future()
        self._calls.append((work, future))
        return future.result(timeout=10)

    def _serve(self) -> None:
        session.myself = "127.0.0.1"  # the address at which pyghmi wakes its own loop; it would guess an IPv6 one
        session._io_recvfrom = _receive
        while self._running:
            while self._calls:
                work, future = self._calls.popleft()
                try:
                    future.set_result(work())
                except Exception as error:  # whoever called gets it
                    future.set_exception(error)
            now = time.monotonic()
            due = [timer for timer in self._timers if timer[0] <= now]
            self._timers = [timer for timer in self._timers if timer[0] > now]
            for _, work in due:
                work()
            if session.iosockets:
                session.Session.wait_for_rsp(LOOP_S)
            else:
                time.sleep(LOOP_S)
        closing = self._retire()
        for _ in range(2 if closing else 0):
            session.Session.wait_for_rsp(LOOP_S)
        for each in closing:
            each.close()

    def _retire(self) -> list[Any]:
        """Takes the BMCs out of pyghmi's loop. Returns the sockets that may be closed once that loop has turned."""
        closing = []
        for each in self._bmcs.values():
            each.fault = Fault.DEAD
            session.Session.bmc_handlers.pop(each.serversocket, None)
            # The process's first socket stays: pyghmi wakes its loop through it.
            if each.serversocket is not session.iosockets[0]:
                session.iosockets.remove(each.serversocket)
                closing.append(each.serversocket)
        return closing


def _receive(sock: socket.socket, size: int) -> Any:
    """A packet and who sent it, None if there is none. pyghmi's own makes the socket non-blocking first; its other thread makes it blocking
    again in order to send, and if that comes in between, all BMCs wait for a packet to this one."""
    try:
        return sock.recvfrom(size, socket.MSG_DONTWAIT)
    except OSError:
        return None


class _Bmc(bmc.Bmc):  # type: ignore[misc]  # pyghmi has no types
    """One BMC and its host's power."""

    def __init__(self, farm: BmcFarm, on_off: Callable[[bool], None], on: bool, machine: uuid.UUID) -> None:
        super().__init__({farm.username: farm.password}, port=0, address=farm.address, bmcuuid=machine)
        self.port = self.serversocket.getsockname()[1]
        self.machine = machine
        self.on = on
        self.fault: Fault | None = None
        self.delay_s = 0.0
        self.looks = 0
        self.commands: deque[str] = deque(maxlen=COMMANDS_KEPT)
        self._farm = farm
        self._on_off = on_off

    def sessionless_data(self, data: Any, sockaddr: Any) -> None:
        if self.fault is Fault.DEAD:
            return
        if len(data) >= 22 and data[4] == 6 and data[5] == _OPEN_SESSION_REQUEST:
            _BmcSession(self.authdata, self.kg, sockaddr, self.serversocket, data[16:], self.uuid, bmc=self)
            return
        super().sessionless_data(data, sockaddr)

    def get_system_guid(self) -> uuid.UUID:
        return uuid.UUID(int=self.machine.int ^ 1) if self.fault is Fault.WRONG_GUID else self.machine

    def get_power_state(self) -> str:
        if self.fault is Fault.UNREADABLE:
            raise NotImplementedError  # which is sent as an error code
        if self.on:
            return "on"
        self.looks += 1
        if self.fault is Fault.COMES_BACK:
            self._switch(True)
        return "on" if self.fault is Fault.FLAPS and self.looks % 2 == 0 else "off"

    def power_off(self) -> int:
        self.commands.append("off")
        if self.fault is Fault.REFUSE_OFF:
            return 0xD4  # insufficient privilege
        if self.fault is Fault.DIES:
            self.fault = Fault.DEAD
            return 0
        if self.fault is Fault.SLOW_OFF:
            self._farm.later(self.delay_s, lambda: self._switch(False))
        elif self.fault is not Fault.IGNORE_OFF:
            self._switch(False)
        return 0

    def power_on(self) -> int:
        self.commands.append("on")
        self._switch(True)
        return 0

    def _switch(self, on: bool) -> None:
        if self.on is not on:
            self._on_off(on)
            self.on = on


class _BmcSession(serversession.ServerSession):  # type: ignore[misc]  # pyghmi has no types
    """A session that can be deaf. pyghmi's own would answer any cipher suite with SHA-1's, which its client does not
    survive: this one refuses what is not SHA-1, as older BMCs do, and the client asks again."""

    def create_open_session_response(self, request: Any) -> Any:
        if len(request) > 12 and request[12] not in _SHA1_ONLY:
            self.clientsessionid = request[4:8]
            self.managedsessionid = os.urandom(4)
            return bytearray([request[0], _NO_CIPHER, 0, 0]) + self.clientsessionid
        return super().create_open_session_response(request)

    def process_pktqueue(self) -> None:
        if self.bmc.fault is Fault.DEAD:
            self.pktqueue.clear()
            return
        with contextlib.suppress(AttributeError, KeyError):  # of a packet that belongs to no stage of the login
            super().process_pktqueue()

    def handle_client_request(self, request: Any) -> None:
        if self.bmc.fault is Fault.HANG and (request["netfn"], request["command"]) != _SET_PRIVILEGE:
            return
        super().handle_client_request(request)
