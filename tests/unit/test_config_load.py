"""What a good configuration means: defaults, presets, templates, overrides, and where files are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from ha_agent import config
from ha_agent.bounds import bounds, host_bounds, hung, hung_bound
from ha_agent.config.devices import TemplateError, fill
from ha_agent.controller.compose import endpoints
from ha_agent.errors import ConfigError
from ha_agent.model import Mode
from ha_agent.policy import Detection, HostPolicy, Policy
from ha_agent.policy import Fencing as FencingPolicy
from tests.unit.test_config_broken import BMC, GOOD

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(text: str) -> config.Loaded:
    return config.loads(text, "/etc/ha-agent/controller.yaml", check_files=False, environ={})


def test_the_example_is_complete_and_shows_the_defaults() -> None:
    loaded = config.load(EXAMPLES / "controller.yaml", check_files=False)
    assert loaded.warnings == ()
    assert loaded.policy.hosts["compute-1"] == HostPolicy(
        name="compute-1", place="192.0.2.11 port 7420", domain="rack-1"
    )
    assert loaded.policy.hosts["compute-2"].planes == ("storage", "tenant")
    everywhere = "192.0.2.12 port 7420, storage 198.51.100.12, tenant 203.0.113.12"
    assert loaded.policy.hosts["compute-2"].place == everywhere
    assert endpoints(loaded)["compute-2"].planes == {"storage": "198.51.100.12", "tenant": "203.0.113.12"}
    assert loaded.policy.hosts["nfv-1"].recovery.mode is Mode.NOTIFY
    assert loaded.policy.hosts["nfv-1"].recovery.settle_after_s == 3600
    assert loaded.levels["compute-1"][0][0].address == "compute-1.bmc.example.org"


def test_the_example_of_two_levels_is_good() -> None:
    loaded = config.load(EXAMPLES / "fencing.yaml", check_files=False)
    assert loaded.warnings == ()
    assert loaded.policy.hosts["compute-1"].fencing.levels == (("bmc",), ("pdu_a", "pdu_b"))
    [[bmc], pdus] = loaded.levels["compute-3"]
    assert (bmc.driver, bmc.port) == ("redfish", 443)
    assert [(pdu.agent, pdu.address, pdu.plug) for pdu in pdus] == [
        ("fence_apc_snmp", f"pdu-{side}.rack-2.example.org", "1") for side in "ab"
    ]


def test_the_remote_example_shows_the_defaults(tmp_path: Path) -> None:
    bare = tmp_path / "remote.yaml"
    bare.write_text("version: 1\n")
    example = config.load_remote(EXAMPLES / "remote.yaml")
    assert example == config.load_remote(bare).__class__(
        **{**{f: getattr(config.load_remote(bare), f) for f in example.__struct_fields__}, "path": example.path}
    )


def test_broken_remotes_say_so(tmp_path: Path) -> None:
    broken = tmp_path / "remote.yaml"
    broken.write_text("version: 1\nlisten: here\nname: a b\nhealth: {files: x}\n")
    with pytest.raises(ConfigError) as caught:
        config.load_remote(broken)
    assert {each[0].partition(" ")[0] for each in caught.value.problems} == {"listen", "name", "health.files"}


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ("[]", "listen"),
        ("['192.0.2.1:7420', here]", "listen[1]"),
        ("['192.0.2.1:7420', '192.0.2.1:7420']", "listen[1]"),
        ("['192.0.2.1:1', '192.0.2.1:2', '192.0.2.1:3', '192.0.2.1:4', '192.0.2.1:5']", "listen"),
        ("[7420]", "listen"),
    ],
)
def test_a_list_of_addresses_that_is_wrong(tmp_path: Path, given: str, field: str) -> None:
    broken = tmp_path / "remote.yaml"
    broken.write_text(f"version: 1\nlisten: {given}\n")
    with pytest.raises(ConfigError) as caught:
        config.load_remote(broken)
    assert [each[0].partition(" ")[0] for each in caught.value.problems] == [field]


def test_a_remote_listens_on_several_planes(tmp_path: Path) -> None:
    path = tmp_path / "remote.yaml"
    path.write_text("version: 1\nlisten: ['192.0.2.11:7420', '[2001:db8::11]:7421']\n")
    loaded = config.load_remote(path)
    assert (loaded.listen, loaded.port, loaded.listen_also) == ("192.0.2.11", 7420, (("2001:db8::11", 7421),))


@pytest.mark.parametrize(
    ("guests", "field"),
    [
        ("{libvirt: 'qemu:///session'}", "guests.libvirt"),
        ("{libvirt: 'qemu+ssh://other/system'}", "guests.libvirt"),
        ("{libvirt: 'test:///default'}", "guests.libvirt"),
        ("{libvirt: true}", "guests.libvirt"),
        ("{libvirt: 'qemu:///system', file: guests.json}", "guests.file"),
    ],
)
def test_only_the_libvirt_of_this_machine_says_which_servers_are_absent(
    guests: str, field: str, tmp_path: Path
) -> None:
    (tmp_path / "remote.yaml").write_text(f"version: 1\nguests: {guests}\n")
    with pytest.raises(ConfigError) as caught:
        config.load_remote(tmp_path / "remote.yaml")
    assert [each[0].partition(" ")[0] for each in caught.value.problems] == [field]


def test_a_libvirt_to_watch(tmp_path: Path) -> None:
    (tmp_path / "remote.yaml").write_text("version: 1\nguests: {libvirt: 'qemu:///system'}\n")
    assert config.load_remote(tmp_path / "remote.yaml").guests_libvirt == "qemu:///system"


def test_nothing_but_the_necessary() -> None:
    loaded = load(GOOD)
    assert loaded.policy == Policy(
        hosts={f"h{n}": HostPolicy(name=f"h{n}", place=f"192.0.2.{n} port 7420") for n in (1, 2, 3)}
    )
    assert loaded.pki_directory == "/etc/ha-agent/pki"
    assert loaded.levels["h2"][0][0].password_file == "/etc/ha-agent/pw"
    assert loaded.levels["h2"][0][0].port == 623


def test_a_preset_is_overridden_field_by_field() -> None:
    detection = load(GOOD + "detection: {preset: wan, down_after_s: 40, witnesses: {min: 2}}").policy.detection
    assert (detection.suspect_after_s, detection.down_after_s) == (10, 40)
    assert (detection.witnesses_min, detection.witness_fresh_s) == (2, 600)


@pytest.mark.parametrize("preset", ["lan", "wan", "aggressive"])
def test_every_preset_keeps_the_rules(preset: str) -> None:
    assert load(GOOD + f"detection: {{preset: {preset}}}").policy.hosts


@pytest.mark.parametrize("preset", ["lan", "wan", "aggressive"])
def test_a_witness_outlives_a_lost_packet(preset: str) -> None:
    """Linux repeats a lost SYN after a second; a dial has 95 % of the probe's time."""
    detection = load(GOOD + f"detection: {{preset: {preset}}}").policy.detection
    assert 0.95 * detection.probe_timeout_s > 1.2


