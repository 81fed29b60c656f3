"""IPMI 2.0 by pyghmi, inside a worker process: blocking, bounded, each failure with its own sentence.

pyghmi has no time-outs of its own and can try to log in for ever, so that `_Session` bounds it. Credentials are bytes:
with text pyghmi never forgets a half-open session. Only pyghmi's session is used: its command layer adds nothing to
four raw requests and triples the time that a worker needs to start.
"""

from __future__ import annotations

import socket
import uuid
from collections.abc import Callable
from typing import Any

from pyghmi.ipmi.private.constants import rmcp_codes
from pyghmi.ipmi.private.session import Session

from ha_agent.errors import DriverError, Unanswered
from ha_agent.fencing.secret import secret
from ha_agent.fencing.topology import Device
from ha_agent.fencing.window import Window
from ha_agent.model import Power

# (network function, command), IPMI 2.0 appendix G
CHASSIS_STATUS = (0x00, 0x01)
CHASSIS_CONTROL = (0x00, 0x02)
SYSTEM_GUID = (0x06, 0x37)
POWER_OFF, POWER_ON = 0, 1
PRIVILEGES = {"operator": 3, "administrator": 4}
KEY_MAX = 20  # bytes of a password or a Kg, IPMI 2.0 table 22-30

FIRST_RETRY_S = 0.5  # then +1 s each; a BMC that never answers is given up after 4 s (pyghmi by itself: 4.3 to 5.9)
REUSED_MAX_S = 1  # a session that was kept is given up after the first silence: a fresh login tells more than patience
RETRY_MAX_S = 2  # a BMC that stops answering after the login is given up after 3 to 4 s (pyghmi by itself: up to 30)

NO_CIPHER = rmcp_codes[0x11]
CIPHERS = {"": "neither cipher suite 17 nor 3", "17": "no cipher suite 17", "3": "no cipher suite 3"}

# pyghmi's own words, and RMCP's, to ours
_PASSWORD = ("Incorrect password", rmcp_codes[0x0F])
_USER = (rmcp_codes[0x0D], rmcp_codes[0x0C])
_PRIVILEGE = (rmcp_codes[0x09], rmcp_codes[0x0A])
_CIPHER = (*(rmcp_codes[code] for code in (0x04, 0x05, 0x06, 0x10, 0x11)), "MD5 required")


class _Session(Session):  # type: ignore[misc]  # pyghmi has no types
    """A session whose tries are counted, and which sends nothing that `may_send` forbids, no repetition either. `cipher`: the one
    suite to use, 17 or 3; empty: 17, and 3 where the BMC refuses that. pyghmi knows no others."""

    def __new__(cls, may_send: Callable[[], None], cipher: str, **login: Any) -> _Session:
        session: _Session = super().__new__(cls, **login)
        session.may_send, session.cipher = may_send, cipher
        return session

    def __init__(self, may_send: Callable[[], None], cipher: str, **login: Any) -> None:
        super().__init__(**login)

    may_send: Callable[[], None]
    cipher: str
    patience_s = RETRY_MAX_S

    def _open_rmcpplus_request(self) -> None:
        if self.cipher == "3":
            self.attemptedhash = 1
        elif self.cipher == "17" and self.attemptedhash == 1:  # pyghmi would go down to SHA-1 now
            self.onlogon({"error": NO_CIPHER})
            return
        super()._open_rmcpplus_request()

    def _initsession(self) -> None:
        super()._initsession()
        self.timeout = FIRST_RETRY_S

    def _relog(self) -> None:
        if self.logontries <= 0:  # pyghmi would go on below zero
            self.onlogon({"error": "timeout"})
            return
        super()._relog()

    def raw_command(self, *args: Any, **options: Any) -> Any:
        # Logged in: no second login behind our back, and a short patience. pyghmi sets both anew at each login.
        self.logontries, self.maxtimeout = 0, self.patience_s
        return super().raw_command(*args, **options)

    def _xmit_packet(self, *args: Any, **options: Any) -> None:
        self.may_send()
        super()._xmit_packet(*args, **options)

    def _mark_broken(self, error: str | None = None) -> None:
        if error in (None, "timeout"):  # which is how pyghmi says that nothing came
            error = getattr(self, "errormsg", None) or _SILENCE.get(self.sessioncontext, "unreachable: no answer from")
        super()._mark_broken(error)


_SILENCE = {
    "OPENSESSION": "stopped answering during the login:",
    "EXPECTINGRAKP2": "login refused by silence (an unknown user, or a hung BMC):",
    "EXPECTINGRAKP4": "login refused by silence (a wrong password, or a hung BMC):",
    "ESTABLISHED": "session lost: no answer any more from",
}


