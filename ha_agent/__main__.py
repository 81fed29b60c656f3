"""`python -m ha_agent`."""

from ha_agent.cli import main

main()