def test_a_preset_of_an_override_beats_the_common_fields() -> None:
    text = GOOD + "detection: {down_after_s: 20}\noverrides:\n- {match: {hosts: h1}, detection: {preset: wan}}\n"
    hosts = load(text).policy.hosts
    assert (hosts["h1"].detection.down_after_s, hosts["h2"].detection.down_after_s) == (30, 20)


def test_the_first_override_that_matches_holds_and_merges() -> None:
    text = (
        GOOD.replace("192.0.2.2}", "192.0.2.2, domain: edge}")
        + """
recovery: {settle_after_s: 1000, concurrency: {max: 8}}
overrides:
- {match: {domain: "ed*"}, recovery: {concurrency: {min: 4}}}
- {match: {hosts: ["h2", "h3"]}, recovery: {mode: notify}}
- {match: {hosts: "nobody"}, recovery: {mode: notify}}
"""
    )
    loaded = load(text)
    hosts = loaded.policy.hosts
    assert (hosts["h2"].recovery.window_min, hosts["h2"].recovery.window_max) == (4, 8)
    assert [hosts[h].recovery.mode for h in ("h1", "h2", "h3")] == [Mode.AUTO, Mode.AUTO, Mode.NOTIFY]
    assert hosts["h3"].recovery.settle_after_s == 1000
    assert loaded.warnings == (
        "overrides[2] (line 17): holds for no host (none matches, or an earlier override matches first)",
    )


