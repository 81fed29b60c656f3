"""The composition root: from a loaded configuration to a running controller, and back to nothing when it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import signal
import ssl
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

from ha_agent import config, logs
from ha_agent.api.http import serve
from ha_agent.config.hookdir import find
from ha_agent.controller.daemon import Controller
from ha_agent.controller.engine import SEND_SHARE
from ha_agent.controller.service import Service, reloads, report, summary
from ha_agent.errors import HaAgentError
from ha_agent.fencing.fencer import WorkerFencer
from ha_agent.fencing.topology import Device, Topology
from ha_agent.heartbeat.expiry import Thresholds
from ha_agent.heartbeat.link import Endpoint, MonitorOptions
from ha_agent.heartbeat.monitor import Monitor
from ha_agent.notify.bus import KombuBus
from ha_agent.notify.deliveries import BUS, Deliveries
from ha_agent.notify.hooks import AT_ONCE, Hook
from ha_agent.notify.outbox import Threaded
from ha_agent.notify.webhook import Webhook
from ha_agent.ports import Clock, Sink
from ha_agent.recovery.nova import NovaCloud
from ha_agent.store.sqlite import SqliteStore
from ha_agent.system import SystemClock, SystemRandom

DRAIN_S = 2.0  # how long the last log lines are waited for
CLOUD_S = 60.0  # how often Nova is looked at in quiet times
COUNT_S = 3600.0  # how often the servers of each host are counted

log = logging.getLogger("ha_agent")


def topology(loaded: config.Loaded) -> Topology:
    """The fencing devices of the configuration, as the fencer takes them."""
    return Topology(
        levels={
            host: tuple(
                tuple(
                    Device(
                        name=d.name,
                        driver=d.driver,
                        address=d.address,
                        port=d.port,
                        username=d.username,
                        password_file=d.password_file,
                        plug=d.plug,
                        agent=d.agent,
                        options=d.options,
                    )
                    for d in level
                )
                for level in levels
            )
            for host, levels in loaded.levels.items()
        }
    )


def endpoints(loaded: config.Loaded) -> Mapping[str, Endpoint]:
    """Where the remotes listen."""
    return {
        name: Endpoint(address=place.address, port=place.port, planes=place.planes)
        for name, place in loaded.hosts.items()
    }


def drivers(loaded: config.Loaded) -> dict[tuple[str, str], str]:
    """(host, device) -> driver."""
    return {(host, d.name): d.driver for host, levels in loaded.levels.items() for level in levels for d in level}


def compose(loaded: config.Loaded, on_line: Callable[[str], None] = lambda line: None) -> Controller:
    """Everything put together; nothing runs yet. Raises HaAgentError where a part cannot be made."""
    clock, random = SystemClock(), SystemRandom()
    policy = loaded.policy
    store = SqliteStore(Path(loaded.store.path))
    bus = KombuBus(
        loaded.bus.url,
        exchange=loaded.bus.exchange,
        topic=loaded.bus.topic,
        durable=loaded.bus.durable,
        quorum=loaded.bus.quorum,
        publisher_id=f"ha-agent:{policy.controller}",
    )
    send_within_s = policy.lease_s * SEND_SHARE
    recovery = next((h.recovery for h in policy.hosts.values()), None)
    api_max_s = recovery.api_max_s if recovery else 60.0
    options = MonitorOptions(
        interval_s=policy.detection.heartbeat_interval_s,
        expiry=Thresholds(warn_days=loaded.pki.warn_days, urgent_days=loaded.pki.urgent_days),
    )
    return Controller(
        name=policy.controller,
        policy=policy,
        store=store,
        clock=clock,
        random=random,
        cloud=NovaCloud(loaded.cloud, api_max_s=api_max_s, send_within_s=send_within_s),
        monitor=lambda observe: Monitor(
            Path(loaded.pki_directory), endpoints(loaded), observe, clock, random, options=options
        ),
        fencer=lambda expect: WorkerFencer(topology(loaded), clock, expect, send_within_s=send_within_s),
        outboxes=Deliveries(store, random, {BUS: Threaded(bus), **sinks(loaded, clock)}),
        drivers=drivers(loaded),
        on_line=on_line,
    )


def sinks(loaded: config.Loaded, clock: Clock) -> dict[str, Sink]:
    """The hooks and webhooks, by name."""
    source = f"ha-agent/{quote(loaded.cloud)}"  # of all its controllers: who takes over may repeat an event
    out: dict[str, Sink] = {}
    if loaded.hooks.directory:
        slots = asyncio.Semaphore(AT_ONCE)
        try:
            programs = find(Path(loaded.hooks.directory)).programs
        except OSError as error:
            log.error("no hook is run: %s: %s", loaded.hooks.directory, error.strerror)
            programs = ()
        for program in programs:
            out[f"hook {program.name}"] = Hook(program, source, slots, clock.now, timeout_s=loaded.hooks.timeout_s)
    for each in loaded.webhooks:
        out[f"webhook {each.name}"] = Webhook(
            each.url,
            source,
            clock.wall,
            secret=each.secret,
            events=each.events,
            timeout_s=each.timeout_s,
            tls=ssl.create_default_context(cafile=each.ca_file) if each.ca_file else None,
        )
    return out


async def reload(controller: Controller, path: str) -> None:
    """The new configuration, whole or not at all. What only a start can change is named and waits for one. Raises HaAgentError or OSError,
    and has changed nothing."""
    loaded = await asyncio.to_thread(config.load, path)  # heartbeats are heard meanwhile
    others = sinks(loaded, controller.clock)  # may still fail: before anything is changed
    controller.set_policy(loaded.policy, endpoints(loaded), topology(loaded), drivers(loaded))
    if controller.outboxes is not None:
        controller.outboxes.set_sinks({BUS: controller.outboxes.sink(BUS), **others})
    for warning in loaded.warnings:
        log.warning("%s", warning)
    log.info("reloaded %s; store, bus, http, cloud and the pki section are taken at the next start", path)


async def _main(loaded: config.Loaded) -> int:
    controller = compose(loaded)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, controller.stop)
    reload_asked = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, reload_asked.set)
    service = Service(controller, lambda: summary(controller))
    policy = loaded.policy
    fencing = next((h.fencing for h in policy.hosts.values()), None)
    interval = fencing.check_interval_s if fencing else 300.0
    deadline = fencing.read_s if fencing else 5.0
    async with contextlib.AsyncExitStack() as stack:
        await serve(stack, controller, loaded.http)
        running = asyncio.create_task(controller.run())
        beside = [
            asyncio.create_task(controller.check_devices(interval, deadline)),
            asyncio.create_task(controller.nova.check_services(CLOUD_S)),
            asyncio.create_task(controller.nova.count_servers(COUNT_S)),
            asyncio.create_task(report(controller, service)),
            asyncio.create_task(reloads(controller, service, reload_asked, lambda: reload(controller, loaded.path))),
        ]
        try:
            await running
        finally:
            service.stopping()
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
    return 0


def run(loaded: config.Loaded) -> int:
    """Run the controller until SIGTERM. Returns the exit code; errors are said in one sentence."""
    # On systemd's SIGABRT, when the watchdog found a loop that hangs, the log shows where each thread stood.
    faulthandler.enable()
    handler = logs.to(sys.stderr, fields=True)
    for noisy in ("keystoneauth", "openstack", "urllib3", "amqp", "kombu", "aiohttp.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for warning in loaded.warnings:
        log.warning("%s", warning)
    try:
        return asyncio.run(_main(loaded))
    except HaAgentError as error:
        log.error("%s%s", error, f" ({error.hint})" if error.hint else "")
        return error.exit_code
    finally:
        handler.drain(DRAIN_S)
