"""Redfish by sushy, inside a worker process. What counts is the System's PowerState; the answer to a Reset is only a receipt.

sushy makes the session and finds what differs from vendor to vendor; what safety rests on is read from the plain JSON
here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote

import sushy
from sushy import auth, connector, exceptions
from sushy.resources.system.system import System

from ha_agent.errors import DriverError, HaAgentError, Unanswered
from ha_agent.fencing.redfish_http import ANSWER_S, CONNECT_S, Transport
from ha_agent.fencing.secret import scrubbed, secret
from ha_agent.fencing.topology import Device
from ha_agent.fencing.window import Window
from ha_agent.model import Power

T = TypeVar("T")
SAID_MAX = 200
# What vendors put where no serial number is.
NO_SERIAL = frozenset({"", "0", "none", "null", "n/a", "na", "unknown", "not specified", "default string", "empty"})


def power_of(document: Any, where: str) -> Power:
    """The power state of a ComputerSystem document. Raises DriverError for anything but exactly on or off: a system that is
    powering off is not off."""
    said = document.get("PowerState") if isinstance(document, dict) else None
    if said == "Off":
        return Power.OFF
    if said == "On":
        return Power.ON
    raise DriverError(f"{where} reads neither on nor off: its PowerState is {repr(said)[:40]}")


def machine_of(document: Any) -> str:
    """Which machine a ComputerSystem document says it is: its UUID, else `serial:` and its serial number, '' where it has
    neither."""
    if not isinstance(document, dict):
        return ""
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        machine = uuid.UUID(document.get("UUID"))
        if machine.int not in (0, 2**128 - 1):
            return str(machine)
    serial = document.get("SerialNumber")
    serial = serial.strip() if isinstance(serial, str) else ""
    return "" if serial.lower() in NO_SERIAL or len(serial) > 128 else f"serial:{serial}"


class RedfishDevice:
    """A PowerDevice. `device.plug`: the Id or path of the System, empty for the only one. Options: `ca_file`, `insecure`,
    `auth` (session or basic). `transport`: how requests travel."""

    def __init__(self, device: Device, password: bytes, transport: Transport, verify: bool | str = True) -> None:
        try:
            self._plain = password.decode()
        except UnicodeDecodeError:
            raise DriverError(f"the password file {device.password_file} holds no UTF-8 text: correct it") from None
        self._device = device
        self._password = password
        self._transport = transport
        self._where = device.where
        self._verify = verify
        self._auth: auth.AuthBase | None = None
        self._system: System | None = None

    @classmethod
    def of(cls, device: Device, window: Window) -> RedfishDevice:
        """Raises DriverError where a file that it needs cannot be read."""
        logging.getLogger("sushy").setLevel(logging.CRITICAL)
        transport = Transport(_origin(device), window, device.where)
        return cls(device, secret(device.password_file), transport, _verify(device))

    def read(self) -> Power:
        """The power state, observed now. Raises DriverError, Unanswered."""
        return power_of(self._document(), self._where)

    def machine(self) -> str:
        """Which machine this System is. Raises DriverError, Unanswered."""
        return machine_of(self._document())

    def off(self) -> None:
        """Sends ForceOff, once. Raises DriverError (certainly not done), Unanswered."""
        self._reset(sushy.ResetType.FORCE_OFF)

    def on(self) -> None:
        """Sends On, or ForceOn where it is not offered, once. Raises DriverError (certainly not done), Unanswered."""
        self._reset(sushy.ResetType.ON, sushy.ResetType.FORCE_ON)

    def close(self) -> None:
        """Ends the session at the BMC, which has few. Never raises."""
        session, self._auth, self._system = self._auth, None, None
        if session is not None:
            with contextlib.suppress(Exception):
                session.close()

    def _document(self) -> Any:
        if self._system is None:
            self._system = self._asked(self._open)
        else:
            self._asked(partial(self._system.refresh, force=True))
        return self._system.json

    def _open(self) -> System:
        device = self._device
        link = connector.Connector(
            _origin(device),
            verify=self._verify,
            server_side_retries=0,
            default_request_timeout=ANSWER_S,
            connect_timeout=CONNECT_S,
        )
        session = link._session
        session.trust_env = False  # neither a proxy nor a .netrc decides whom we talk to, and as whom
        session.max_redirects = 3
        session.adapters.clear()
        session.mount("https://", self._transport)
        session.mount("http://", self._transport)  # a link of the BMC; the transport sends it to where it belongs
        kind = auth.BasicAuth if device.options.get("auth") == "basic" else auth.SessionAuth
        self._auth = kind(device.username, self._plain)
        try:
            root = sushy.Sushy(_origin(device), auth=self._auth, connector=link)
        except exceptions.MissingXAuthToken:
            raise DriverError(f"{self._where} gave no session: set the option auth to basic") from None
        except exceptions.ResourceNotFoundError:
            raise DriverError(
                f"{self._where} speaks no Redfish, or has no sessions: try the option auth: basic"
            ) from None
        return root.get_system(self._path(root))

    def _path(self, root: sushy.Sushy) -> str:
        plug = self._device.plug
        if plug.startswith("/"):
            return plug
        collection = root.get_system_collection()
        if plug:
            return f"{collection.path.rstrip('/')}/{quote(plug, safe='')}"
        members = collection.members_identities
        if len(members) != 1:
            names = ", ".join(str(member).rstrip("/").rsplit("/", 1)[-1][:40] for member in members[:8])
            raise DriverError(
                f"{self._where} has {len(members)} systems{f' ({names})' if names else ''}: name one of them as plug"
            )
        return str(members[0])

    def _reset(self, *kinds: sushy.ResetType) -> None:
        if self._system is None:
            self._document()
        system = self._system
        assert system is not None

        def post() -> None:
            offered = system.get_allowed_reset_system_values()
            kind = next((each for each in kinds if each in offered), None)
            if kind is None:
                names = ", ".join(sorted(each.value for each in offered))
                raise DriverError(f"refused: {self._where} does not offer {kinds[0].value}, only {names}")
            target = system._get_reset_action_element().target_uri
            self._transport.change = True
            try:
                system._conn.post(target, data={"ResetType": kind.value})
            finally:
                self._transport.change = False

        self._asked(post)

    def _asked(self, work: Callable[[], T]) -> T:
        """Does it, with sushy's errors turned into ours: a lost answer to a change is unknown, all else did not happen."""
        try:
            return work()
        except HaAgentError:
            raise
        except exceptions.AccessError:
            raise DriverError(
                f"wrong password for user {self._device.username} at {self._where} (or an unknown user): "
                "correct the password file"
            ) from None
        except exceptions.ResourceNotFoundError:
            raise DriverError(f"{self._where} has no such system: correct the plug") from None
        except exceptions.ServerSideError as error:
            raise self._doubtful(f"{self._where} is in trouble: {self._said(error)}") from None
        except exceptions.HTTPError as error:
            raise DriverError(f"refused: {self._where} says: {self._said(error)}") from None
        except exceptions.SushyError as error:
            raise self._doubtful(f"{self._where} answers wrongly: {self._said(error)}") from None
        except Exception as error:  # sushy meets whatever a BMC sends
            raise self._doubtful(f"{self._where} sent what is not Redfish ({type(error).__name__})") from None

    def _doubtful(self, text: str) -> DriverError | Unanswered:
        return Unanswered(text) if self._transport.sent else DriverError(text)

    def _said(self, error: exceptions.SushyError) -> str:
        """A BMC's own words, on one line."""
        words = getattr(error, "detail", None) or str(error)
        return " ".join(scrubbed(str(words), self._password).split())[:SAID_MAX]


def _verify(device: Device) -> bool | str:
    """Whom a certificate must come from: a file or directory, or False for anybody. Raises DriverError."""
    if device.options.get("insecure") == "true":
        return False
    ca_file = device.options.get("ca_file", "")
    if ca_file:
        if not os.access(ca_file, os.R_OK):
            raise DriverError(f"the CA file {ca_file} cannot be read: correct its path or its rights")
        return ca_file
    system = ssl.get_default_verify_paths()  # requests would take a list of its own
    return system.cafile or system.capath or True


def _origin(device: Device) -> str:
    address = f"[{device.address.replace('%', '%25')}]" if ":" in device.address else device.address
    return f"https://{address}:{device.port}"