def test_hand_levels_are_left_to_the_person() -> None:
    text = GOOD.replace(
        "  levels: [[bmc]]",
        f"    hand: {{driver: manual}}\n    b_{BMC}, port: 624}}\n  levels: [[hand], [bmc], [b_bmc]]",
    ).replace("[b_bmc]]", "[b_bmc]]\n  trusted_levels: [3]")
    loaded = load(text)
    assert loaded.policy.hosts["h1"].fencing.levels == (("bmc",), ("b_bmc",))
    assert loaded.policy.hosts["h1"].fencing.trusted_levels == (1,)
    assert [[device.port for device in level] for level in loaded.levels["h1"]] == [[623], [624]]


def test_by_hand_only_needs_no_device() -> None:
    text = GOOD.replace(f"{BMC.replace(chr(39), chr(34))}}}", "hand: {driver: manual}").replace("[[bmc]]", "[[hand]]")
    assert load(text).policy.hosts["h1"].fencing.levels == ()


def test_notify_without_fence_needs_no_level() -> None:
    text = GOOD.replace("levels: [[bmc]]", "levels: []") + "recovery: {mode: notify, fence: false}"
    assert any("is in no level" in warning for warning in load(text).warnings)


def test_vars_fill_templates() -> None:
    assert fill("{host}-{{x}}-{plug}", {"host": "h1", "plug": "7"}) == "h1-{x}-7"
    for broken in ("{host!r}", "{host:>9}", "{0}", "{}", "{host[0]}", "{"):
        with pytest.raises(TemplateError):
            fill(broken, {"host": "h1"})


def test_names_like_dates_and_numbered_vars_stay_texts() -> None:
    text = GOOD.replace("h3: {address: 192.0.2.3}", "2024-01-02: {address: 192.0.2.3, vars: {plug: 3}}")
    assert load(text).hosts["2024-01-02"].vars == {"plug": "3"}


def test_credentials_of_systemd_come_first(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "bmc_h1").write_text("x")
    text = GOOD.replace("password_file: pw", "password_file: 'bmc/{host}'")
    loaded = config.loads(
        text, tmp_path / "c.yaml", check_files=False, environ={"CREDENTIALS_DIRECTORY": str(credentials)}
    )
    assert loaded.levels["h1"][0][0].password_file == str(credentials / "bmc_h1")
    assert loaded.levels["h2"][0][0].password_file == str(tmp_path / "bmc/h2")


def test_the_bus_url_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "bus").write_text("amqp://nova:hunter2@rabbit:5672/\n")
    text = GOOD + "notifications: {bus: {url_file: bus}}"
    assert config.loads(text, tmp_path / "c.yaml", check_files=False).bus.url == "amqp://nova:hunter2@rabbit:5672/"
    assert config.without_secrets("amqp://nova:hunter2@rabbit:5672/") == "amqp://nova:***@rabbit:5672/"


def test_hooks_and_webhooks(tmp_path: Path) -> None:
    hooks = tmp_path / "hooks.d"
    hooks.mkdir()
    for name, mode in (("page", 0o755), ("note", 0o644)):
        (hooks / name).write_text("#!/bin/sh\n")
        (hooks / name).chmod(mode)
    for name, text in (("url", "https://u:hunter2@chat.example.org/T0K3N\n"), ("secret", "whsec_aGk=\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o400)
    text = GOOD + (
        "notifications: {hooks: {directory: hooks.d, timeout_s: 5}, webhooks: ["
        "{url_file: url, secret_file: secret, events: ['host.*']}, {name: plain, url: 'http://pager.example.org/'}]}"
    )
    loaded = config.loads(text, tmp_path / "c.yaml", check_files=False)
    assert (loaded.hooks.directory, loaded.hooks.timeout_s) == (str(hooks), 5.0)
    first, second = loaded.webhooks
    assert (first.name, first.url) == ("chat.example.org", "https://u:hunter2@chat.example.org/T0K3N")
    assert (first.secret, first.events) == (b"hi", ("host.*",))
    assert (second.name, second.secret, second.events) == ("plain", b"", ("*",))
    assert [w.partition(": ")[2] for w in loaded.warnings if "webhook" in w] == [
        "is not https: what is posted can be read on its way",
        "plain is not signed: its receiver cannot know who posts",
    ]


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ("hooks: {directory: none}", ("notifications.hooks.directory", "none cannot be read: No such file")),
        ("hooks: {directory: hooks.d}", ("notifications.hooks.directory", "open is not run: everybody may change it")),
        ("webhooks: [{url_file: none}]", ("notifications.webhooks[0].url_file", "none cannot be read")),
        ("webhooks: [{url_file: empty}]", ("notifications.webhooks[0].url_file", "empty is empty")),
        (
            "webhooks: [{url: 'https://x', secret_file: open}]",
            ("notifications.webhooks[0].secret_file", "open can be read by everyone"),
        ),
        (
            "webhooks: [{url: 'https://x', secret_file: odd}]",
            ("notifications.webhooks[0].secret_file", "holds no base64 behind whsec_"),
        ),
        (
            "webhooks: [{url: 'https://x', ca_file: empty}]",
            ("notifications.webhooks[0].ca_file", "cannot be used: it holds no certificate"),
        ),
    ],
)
def test_files_of_hooks_and_webhooks_that_cannot_be_used(
    section: str, problem: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "hooks.d").mkdir()
    for path, text, mode in (
        ("hooks.d/open", "#!/bin/sh\n", 0o757),
        ("open", "x", 0o444),
        ("empty", "", 0o400),
        ("odd", "whsec_?", 0o400),
    ):
        (tmp_path / path).write_text(text)
        (tmp_path / path).chmod(mode)
    with pytest.raises(ConfigError) as refused:
        config.loads(GOOD + f"notifications: {{{section}}}", tmp_path / "c.yaml")
    assert any(field.split()[0] == problem[0] and problem[1] in text for field, text, _ in refused.value.problems)


