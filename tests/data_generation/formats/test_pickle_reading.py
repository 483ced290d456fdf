"""Pickles of plain data come back; those that ask for anything else are refused at no cost."""

import collections
import pickle
import struct
import tracemalloc

import pytest

from data_generation.formats.pickle_reading import read_pickle


class Noted(list):
    """Remembers how it was made and described."""

    def describe(self, state):
        self.append(state)


NAMES = {("collections", "OrderedDict"): dict, ("lib", "noted"): lambda *a: Noted(a)}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_data_come_back(protocol):
    shared = ["x", 2]
    data = {
        "numbers": [0, -1, 255, 65536, 2**40, -(2**70), 1.5],
        "words": ("a", "\u00e9" * 300, ("b",), ()),
        "shared": [shared, shared, None, True, False],
        "many": list(range(3000)),
        b"bytes" if protocol > 2 else "bytes": "" if protocol == 2 else b"\x00\xff" * 200,
    }
    found = read_pickle(pickle.dumps(data, protocol), NAMES)
    assert found == data
    assert found["shared"][0] is found["shared"][1]
    ordered = collections.OrderedDict(b=1, a=2)
    ordered.attribute = "lost"
    assert read_pickle(pickle.dumps(ordered, protocol), NAMES) == {"b": 1, "a": 2}


def test_names_are_those_of_the_table():
    content = b"\x80\x02clib\nnoted\nK\x01K\x02\x86RK\x07b."
    assert read_pickle(content, NAMES) == [1, 2, 7]
    with pytest.raises(ValueError, match=r"it asks for lib\.noted"):
        read_pickle(content, {})
    assert read_pickle(b"\x80\x02K\x05Q.", {}, persistent=lambda n: n + 1) == 6
    with pytest.raises(ValueError, match="BINPERSID"):
        read_pickle(b"\x80\x02K\x05Q.", {})


NESTED = b"\x80\x02)" + b"2\x86" * 200  # (t, t) of (t, t) of ...: two to the 200th leaves

HOSTILE = {
    "a memory of 2^32 entries": b"\x80\x02]r\xff\xff\xff\xff.",
    "four gigabytes of zeros": b"\x80\x02c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R.",
    "bytes that are not there": b"\x80\x03B\xff\xff\xff\x7fabc.",
    "a long that is not there": b"\x80\x02\x8b\xff\xff\xff\x7f1.",
    "keys of endless hashing": b"\x80\x02}" + NESTED[2:] + b"K\x01s.",
    "marks without an end": b"\x80\x02" + b"(" * 100_000 + b"t" * 100_001 + b".",
    "a number of many digits": b"\x80\x02L" + b"9" * 100_000 + b"L\n.",
    "nothing on the stack": b"\x80\x02\x86.",
    "two things at the end": b"\x80\x02]].",
    "memory never written": b"\x80\x02h\x05.",
    "a list with attributes": b"\x80\x02]K\x01b.",
    "items of a number": b"\x80\x02K\x01]K\x01Ka.",
    "a call of a text": b"\x80\x02X\x01\x00\x00\x00a)R.",
    "an object": b"\x80\x02clib\nnoted\n)\x81.",
    "an extension": b"\x80\x02\x82\x01.",
    "no end": b"\x80\x02]",
    "no pickle": b"GIF89a",
    "nothing": b"",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_pickles_cost_nothing(what):
    tracemalloc.start()
    if what == "a memory of 2^32 entries":  # only its number is large
        assert read_pickle(HOSTILE[what], NAMES) == []
    else:
        with pytest.raises(
            ValueError, match="it |not |expected|exhausted|truncated|digit"
        ) as error:
            read_pickle(HOSTILE[what], NAMES)
        assert len(str(error.value)) < 300
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


def test_the_number_of_operations_is_bounded():
    content = b"\x80\x02" + b"]" * 2000 + b"."
    with pytest.raises(ValueError, match="more than 1000 operations"):
        read_pickle(content, NAMES, most_operations=1000)


def test_texts_of_python_2_are_bytes():
    content = b"\x80\x02}(U\x04dataT" + struct.pack("<i", 3) + b"\x00\xff\x80u."
    assert read_pickle(content, NAMES) == {b"data": b"\x00\xff\x80"}
