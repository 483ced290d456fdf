"""Bars move while the work goes on, and none is written into a file."""

import io
import time

from data_generation.scripts.progress import progress_bar, watched


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Result:
    ready = False

    def is_ready(self):
        return self.ready


def test_a_file_gets_no_bar():
    stream = io.StringIO()
    with progress_bar(total=3, file=stream) as bar, watched(bar) as parts:
        parts.expect(1, Result())
        bar.update(3)
    assert bar.disable
    assert stream.getvalue() == ""


def test_a_bar_moves_with_the_parts_while_the_next_ones_are_computed():
    first, second, third = Result(), Result(), Result()
    with progress_bar(total=30, file=Terminal()) as bar, watched(bar) as parts:
        for result in (first, second, third):
            parts.expect(10, result)
        third.ready = first.ready = True  # a part counts only when those before it have come
        while bar.n == 0:
            time.sleep(0.01)
        assert bar.n == 10
        second.ready = True
    assert bar.n == 30
