"""The coders of the compressed file: each gives back what it was given, and refuses what it did not make."""

import numpy as np
import pytest

from lightning_modules.compression.container import symbol_codecs, value_codecs
from lightning_modules.compression.container.read import ByteReader


def skewed(n: int, alphabet: int, seed: int = 0) -> np.ndarray:
    draws = np.random.default_rng(seed).geometric(0.3, n) - 1
    return np.minimum(draws, alphabet - 1).astype(np.uint8)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("n", [0, 1, 7, 8, 1001])
def test_symbols_of_any_width_and_number_come_back(bits: int, n: int) -> None:
    rng = np.random.default_rng(bits)
    for given in (rng.integers(0, 2**bits, n).astype(np.uint8), skewed(n, 2**bits), np.full(n, 2**bits - 1, np.uint8)):
        coder, data = symbol_codecs.encode_symbols(given, 2**bits)
        assert np.array_equal(symbol_codecs.decode_symbols(coder, data, n, 2**bits), given)
        assert len(data) <= -(-n * bits // 8)


def test_each_coder_wins_somewhere() -> None:
    rng = np.random.default_rng(0)
    even, repeated = rng.integers(0, 32, 1000).astype(np.uint8), np.tile(rng.integers(0, 256, 90).astype(np.uint8), 30)
    chosen = {
        "constant": symbol_codecs.encode_symbols(np.full(100, 7, np.uint8), 32),
        "packed": symbol_codecs.encode_symbols(even, 32),
        "zstd": symbol_codecs.encode_symbols(repeated, 256),
        "ans": symbol_codecs.encode_symbols(skewed(10_000, 256), 256),
    }
    assert {name: coder for name, (coder, _) in chosen.items()} == {name: name for name in chosen}
    assert len(chosen["packed"][1]) == 1000 * 5 // 8


def test_range_coding_comes_within_one_percent_of_the_entropy() -> None:
    given = skewed(20_000, 256)
    counts = np.bincount(given)
    share = counts[counts > 0] / len(given)
    entropy = -(share * np.log2(share)).sum() * len(given) / 8
    assert len(symbol_codecs.encode_symbols(given, 256)[1]) < 1.01 * entropy


def test_rare_symbols_survive_range_coding() -> None:
    given = np.zeros(200_000, np.uint8)
    given[[5, 77_000, 199_999]] = [255, 3, 9]
    table = np.bincount(given)
    assert np.array_equal(
        symbol_codecs.decode_ans_words(symbol_codecs.encode_ans_words(given, table), table, len(given)), given
    )
    assert np.array_equal(symbol_codecs._decode_ans(symbol_codecs._encode_ans(given), len(given), 256), given)


def test_of_many_symbols_the_fast_coder_is_taken_unless_it_costs_two_percent() -> None:
    candidates = [("fast", bytes(1019)), ("slow", bytes(1000))]
    assert symbol_codecs.pick_smallest(candidates, symbol_codecs.MANY_SYMBOLS)[0] == "slow"
    assert symbol_codecs.pick_smallest(candidates, symbol_codecs.MANY_SYMBOLS + 1)[0] == "fast"
    assert (
        symbol_codecs.pick_smallest([("fast", bytes(1021)), ("slow", bytes(1000))], symbol_codecs.MANY_SYMBOLS + 1)[0]
        == "slow"
    )


@pytest.mark.parametrize("density", [0.0, 0.001, 0.02, 0.1, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("n", [1, 9, 255, 256, 5003])
def test_positions_of_any_density_come_back(density: float, n: int) -> None:
    kept = np.random.default_rng(n).random(n) < density
    (how, count, gaps), data = value_codecs.encode_positions(kept)
    assert np.array_equal(value_codecs.decode_positions(how, count, gaps, data, n), np.flatnonzero(kept))


@pytest.mark.parametrize("far", [254, 255, 256, 509, 510, 511, 70_000])
def test_gaps_longer_than_a_byte_come_back(far: int) -> None:
    given = np.array([0, far, far + 1, 2 * far + 1])
    assert np.array_equal(value_codecs._from_gaps(value_codecs._to_gaps(given)), given)


def test_positions_choose_gaps_when_sparse_and_a_bitmask_when_regular() -> None:
    sparse = np.random.default_rng(0).random(10_000) < 0.05
    assert value_codecs.encode_positions(sparse)[0][0] == "gaps geometric"
    assert str(value_codecs.encode_positions(np.tile([True, True, False, False], 2500))[0][0]).startswith("bitmask")
    share = sparse.mean()
    entropy = -(share * np.log2(share) + (1 - share) * np.log2(1 - share)) * len(sparse) / 8
    assert len(value_codecs.encode_positions(sparse)[1]) < 1.02 * entropy


@pytest.mark.parametrize("n", [1, 8, 13, 4096])
def test_bitmask_and_int8_of_earlier_versions_come_back_from_one_frame(n: int) -> None:
    rng = np.random.default_rng(n)
    kept = rng.random(n) < 0.3
    q = rng.integers(-128, 128, np.count_nonzero(kept)).astype(np.int8)
    frame = symbol_codecs.zstd_compress(np.packbits(kept).tobytes() + q.tobytes())
    where, values = value_codecs.decode_bitmask_int8(frame, n, len(q))
    assert np.array_equal(where, np.flatnonzero(kept)) and np.array_equal(values, q)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_plain_values_come_back_in_planes_and_whole(size: int) -> None:
    rng = np.random.default_rng(size)
    noise = rng.normal(size=777).astype({1: "i1", 2: "f2", 4: "f4", 8: "f8"}[size])
    for given in (noise, np.repeat(noise[:7], 111), noise[:0]):
        rows = given.view(np.uint8).reshape(len(given), size)
        streams, data = value_codecs.encode_plain(rows)
        assert np.array_equal(value_codecs.decode_plain(streams, ByteReader(data).take, len(given), size), rows)


def test_a_frame_gives_no_more_bytes_than_are_asked_for() -> None:
    import zstandard

    bomb = np.zeros(10_000_000, np.uint8).tobytes()
    for coded in (symbol_codecs.zstd_compress(bomb), zstandard.ZstdCompressor().compress(bomb)):
        with pytest.raises(ValueError):
            symbol_codecs.zstd_decompress(coded, 1000)
    with pytest.raises(ValueError):
        symbol_codecs.zstd_decompress(symbol_codecs.zstd_compress(b"two"), 4)
    assert symbol_codecs.zstd_decompress(symbol_codecs.zstd_compress(b""), 0) == b""


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: symbol_codecs.decode_symbols("packed", b"123", 100, 256),
        lambda: symbol_codecs.decode_symbols("packed", b"\xff", 1, 200),
        lambda: symbol_codecs.decode_symbols("zstd", b"no frame", 100, 256),
        lambda: symbol_codecs.decode_symbols("constant", b"", 100, 256),
        lambda: symbol_codecs.decode_symbols("ans", b"\x01\x05\x05\x01\x00\x00\x00", 10, 256),
        lambda: value_codecs.decode_positions("gaps packed", 2, 2, bytes([200, 200]), 300),
        lambda: value_codecs.decode_positions("bitmask packed", 3, 0, bytes([255]), 8),
        lambda: value_codecs.decode_bitmask_int8(symbol_codecs.zstd_compress(bytes([255, 1, 1])), 8, 2),
        lambda: ByteReader(b"123").take(-1),
        lambda: ByteReader(b"123").take(4),
    ],
)
def test_data_that_does_not_fit_is_refused(wrong) -> None:
    with pytest.raises(ValueError):
        wrong()
