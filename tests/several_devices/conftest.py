"""Tests of a process with four devices: `tests/test_several_devices.py` starts it.

The others have one device, as the machines of most users, and as their programs are kept.
"""

import os

DEVICES = 4
collect_ignore_glob = [] if os.environ.get("JAX_NUM_CPU_DEVICES") == str(DEVICES) else ["*"]
