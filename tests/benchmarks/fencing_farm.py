"""BMCs for the benchmark of fencing, in a process of their own. `python -m tests.benchmarks.fencing_farm '["good", "hang", …]'`

Says their ports as one line of JSON, and ends with its stdin.
"""

from __future__ import annotations

import json
import sys

from ha_agent.sim.bmc import BmcFarm, Fault

FAULTS = {"hang": Fault.HANG, "refuse": Fault.REFUSE_OFF}


def main() -> None:
    """See the module."""
    farm = BmcFarm()
    farm.start()
    kinds = json.loads(sys.argv[1])
    ports = [farm.add(f"bmc-{number}", lambda on: None) for number in range(len(kinds))]
    for number, kind in enumerate(kinds):
        farm.fault(f"bmc-{number}", FAULTS.get(kind))
    print(json.dumps(ports), flush=True)
    sys.stdin.read()
    farm.stop()


if __name__ == "__main__":
    main()
