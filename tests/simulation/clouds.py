"""Small clouds that the simulation tests share."""

from __future__ import annotations

from ha_agent.controller.engine import Engine
from ha_agent.policy import Detection, Fencing, HostPolicy, Policy, Recovery, Storm
from ha_agent.sim.loop import MakeEngine
from ha_agent.sim.simulation import PROTECTED, Simulation


def policy(hosts: int = 6, *, share: float = 0.5) -> Policy:
    """Defaults, with recovery times that keep runs short."""
    recovery = Recovery(settle_after_s=300.0, api_max_s=10.0)
    names = [f"h{n}" for n in range(1, hosts + 1)]
    return Policy(
        hosts={
            n: HostPolicy(name=n, domain=f"rack{i % 2}", fencing=Fencing(), recovery=recovery)
            for i, n in enumerate(names)
        },
        detection=Detection(),
        storm=Storm(max_share=share),
    )


def cloud(
    make: MakeEngine = Engine,
    *,
    seed: int = 1,
    hosts: int = 6,
    controllers: int = 1,
    share: float = 0.5,
    armed: bool = True,
) -> Simulation:
    """Two protected servers a host; everything is up, seen and quiet."""
    sim = Simulation(seed, policy(hosts, share=share), controllers=controllers, make=make)
    for number, host in enumerate([h for h in sim.policy.hosts for _ in range(2)]):
        sim.world.nova.add_server(host, f"vm{number + 1}", tags=(PROTECTED,))
    sim.start(armed=armed)
    sim.run(20.0)
    return sim
