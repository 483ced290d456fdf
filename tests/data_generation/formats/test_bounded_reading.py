from data_generation.formats.bounded_reading import most_unpacked


def test_how_much_a_file_may_unpack_to():
    assert most_unpacked(1000) == 256 << 20
    assert most_unpacked(10 << 20) == 1000 << 20
    assert most_unpacked(100 << 20) == 2 << 30
    assert most_unpacked(3 << 30) == 3 << 30
