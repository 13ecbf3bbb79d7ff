"""Hashes against published numbers, and a stream's against hashlib."""

from __future__ import annotations

import hashlib
import io

import numpy as np

from raysft.data.hashing import HashedStream, splitmix64

GOLDEN = 0x9E3779B97F4A7C15
# The first outputs of the reference generator (https://prng.di.unimi.it/splitmix64.c) from state 0.
FROM_ZERO = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]


def test_splitmix_has_the_numbers_of_its_reference() -> None:
    states = np.array([i * GOLDEN % 2**64 for i in range(4)], np.uint64)
    assert splitmix64(states).tolist() == FROM_ZERO
    assert int(splitmix64(np.uint64(0))) == FROM_ZERO[0]


def test_a_stream_is_hashed_as_it_is_written() -> None:
    out = io.BytesIO()
    stream = HashedStream(out)
    for piece in (b"one ", b"", b"two" * 1000):
        stream.write(piece)
        assert stream.tell() == out.tell()
    assert stream.digest.hexdigest() == hashlib.sha256(out.getvalue()).hexdigest()
    assert out.getvalue() == b"one " + b"two" * 1000
