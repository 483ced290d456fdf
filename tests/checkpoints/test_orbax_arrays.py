"""What a failed save leaves is removed, although other writes of it go on for a moment."""

import errno
import threading
import time

import numpy as np
import pytest

from checkpoints import orbax_arrays
from checkpoints.orbax_arrays import write_arrays

OPTIMISED = True  # numbers that were shipped, and their last bits


class FailingCheckpointer:
    """One write fails at once; the others go on in a thread, and make their folders where absent."""

    thread: threading.Thread

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def save(self, path, arrays, **_):
        blocks = path.with_name(f"{path.name}.orbax-checkpoint-tmp") / "ocdbt.process_0" / "d"
        blocks.mkdir(parents=True)

        def write_more():
            for number in range(20):
                blocks.mkdir(parents=True, exist_ok=True)
                try:
                    (blocks / f"{number:032x}").write_bytes(b"block")
                except FileNotFoundError:  # removed in between
                    continue
                time.sleep(0.005)

        FailingCheckpointer.thread = threading.Thread(target=write_more)
        self.thread.start()
        raise OSError(errno.ENOSPC, "No space left on device")


def test_nothing_is_left_of_a_failed_save_whose_other_writes_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(orbax_arrays.ocp, "StandardCheckpointer", FailingCheckpointer)
    with pytest.raises(OSError, match="No space left on device: .*arrays"):
        write_arrays(tmp_path / "arrays", {"w": np.ones(3)})
    FailingCheckpointer.thread.join()
    assert list(tmp_path.iterdir()) == []