class IpmiDevice:
    """A PowerDevice. `window` is asked immediately before each packet whether it may still go out. `kg`: the BMC's own key, None
    where it has none. Options: `privilege`, `cipher`, `kg_file`."""

    def __init__(self, device: Device, password: bytes, window: Window, kg: bytes | None = None) -> None:
        self._device = device
        self._password = password
        self._window = window
        self._kg = kg
        self._changing = False
        self._reused = False
        self._session: _Session | None = None
        self._where = device.where

    @classmethod
    def of(cls, device: Device, window: Window) -> IpmiDevice:
        """Raises DriverError where a secret cannot be read, or is none for IPMI."""
        password = secret(device.password_file)
        if len(password) > KEY_MAX:
            raise DriverError(
                f"the password in {device.password_file} is longer than {KEY_MAX} bytes, which IPMI does not know"
            )
        file = device.options.get("kg_file", "")
        return cls(device, password, window, _kg(file) if file else None)

    def again(self, window: Window) -> bool:
        """Whether the session can serve another read, which has this window: it stands, and the password file still holds what it
        was opened with."""
        self._window = window
        if self._session is None or self._device.options.get("kg_file"):
            return False
        try:
            if secret(self._device.password_file) != self._password:
                return False
        except DriverError:
            return False
        self._session.patience_s, self._session.timeout = REUSED_MAX_S, FIRST_RETRY_S
        self._reused = True
        return True

    def read(self) -> Power:
        """The power state, observed now. Raises DriverError, Unanswered."""
        data = self._request(*CHASSIS_STATUS)
        if not data:
            raise DriverError(f"refused: {self._where} sent a chassis status without data")
        return Power.ON if data[0] & 1 else Power.OFF

    def off(self) -> None:
        """Sends off. Raises DriverError (certainly not done), Unanswered."""
        self._change(POWER_OFF)

    def on(self) -> None:
        """Sends on. Raises DriverError (certainly not done), Unanswered."""
        self._change(POWER_ON)

    def machine(self) -> str:
        """Which machine this BMC belongs to: its system GUID, '' where it cannot say. Raises DriverError,
        Unanswered."""
        self._login()
        try:
            data = bytes(self._request(*SYSTEM_GUID))
        except DriverError:  # an answer, but not a GUID: the command is optional
            return ""
        if len(data) != 16 or not any(data) or data == b"\xff" * 16:
            return ""
        return str(uuid.UUID(bytes_le=data))

    def close(self) -> None:
        """Ends the session at the BMC, which has few. Never raises."""
        session, self._session = self._session, None
        if session is not None:
            try:
                session.logout()
            except Exception:  # noqa: S110  # the session is given up either way; the BMC forgets it by itself
                pass

    def _change(self, state: int) -> None:
        self._login()
        self._changing = True
        try:
            self._request(*CHASSIS_CONTROL, state)
        finally:
            self._changing = False

    def _login(self) -> _Session:
        if self._session is not None:
            return self._session
        try:
            privilege = PRIVILEGES[self._device.options.get("privilege", "administrator")]
            self._session = _Session(
                lambda: self._window.check(changes=self._changing),
                self._device.options.get("cipher", ""),
                bmc=self._device.address,
                userid=self._device.username.encode(),
                password=self._password,
                port=self._device.port,
                privlevel=privilege,
                kg=self._kg,
            )
        except socket.gaierror as error:
            raise DriverError(
                f"unreachable: the address {self._device.address} cannot be resolved ({error.strerror})"
            ) from None
        except Unanswered:  # the window forbade it
            raise
        except Exception as error:  # pyghmi raises whatever broke; at login nothing was changed
            raise DriverError(self._login_failed(error)) from None
        return self._session

    def _request(self, netfn: int, command: int, *data: int) -> bytes:
        session = self._login()
        try:
            answer = session.raw_command(netfn=netfn, command=command, data=data)
        except Unanswered:  # the window forbade it
            self._session = None
            raise
        except Exception:  # pyghmi's silence ends in any of several exceptions
            answer = None
        if answer is None or "command" not in answer:
            self._session = None
            if self._reused and not self._changing:  # the BMC forgot it: log in anew, and ask again
                self._reused = False
                return self._request(netfn, command, *data)
            raise Unanswered(f"session lost: no answer any more from {self._where}")
        if answer["code"]:
            reason = answer.get("error") or f"completion code 0x{answer['code']:02x}"
            raise DriverError(f"refused: {self._where} says: {reason}")
        return bytes(answer["data"])

    def _login_failed(self, error: Exception) -> str:
        said = str(error)
        where, user = self._where, self._device.username
        if any(word in said for word in _PASSWORD):
            return f"wrong password for user {user} at {where} (or an unknown user): correct the password file"
        if any(word in said for word in _USER):
            return f"wrong user: {where} knows no user {user}"
        if any(word in said for word in _PRIVILEGE):
            return f"login refused: {user} at {where} lacks the privilege: raise it, or set the option privilege"
        if "Kg" in said:
            return f"wrong Kg for {where}: correct the option kg_file, or remove it where the BMC has none"
        if any(word in said for word in _CIPHER):
            return f"login refused: {where} accepts {CIPHERS[self._device.options.get('cipher', '')]}: enable it there"
        if any(said.startswith(words) for words in (*_SILENCE.values(), "unreachable")):
            return f"{said} {where}"
        if said.strip() in ("", "None"):
            return f"unreachable: no answer from {where}"
        return f"login refused: {where} says: {said[:200]}"


def _kg(file: str) -> bytes:
    """The BMC's key: as it is, or `0x` and hexadecimal digits. Raises DriverError."""
    kg = secret(file, "Kg")
    if kg.startswith(b"0x"):
        try:
            kg = bytes.fromhex(kg[2:].decode())
        except ValueError:
            raise DriverError(f"the Kg file {file} begins with 0x, but is not hexadecimal: correct it") from None
    if len(kg) > KEY_MAX:
        raise DriverError(f"the Kg in {file} is longer than {KEY_MAX} bytes, which IPMI does not know")
    return kg
