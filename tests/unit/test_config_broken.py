"""Broken configurations: each names the field, what is wrong with it, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from ha_agent import config
from ha_agent.config import drivers
from ha_agent.errors import ConfigError
from ha_agent.fencing import fence_agent

GOOD = """
version: 1
cloud: mycloud
fencing:
  devices:
    bmc: {driver: ipmi, address: "{host}.bmc", username: admin, password_file: pw}
  levels: [[bmc]]
hosts:
  h1: {address: 192.0.2.1}
  h2: {address: 192.0.2.2}
  h3: {address: 192.0.2.3}
"""
BMC = "bmc: {driver: ipmi, address: '{host}.bmc', username: admin, password_file: pw"


def problems(text: str, *, check_files: bool = False) -> list[tuple[str, str, str]]:
    with pytest.raises(ConfigError) as caught:
        config.loads(text, "/nowhere/controller.yaml", check_files=check_files, environ={})
    assert caught.value.exit_code == 2
    return caught.value.problems


def test_the_good_one_is_good() -> None:
    assert config.loads(GOOD, "/nowhere/controller.yaml", check_files=False, environ={}).warnings == ()


def added(section: str) -> str:
    return GOOD + section


def replaced(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


# text, the field, words of the problem, words of the fix
TABLE: list[tuple[str, str, str, str, str]] = [
    ("no version", replaced("version: 1", ""), "version", "is missing", "add it"),
    ("a later version", replaced("version: 1", "version: 2"), "version", "not one of the choices", "use 1"),
    ("no cloud", replaced("cloud: mycloud", ""), "cloud", "is missing", "add it"),
    ("no hosts", GOOD.split("hosts:", maxsplit=1)[0], "hosts", "is missing", "add it"),
    ("empty hosts", GOOD.split("hosts:", maxsplit=1)[0] + "hosts: {}", "hosts", "is empty", "at least one"),
    ("a misspelt section", added("detecton: {}"), "detecton", "is unknown", "did you mean detection?"),
    (
        "a misspelt field",
        added("detection: {down_afer_s: 10}"),
        "detection.down_afer_s",
        "is unknown",
        "did you mean down_after_s?",
    ),
    ("an alien field", added("detection: {zzz: 10}"), "detection.zzz", "is unknown", "known here: "),
    (
        "a misspelt field of a host",
        replaced("{address: 192.0.2.3}", "{address: 192.0.2.3, domian: a}"),
        "hosts.h3.domian",
        "is unknown",
        "did you mean domain?",
    ),
    (
        "a text for a number",
        added("detection: {down_after_s: '10'}"),
        "detection.down_after_s",
        "is not a number",
        "without quotes",
    ),
    (
        "a unit on a number",
        added("detection: {down_after_s: 10s}"),
        "detection.down_after_s",
        "is not a number",
        "seconds have no unit",
    ),
    ("not a number", added("detection: {down_after_s: .nan}"), "detection.down_after_s", "is not a finite", "number"),
    ("infinity", added("detection: {hung_patience_s: .inf}"), "detection.hung_patience_s", "is", "number"),
    ("below the range", added("detection: {pause_s: 0}"), "detection.pause_s", "is too small", "at least 0.05"),
    ("above the range", added("http: {listen: x}\nstore: {lease_s: 9999}"), "store.lease_s", "too large", "3600"),
    ("a number for a text", replaced("cloud: mycloud", "cloud: 7"), "cloud", "is not a text", "quotes"),
    ("a text for a boolean", added("recovery: {fence: 'no'}"), "recovery.fence", "neither true nor false", "true"),
    ("a boolean for a text", replaced("driver: ipmi", "driver: yes"), "fencing.devices.bmc.driver", "choices", "ipmi"),
    ("an unknown mode", added("recovery: {mode: automatic}"), "recovery.mode", "not one of the choices", "'auto'"),
    ("an unknown preset", added("detection: {preset: lax}"), "detection.preset", "not one of the choices", "'wan'"),
    ("a list for a mapping", added("recovery: [auto]"), "recovery", "is not a mapping", "{key: value}"),
    ("a port out of range", replaced("192.0.2.3}", "192.0.2.3, port: 70000}"), "hosts.h3.port", "too large", "65535"),
    (
        "a key twice",
        added("cloud: other"),
        "cloud",
        "is there twice, first on line 3",
        "silently replace",
    ),
    ("a host twice", added("  h2: {address: 192.0.2.9}"), "hosts.h2", "is there twice", "remove one"),
    (
        "one remote address",
        replaced("192.0.2.3", "192.0.2.1"),
        "hosts.h3.address",
        "192.0.2.1:7420 is already the remote of h1",
        "own address or port",
    ),
    (
        "one address in two spellings",
        GOOD.replace("192.0.2.1}", "'2001:db8::1'}").replace("192.0.2.2}", "'2001:DB8:0::1'}"),
        "hosts.h2.address",
        "already the remote of h1",
        "own address",
    ),
    (
        "one address on a plane of another host",
        replaced("192.0.2.3}", "192.0.2.3, planes: {storage: 192.0.2.1}}"),
        "hosts.h3.planes.storage",
        "192.0.2.1:7420 is already the remote of h1",
        "own address or port",
    ),
    (
        "an address that is a plane of another host",
        GOOD.replace("192.0.2.1}", "192.0.2.1, planes: {storage: 192.0.2.3}}"),
        "hosts.h3.address",
        "192.0.2.3:7420 is already the remote of h1",
        "own address or port",
    ),
    (
        "one address on two planes",
        replaced("192.0.2.3}", "192.0.2.3, planes: {storage: 192.0.2.3}}"),
        "hosts.h3.planes.storage",
        "192.0.2.3:7420 is already this host's management plane",
        "another network",
    ),
    (
        "the management plane twice",
        replaced("192.0.2.3}", "192.0.2.3, planes: {management: 192.0.2.9}}"),
        "hosts.h3.planes.management",
        "is the plane of `address`",
        "`address` only",
    ),
    (
        "a plane with a blank in its name",
        replaced("192.0.2.3}", "192.0.2.3, planes: {'the storage': 192.0.2.9}}"),
        "hosts.h3.planes.the storage",
        "as the name of a plane",
        "storage, tenant",
    ),
    (
        "a port in the address of a plane",
        replaced("192.0.2.3}", "192.0.2.3, planes: {storage: '192.0.2.9:7420'}}"),
        "hosts.h3.planes.storage",
        "is not a host name or an IP address",
        "its own",
    ),
    (
        "too many planes",
        replaced("192.0.2.3}", "192.0.2.3, planes: {a: 192.0.2.6, b: 192.0.2.7, c: 192.0.2.8, d: 192.0.2.9}}"),
        "hosts.h3.planes",
        "are 4: a host has at most 3 planes beside that of management",
        "independently",
    ),
    ("a port in an address", replaced("192.0.2.3", "192.0.2.3:7420"), "hosts.h3.address", "is not", "its own"),
    ("a slash in a name", replaced("h3:", "a/b:"), "hosts.a/b", "slash", "openstack compute service list"),
    ("a blank in a name", replaced("h3:", '"a b":'), "hosts.a b", "blank", "openstack compute service list"),
    ("a number for a name", replaced("h3:", "3:"), "hosts.3", "as a name is not a text", "quotes"),
    (
        "an alias that is a host",
        replaced("192.0.2.3}", "192.0.2.3, aliases: [h1]}"),
        "hosts.h3.aliases[0]",
        "h1 already means h1",
        "one name",
    ),
    (
        "one device for all hosts",
        replaced("{host}.bmc", "192.0.2.100"),
        "fencing.devices.bmc",
        "of h2 is 192.0.2.100:623, which is already bmc of h1",
        "by {host} or a var",
    ),
    (
        "one device under two names",
        replaced("  levels: [[bmc]]", f"    other_{BMC}}}\n  levels: [[bmc, other_bmc]]"),
        "fencing.devices.other_bmc",
        "is h1.bmc:623, which is already bmc of h1",
        "own address",
    ),
    (
        "an unknown var",
        replaced("{host}.bmc", "{rack}-{host}"),
        "fencing.devices.bmc.address",
        "needs the var 'rack' (for h1, h2, h3)",
        "hosts.NAME.vars",
    ),
    ("an attribute", replaced("{host}.bmc", "{host.x}"), "fencing.devices.bmc.address", "not a name in", "vars"),
    ("an open brace", replaced("{host}.bmc", "{host"), "fencing.devices.bmc.address", "is no template", "vars"),
    (
        "a user too long for IPMI",
        replaced("username: admin", "username: seventeen-letters"),
        "fencing.devices.bmc.username",
        "longer than 16 bytes",
        "shorter",
    ),
    ("no username", replaced("username: admin, ", ""), "fencing.devices.bmc.username", "is missing", "BMC user"),
    ("no password", replaced(", password_file: pw", ""), "fencing.devices.bmc.password_file", "is missing", "file"),
    (
        "a driver of another version",
        replaced("driver: ipmi", "driver: ironic"),
        "fencing.devices.bmc.driver",
        "ironic is not built into this version",
        "ipmi, redfish, fence_agent, manual",
    ),
    (
        "an IPMI cipher suite that we do not speak",
        replaced("password_file: pw", "password_file: pw, options: {cipher: 12}"),
        "fencing.devices.bmc.options.cipher",
        "is not one of the choices",
        "use 17 or 3",
    ),
    (
        "an outlet of a BMC that has none",
        replaced("password_file: pw", "password_file: pw, plug: 1"),
        "fencing.devices.bmc.plug",
        "means nothing to the driver ipmi",
        "remove it",
    ),
    (
        "a redfish option that is none",
        replaced("driver: ipmi", "driver: redfish").replace("file: pw", "file: pw, options: {insecur: true}"),
        "fencing.devices.bmc.options.insecur",
        "is unknown to the driver redfish",
        "did you mean insecure?",
    ),
    (
        "a CA that is not looked at",
        replaced("driver: ipmi", "driver: redfish").replace(
            "file: pw", "file: pw, options: {insecure: true, ca_file: ca.pem}"
        ),
        "fencing.devices.bmc.options.insecure",
        "ca_file would not be looked at",
        "remove one",
    ),
    (
        "another login than there is",
        replaced("driver: ipmi", "driver: redfish").replace("file: pw", "file: pw, options: {auth: digest}"),
        "fencing.devices.bmc.options.auth",
        "is not one of the choices",
        "use session or basic",
    ),
    (
        "an agent for a BMC driver",
        replaced("driver: ipmi", "driver: redfish, agent: fence_redfish"),
        "fencing.devices.bmc.agent",
        "means nothing to the driver redfish",
        "remove it",
    ),
    (
        "no agent",
        replaced("driver: ipmi", "driver: fence_agent"),
        "fencing.devices.bmc.agent",
        "is missing",
        "fence_apc",
    ),
    (
        "a program in the working directory",
        replaced("driver: ipmi", "driver: fence_agent, agent: ./fence_apc"),
        "fencing.devices.bmc.agent",
        "is neither a name nor an absolute path",
        "/usr/sbin/fence_apc",
    ),
    (
        "a path that climbs",
        replaced("driver: ipmi", "driver: fence_agent, agent: /usr/sbin/../../tmp/fence_apc"),
        "fencing.devices.bmc.agent",
        "is neither a name nor an absolute path",
        "/usr/sbin/fence_apc",
    ),
    (
        "any other program",
        replaced("driver: ipmi", "driver: fence_agent, agent: reboot"),
        "fencing.devices.bmc.agent",
        "is not the name of a fence agent",
        "begins with fence_",
    ),
    (
        "an option that we say ourselves",
        replaced("driver: ipmi", "driver: fence_agent, agent: fence_apc").replace("pw}", "pw, options: {port: 3}}"),
        "fencing.devices.bmc.options.port",
        "is said by the driver itself",
        "use the device's field plug",
    ),
    (
        "an action as an option",
        replaced("driver: ipmi", "driver: fence_agent, agent: fence_apc").replace("pw}", "pw, options: {action: on}}"),
        "fencing.devices.bmc.options.action",
        "is said by the driver itself",
        "remove it",
    ),
    (
        "a secret in the file",
        replaced("driver: ipmi", "driver: fence_agent, agent: fence_apc").replace(
            "pw}", "pw, options: {snmp_priv_passwd: x}}"
        ),
        "fencing.devices.bmc.options.snmp_priv_passwd",
        "may be a secret",
        "password_file",
    ),
    (
        "a talkative agent",
        replaced("driver: ipmi", "driver: fence_agent, agent: fence_apc").replace(
            "pw}", "pw, options: {debug_file: /x}}"
        ),
        "fencing.devices.bmc.options.debug_file",
        "passwords too",
        "remove it",
    ),
    (
        "an option that adds a line",
        replaced("driver: ipmi", "driver: fence_agent, agent: fence_apc").replace(
            "pw}", 'pw, options: {method: "onoff\\naction=off"}}'
        ),
        "fencing.devices.bmc.options.method",
        "is not one line of plain text",
        "remove line ends",
    ),
    (
        "an option in no agent's language",
        replaced("driver: ipmi", "driver: fence_agent, agent: fence_apc").replace("pw}", "pw, options: {'a=b': 1}}"),
        "fencing.devices.bmc.options.a=b",
        "is not the name of an option",
        "lower-case",
    ),
    (
        "a list as an option",
        replaced("driver: ipmi", "driver: fence_agent, agent: fence_apc").replace("pw}", "pw, options: {method: [a]}}"),
        "fencing.devices.bmc.options.method",
        "is not a text",
        "quotes",
    ),
    (
        "one outlet for all hosts",
        replaced("driver: ipmi", "driver: fence_agent, agent: fence_apc, plug: 4").replace("{host}.bmc", "192.0.2.100"),
        "fencing.devices.bmc",
        "of h2 is 192.0.2.100, plug 4, which is already bmc of h1",
        "by {host} or a var",
    ),
    (
        "one outlet of an agent without an address",
        replaced("driver: ipmi", "driver: fence_agent, agent: fence_apc, plug: 4").replace(
            'address: "{host}.bmc", ', ""
        ),
        "fencing.devices.bmc",
        "of h2 is fence_apc, plug 4, which is already bmc of h1",
        "by {host} or a var",
    ),
    (
        "an unknown option",
        replaced("password_file: pw", "password_file: pw, options: {privilage: operator}"),
        "fencing.devices.bmc.options.privilage",
        "is unknown to the driver ipmi",
        "did you mean privilege?",
    ),
    (
        "an unknown device",
        replaced("[[bmc]]", "[[bcm]]"),
        "fencing.levels[0]",
        "names the device bcm",
        "did you mean bmc?",
    ),
    ("no level", replaced("levels: [[bmc]]", "levels: []"), "fencing.levels", "could not be fenced", "[[bmc]]"),
    ("an empty level", replaced("[[bmc]]", "[[bmc], []]"), "fencing.levels[1]", "has no device", "at least one"),
    ("a device twice", replaced("[[bmc]]", "[[bmc, bmc]]"), "fencing.levels[0]", "names bmc twice", "once"),
    (
        "a person in a level",
        replaced("  levels: [[bmc]]", "    hand: {driver: manual}\n  levels: [[bmc, hand]]"),
        "fencing.levels[0]",
        "mixes a device and a person",
        "level of its own",
    ),
    (
        "trust in a level that is not",
        replaced("[[bmc]]", "[[bmc]]\n  trusted_levels: [2]"),
        "fencing.trusted_levels[0]",
        "there is no level 2",
        "from 1 to 1",
    ),
    (
        "suspect below two heartbeats",
        added("detection: {heartbeat_interval_s: 3}"),
        "detection.suspect_after_s",
        "below two heartbeats of 3 s",
        "at least 6",
    ),
    (
        "down before suspect",
        added("detection: {down_after_s: 4}"),
        "detection.down_after_s",
        "not above suspect_after_s (4)",
        "more than",
    ),
    (
        "no time for witnesses",
        added("detection: {down_after_s: 5}"),
        "detection.probe_timeout_s",
        "does not fit between",
        "at most 1, or raise down_after_s",
    ),
    (
        "overlapping probes",
        added("detection: {probe_interval_s: 1}"),
        "detection.probe_timeout_s",
        "would overlap",
        "at most 1",
    ),
    (
        "verdicts that are always too old",
        added("detection: {verdict_max_age_s: 3}"),
        "detection.verdict_max_age_s",
        "shorter than one round of probes (3.5 s)",
        "at least 3.5",
    ),
    (
        "witnesses that are never eligible",
        added("detection: {witnesses: {fresh_s: 10}}"),
        "detection.witnesses.fresh_s",
        "no witness would be eligible",
        "more than 10",
    ),
    (
        "more witnesses than are asked",
        added("detection: {witnesses: {min: 3, probes: 2}}"),
        "detection.witnesses.min",
        "above witnesses.probes (2)",
        "at most 2",
    ),
    (
        "impatience with a hung host",
        added("detection: {hung_patience_s: 15}"),
        "detection.hung_patience_s",
        "below two report intervals",
        "at least 20",
    ),
    ("a lease too short", added("store: {lease_s: 4}"), "store.lease_s", "two detection.pause_s", "more than 4"),
    (
        "evidence that ages at once",
        replaced("[[bmc]]", "[[bmc]]\n  evidence_max_age_s: 8"),
        "fencing.evidence_max_age_s",
        "below two looks at a device",
        "at least 10",
    ),
    (
        "an attempt too short",
        replaced("[[bmc]]", "[[bmc]]\n  attempt_s: 6"),
        "fencing.attempt_s",
        "no room to read off twice",
        "at least 10",
    ),
    (
        "retries turned around",
        added("recovery: {retry: {min_s: 90}}"),
        "recovery.retry.min_s",
        "above retry.max_s (60)",
        "at most 60",
    ),
    (
        "a window turned around",
        added("recovery: {concurrency: {min: 40}}"),
        "recovery.concurrency.min",
        "above concurrency.max (32)",
        "at most 32",
    ),
    (
        "given up before tried twice",
        added("recovery: {settle_after_s: 60}"),
        "recovery.settle_after_s",
        "given up before they were tried twice",
        "at least 120",
    ),
    (
        "recovery without a fence",
        added("recovery: {fence: false}"),
        "recovery.fence",
        "no server is moved without evidence",
        "mode: notify",
    ),
    (
        "nothing selected",
        added("recovery: {select: {server_tag: null}}"),
        "recovery.select.server_tag",
        "no server would ever be recovered",
        "all: true",
    ),
    (
        "an API for everyone",
        added("http: {listen: '0.0.0.0:7421'}"),
        "http.listen",
        "reachable from other machines",
        "tokens_file",
    ),
    ("no address:port", added("http: {listen: '7421'}"), "http.listen", "is not address:port", "127.0.0.1:7421"),
    ("another store", added("store: {url: 'etcd://x'}"), "store.url", "is not a store of this version", "sqlite"),
    (
        "another bus",
        added("notifications: {bus: {url: 'http://x'}}"),
        "notifications.bus.url",
        "is not the URL",
        "amqp",
    ),
    (
        "a quorum that is not durable",
        added("notifications: {bus: {quorum: true, durable: false}}"),
        "notifications.bus.quorum",
        "always durable",
        "durable: true",
    ),
    (
        "a webhook that leads nowhere",
        added("notifications: {webhooks: [{url: 'ftp://x'}]}"),
        "notifications.webhooks[0].url",
        "is not a URL",
        "https://host/path",
    ),
    (
        "a webhook without a URL",
        added("notifications: {webhooks: [{name: pager}]}"),
        "notifications.webhooks[0].url",
        "is needed, or url_file, not both",
        "url_file",
    ),
    (
        "two webhooks of one name",
        added("notifications: {webhooks: [{url: 'https://x/1'}, {url: 'https://x/2'}]}"),
        "notifications.webhooks[1].name",
        "x is also webhook 0",
        "a name of its own",
    ),
    (
        "a webhook with a name that is none",
        added("notifications: {webhooks: [{name: 'my pager', url: 'https://x/1'}]}"),
        "notifications.webhooks[0].name",
        "'my pager' is no name",
        "letters, digits",
    ),
    (
        "a webhook that may wait for ever",
        added("notifications: {webhooks: [{url: 'https://x/1', timeout_s: 100000}]}"),
        "notifications.webhooks[0].timeout_s",
        "is too large",
        "at most 300",
    ),
    (
        "a broken override",
        added("overrides:\n- match: {hosts: h1}\n  recovery: {mod: notify}"),
        "overrides[0].recovery.mod",
        "is unknown",
        "did you mean mode?",
    ),
    (
        "an override that breaks a rule",
        added("overrides:\n- match: {hosts: h1}\n  detection: {down_after_s: 3}"),
        "overrides[0].detection.down_after_s",
        "not above suspect_after_s (4)",
        "more than",
    ),
    (
        "an override without a match",
        added("overrides:\n- recovery: {mode: notify}"),
        "overrides[0].match",
        "is missing",
        "add it",
    ),
    (
        "a storm limit for some hosts",
        added("overrides:\n- match: {hosts: h1}\n  fencing: {storm: {max_hosts: 1}}"),
        "overrides[0].fencing.storm",
        "cannot be overridden",
        "set fencing.storm",
    ),
]


@pytest.mark.parametrize(("text", "field", "problem", "fix"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_a_broken_file_says_where_what_and_how(text: str, field: str, problem: str, fix: str) -> None:
    found = problems(text)
    matching = [each for each in found if each[0].partition(" (line")[0] == field and problem in each[1]]
    assert matching, found
    assert fix in matching[0][2], matching


CASCADES = {"above the range", "a host twice"}  # broken in two ways on purpose


@pytest.mark.parametrize("row", [row for row in TABLE if row[0] not in CASCADES], ids=lambda row: row[0])
def test_one_mistake_is_one_problem(row: tuple[str, str, str, str, str]) -> None:
    assert len(problems(row[1])) == 1


def test_all_at_once() -> None:
    text = """
