"""How much of memory a file may take: the one rule for what is unpacked, expanded or read whole."""

MOST_FILE_BYTES = 4 << 30
"""What is read whole into memory."""

_MODEST_BYTES, _MOST_BYTES, _MOST_RATIO = 256 << 20, 2 << 30, 100


def most_unpacked(packed_bytes: int) -> int:
    """Bytes that a file of `packed_bytes` may become in memory.

    As many as it has; or, where it is compressed, 256 MiB, or a hundred times as many as it has up to
    2 GiB: numbers that were measured do not compress further.
    """
    return max(packed_bytes, _MODEST_BYTES, min(_MOST_BYTES, _MOST_RATIO * packed_bytes))
