"""Prints a policy.yaml for nova-api with which a role may do what ha-agent does, and nothing else that the default policy keeps from others.

    python least_rights.py [ROLE] > /etc/nova/policy.yaml      # where nova-api is installed, and again after each upgrade of Nova

Nova shows servers of all projects only to whom its rule `context_is_admin` names, and that rule opens all that administrators may. So the
role is added there, and every rule that rests on it asks for a real administrator instead, but for those that are needed.
"""

import sys

from nova import policies

ADMINISTRATOR = "cloud_administrator"
NEEDED = {
    "os_compute_api:os-services:list": "is nova-compute up, and what is forced down",
    "os_compute_api:os-services:update": "force_down, before an evacuation and after the return",
    "os_compute_api:servers:detail": "the servers of a host",
    "os_compute_api:servers:detail:get_all_tenants": "... of every project",
    "os_compute_api:servers:allow_all_filters": "... by host",
    "os_compute_api:os-extended-server-attributes": "on which host a server is",
    "os_compute_api:os-migrations:index": "what became of an evacuation; what else moves a server",
    "os_compute_api:os-migrations:index:all_projects": "... in every project (Nova 32 and newer)",
    "os_compute_api:os-migrations:index:host": "... and between which hosts (Nova 32 and newer)",
    "os_compute_api:os-evacuate": "rebuild a server elsewhere",
    "os_compute_api:servers:start": "it ran before: from microversion 2.95 on an evacuated server lands stopped",
    "os_compute_api:servers:stop": "it was stopped before",
    "os_compute_api:servers:reboot": "a guest that hangs, where its recovery is automatic",
    "os_compute_api:os-instance-actions:list": "was this reboot ours? It is looked up where an answer was lost",
}


def lines(role: str) -> list[str]:
    """The file. For each rule of the Nova that is installed here, what must be said otherwise than by default."""
    text = [
        f"# The rights of the role {role}; everybody else's are Nova's defaults. Made by least_rights.py: make it anew after an upgrade of Nova.",
        f'"{ADMINISTRATOR}": "role:admin"',
        f'"context_is_admin": "role:admin or role:{role}"',
    ]
    for rule in sorted(policies.list_rules(), key=lambda each: each.name):
        if rule.name == "context_is_admin":
            continue
        asks = rule.check_str.replace("rule:context_is_admin", f"rule:{ADMINISTRATOR}")
        asks = asks.replace("is_admin:True", f"rule:{ADMINISTRATOR}")
        if rule.name in NEEDED:
            text += [f"# {NEEDED[rule.name]}", f'"{rule.name}": "({asks}) or role:{role}"']
        elif asks != rule.check_str:
            text.append(f'"{rule.name}": "{asks}"')
    return text


if __name__ == "__main__":
    print("\n".join(lines(sys.argv[1] if len(sys.argv) > 1 else "ha-agent")))