def test_what_is_true_but_not_wrong() -> None:
    one = GOOD.replace("  h2: {address: 192.0.2.2}\n  h3: {address: 192.0.2.3}\n", "")
    assert any("nothing would be fenced" in each for each in load(one).warnings)


@pytest.mark.parametrize(
    ("hosts", "with_domain", "says"),
    [
        (6, 0, ""),  # every other host is asked anyway
        (7, 0, "no host has a domain: the witnesses of a host are the next 5 by name"),
        (7, 7, ""),
        (7, 6, "without a domain, and of one for that reason: h7;"),
        (9, 3, ": h4, h5, h6 and 3 more;"),
    ],
)
def test_a_large_inventory_without_domains_is_noted(hosts: int, with_domain: int, says: str) -> None:
    rows = "".join(
        f"  h{n}: {{address: 192.0.2.{n}{', domain: r1' if n <= with_domain else ''}}}\n" for n in range(1, hosts + 1)
    )
    three = "".join(f"  h{n}: {{address: 192.0.2.{n}}}\n" for n in range(1, 4))
    assert three in GOOD
    warnings = load(GOOD.replace(three, rows)).warnings
    assert [(says in each, each.startswith("hosts")) for each in warnings] == ([(True, True)] if says else [])


def test_bounds_by_hand() -> None:
    host = HostPolicy(
        name="h",
        detection=Detection(down_after_s=10, probe_timeout_s=1.5),
        fencing=FencingPolicy(levels=(("a",), ("b",)), attempt_s=20),
    )
    assert host_bounds(host) == (11.5, [31.5, 51.5])
    slow = HostPolicy(name="s", detection=Detection(down_after_s=30), fencing=FencingPolicy(levels=(("a",),)))
    assert bounds(Policy(hosts={"h": host, "s": slow})) == (31.5, [51.5, 51.5])
    assert bounds(Policy()) == (0.0, [])


@pytest.mark.parametrize(
    ("detection", "bound_s"),
    [
        (Detection(), 69.5),  # 4 + 60 + 2 + 1.5 + 0.5, and 1.5
        (Detection(suspect_after_s=6), 71.5),
        (Detection(hung_patience_s=20), 29.5),
        (Detection(probe_interval_s=5, probe_timeout_s=4), 75.0),
        (Detection(down_after_s=120, hung_patience_s=20), 121.5),  # never before it would be down
    ],
)
def test_the_bound_of_a_hung_host_by_hand(detection: Detection, bound_s: float) -> None:
    host = HostPolicy(name="h", detection=detection)
    assert hung_bound(host) == bound_s
    assert hung(Policy(hosts={"h": host, "s": HostPolicy(name="s", detection=Detection(hung_patience_s=20))})) == max(
        bound_s, 29.5
    )
    assert hung(Policy()) == 0.0


def test_the_bound_of_evidence_uses_the_number_of_levels() -> None:
    loaded = load(GOOD.replace("[[bmc]]", "[[bmc]]\n  attempt_s: 30"))
    assert bounds(loaded.policy)[1] == [41.5]