version: 1
clod: mycloud
detection: {down_after_s: 3, heartbeat_interval_s: fast}
fencing:
  devices: {bmc: {driver: ipmi, address: same, username: admin, password_file: pw}}
  levels: [[bmc], [pdu]]
recovery: {mode: maybe, settle_after_s: 5}
http: {listen: nowhere}
hosts:
  h1: {address: 192.0.2.1}
  h1: {address: 192.0.2.1}
  h2: {adress: 192.0.2.2}
  h3: {address: 192.0.2.1}
overrides:
- match: {hosts: h3}
  recovery: {retry: {min_s: 70}}
"""
    fields = {each[0].partition(" (line")[0] for each in problems(text)}
    assert fields == {
        "clod",
        "cloud",
        "detection.down_after_s",
        "detection.heartbeat_interval_s",
        "fencing.devices.bmc",
        "fencing.levels[1]",
        "recovery.mode",
        "recovery.settle_after_s",
        "http.listen",
        "hosts.h1",
        "hosts.h2.adress",
        "hosts.h2.address",
        "hosts.h3.address",
        "overrides[0].recovery.retry.min_s",
    }


def test_problems_name_the_line() -> None:
    assert problems(replaced("version: 1", "version: 2"))[0][0] == "version (line 2)"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("- a", "is not a mapping"),
        ("a: [", "is not valid YAML"),
        ("a: !!python/object:os.system {}", "is not valid YAML"),
        ("a: \x00", "is not valid YAML"),
        ("[" * 100_000, "nested too deeply"),
        ("- " * 100_000 + "a", "nested too deeply"),
        ("a: &a [*a]", "nested too deeply"),
        ("a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(f"{c}: &{c} [{','.join(['*' + p] * 9)}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)), "multiplies by aliases"),
        ("#" * (9 * 1024 * 1024), "larger than 8 MiB"),
    ],
    ids=["empty", "list", "unclosed", "tag", "nul", "deep", "deep-blocks", "self", "laughs", "huge"],
)  # fmt: skip
def test_what_is_no_configuration_at_all(text: str, problem: str) -> None:
    assert problem in problems(text)[0][1]


def test_no_problem_shows_a_value_that_may_be_secret() -> None:
    with pytest.raises(ConfigError) as caught:
        config.loads(
            added(
                "notifications: {bus: {url: 'x://user:hunter2@host', quorum: hunter2}}\nhttp: {tokens_file: [hunter2]}"
            ),
            "/nowhere/controller.yaml",
            check_files=False,
        )
    assert "hunter2" not in str(caught.value)


def test_a_ca_is_no_secret_but_must_be_there(tmp_path: Path) -> None:
    text = GOOD.replace("driver: ipmi", "driver: redfish").replace(
        "password_file: pw}", "password_file: pw, options: {ca_file: 'ca/{host}.pem'}}"
    )
    (tmp_path / "pw").write_text("x")
    (tmp_path / "pw").chmod(0o400)
    (tmp_path / "ca").mkdir()
    for host in ("h1", "h2"):
        (tmp_path / "ca" / f"{host}.pem").write_text("x")
        (tmp_path / "ca" / f"{host}.pem").chmod(0o444)
    with pytest.raises(ConfigError) as caught:
        config.loads(text, tmp_path / "controller.yaml", environ={})
    [(field, problem, fix)] = caught.value.problems
    assert field == "fencing.devices.bmc.options.ca_file (line 6)"
    assert "ca/h3.pem cannot be read: No such file" in problem
    assert fix == "correct the name, or the file's rights"


def test_the_bmc_s_key_is_a_secret(tmp_path: Path) -> None:
    text = GOOD.replace("password_file: pw}", "password_file: pw, options: {kg_file: kg}}")
    for name, mode in (("pw", 0o400), ("kg", 0o444)):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(mode)
    with pytest.raises(ConfigError) as caught:
        config.loads(text, tmp_path / "controller.yaml", environ={})
    [(field, problem, _)] = caught.value.problems
    assert field == "fencing.devices.bmc.options.kg_file (line 6)"
    assert "can be read by everyone" in problem


def test_an_agent_that_is_not_installed(tmp_path: Path) -> None:
    text = GOOD.replace("driver: ipmi", "driver: fence_agent, agent: fence_of_nobody")
    (tmp_path / "pw").write_text("x")
    (tmp_path / "pw").chmod(0o400)
    with pytest.raises(ConfigError) as caught:
        config.loads(text, tmp_path / "controller.yaml", environ={})
    [(field, problem, fix)] = caught.value.problems
    assert field == "fencing.devices.bmc.agent (line 6)"
    assert "is not installed (looked in /usr/local/sbin, /usr/sbin, /sbin)" in problem
    assert "fence-agents" in fix


def test_an_unverified_certificate_is_warned_of() -> None:
    text = GOOD.replace("driver: ipmi", "driver: redfish").replace("file: pw", "file: pw, options: {insecure: true}")
    loaded = config.loads(text, "/nowhere/controller.yaml", check_files=False, environ={})
    [warning] = loaded.warnings
    assert "fencing.devices.bmc.options.insecure" in warning
    assert "not verified" in warning
    assert loaded.levels["h1"][0][0].options == {"insecure": "true"}
    assert loaded.levels["h1"][0][0].port == 443


def test_the_same_directories_are_looked_in_when_an_agent_is_run() -> None:
    assert drivers.AGENT_DIRECTORIES == fence_agent.DIRECTORIES


def test_outlets_and_varying_options_tell_hosts_apart() -> None:
    agent = GOOD.replace("driver: ipmi", "driver: fence_agent, agent: fence_vmware_rest").replace(
        "{host}.bmc", "192.0.2.9"
    )
    plugs = agent.replace("file: pw", "file: pw, plug: '{host}'")
    options = agent.replace("file: pw", "file: pw, options: {uuid: 'vm-{host}', power_wait: 0.5, ssl: true}")
    levels = config.loads(plugs, "/nowhere/c.yaml", check_files=False, environ={}).levels
    assert [levels[host][0][0].plug for host in levels] == ["h1", "h2", "h3"]
    levels = config.loads(options, "/nowhere/c.yaml", check_files=False, environ={}).levels
    assert levels["h2"][0][0].options == {"uuid": "vm-h2", "power_wait": "0.5", "ssl": "true"}


def test_files_with_secrets(tmp_path: Path) -> None:
    text = GOOD.replace("password_file: pw", "password_file: 'pw/{host}'")
    (tmp_path / "pw").mkdir()
    (tmp_path / "pw" / "h1").write_text("x")
    (tmp_path / "pw" / "h1").chmod(0o400)
    (tmp_path / "pw" / "h2").write_text("x")
    (tmp_path / "pw" / "h2").chmod(0o644)
    with pytest.raises(ConfigError) as caught:
        config.loads(text, tmp_path / "controller.yaml", environ={})
    texts = [problem for _, problem, _ in caught.value.problems]
    assert len(texts) == 2
    assert any("pw/h2 (for h2) can be read by everyone" in each for each in texts)
    assert any("pw/h3 (for h3) cannot be read: No such file" in each for each in texts)


def test_a_thousand_hosts_with_one_fault_are_one_line() -> None:
    hosts = "".join(f"  n{i}: {{address: 198.18.{i // 250}.{i % 250 + 1}}}\n" for i in range(1000))
    text = GOOD.replace("{host}.bmc", "{rack}").split("hosts:")[0] + "hosts:\n" + hosts
    found = problems(text)
    assert len(found) == 1
    assert "(for n0, n1, n2 and 997 more)" in found[0][1]
