"""Nothing here is for a process of one device: `tests/test_several_devices.py` starts the others.

They have no conftest: programs are traced without checks of shapes, and kept where those of the process
are that starts them.
"""

collect_ignore_glob = ["*"]
