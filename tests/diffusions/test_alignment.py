"""Arrays where XLA wants them."""

import numpy as np
import pytest

from diffusions.alignment import ALIGNMENT, aligned_empty


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8, ">i2"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (5,), (1000, 7)])
def test_arrays_begin_where_they_should_and_can_be_written(shape, dtype):
    array = aligned_empty(shape, dtype)
    if array.size:
        assert array.ctypes.data % ALIGNMENT == 0
    assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
    array[...] = 3
    assert array.flags.c_contiguous
    assert (array == 3).all()
