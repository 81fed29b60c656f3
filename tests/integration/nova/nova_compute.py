"""nova-compute with a driver from outside of Nova, which looks for drivers below its own nova/virt only."""

from pathlib import Path

import nova.virt
from nova.cmd import compute

nova.virt.__path__.append(str(Path(__file__).with_name("virt")))
compute.main()
