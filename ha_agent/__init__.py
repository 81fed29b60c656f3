"""ha-agent: keeps virtual machines running on OpenStack when the hypervisor under them dies."""

__version__ = "0.1.0"
