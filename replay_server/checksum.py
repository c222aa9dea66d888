"""Checksums of stored blocks: after a power failure, is a block on the disk what was written?

    term(w, i) = lo32(x) · hi32(x) + w   mod 2⁶⁴,    x = w ⊕ k_i,    k_i = K + i·W

This is NH (Black et al. 1999, "UMAC") with a Weyl sequence for its key, and w added, so that no
word drops out where its factor is 0. The checksum is the sum of the terms of six words: number,
session, sequence, weights version, and what becomes of the observations and of the steps. It goes
through SplitMix64's finaliser (Steele et al. 2014).

A column's part of a block is the words that its bytes lie in, with its neighbours' bytes in the
first and the last word taken as 0. Those two are summed as above, as words 0 and 1. The others are
folded to a quarter before they are multiplied, for the multiplications would take half of the time:

    Σ_i  lo32(y_i) · hi32(y_i),    y_i = a_i ⊕ k_i  +  rotl16(b_i ⊕ k_i)  +  rotl32(c_i ⊕ k_i)
                                                    +  rotl48(d_i ⊕ k_i),    i from 1

a, b, c and d are the quarters. Each word is in one y alone and changes it, whatever the others are.
For changes of several quarters to make up for one another, they would have to do so in every y
under another key. The up to three words that are left over are summed with the keys that follow.

It finds pages that are missing, older or elsewhere. It is no protection against whoever can write
the file: they can compute it, too.
"""

import numba
import numpy as np
import numpy.typing as npt

Int64Vector = npt.NDArray[np.int64]
UInt64Vector = npt.NDArray[np.uint64]

_KEY = np.uint64(0x9FB21C651E98DF25)
_WEYL = np.uint64(0x9E3779B97F4A7C15)
_LOW = np.uint64(0xFFFFFFFF)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_64, _48, _32, _16 = (np.uint64(n) for n in (64, 48, 32, 16))
_30, _27, _31 = (np.uint64(n) for n in (30, 27, 31))
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@numba.njit(cache=True, nogil=True)
def block_checksum(
    slot: int,
    number: int,
    session: int,
    sequence: int,
    version: int,
    obs: UInt64Vector,
    obs_bytes: int,
    step: UInt64Vector,
    step_bytes: int,
) -> int:
    """Of the block in that slot, 64 bits.

    Args:
        obs, step: the words that the columns lie in.
        obs_bytes, step_bytes: what one block takes of them.
    """
    key = _KEY
    total = _term(np.uint64(number), key)
    key += _WEYL
    total += _term(np.uint64(session), key)
    key += _WEYL
    total += _term(np.uint64(sequence), key)
    key += _WEYL
    total += _term(np.uint64(version), key)
    key += _WEYL
    total += _term(_sum(obs, slot * obs_bytes, obs_bytes), key)
    key += _WEYL
    total += _term(_sum(step, slot * step_bytes, step_bytes), key)
    return _mixed(total)  # type: ignore[no-any-return]


@numba.njit(cache=True, nogil=True)
def whole_blocks(
    checksum: UInt64Vector,
    number: Int64Vector,
    session: Int64Vector,
    sequence: Int64Vector,
    version: Int64Vector,
    obs: UInt64Vector,
    obs_bytes: int,
    step: UInt64Vector,
    step_bytes: int,
) -> npt.NDArray[np.bool_]:
    """Which slots hold a block that is as it was written [slots]. Reads all of them."""
    slots = checksum.shape[0]
    whole = np.zeros(slots, np.bool_)
    for slot in range(slots):
        if number[slot] > 0 and number[slot] % slots == slot:
            found = block_checksum(
                slot,
                number[slot],
                session[slot],
                sequence[slot],
                version[slot],
                obs,
                obs_bytes,
                step,
                step_bytes,
            )
            whole[slot] = found == checksum[slot]
    return whole


@numba.njit(cache=True, nogil=True)
def _sum(words, begin, nbytes):  # type: ignore[no-untyped-def]
    """Of the bytes begin … begin + nbytes − 1 of these words (little-endian)."""
    end = begin + nbytes
    first, last = begin // 8, (end - 1) // 8
    head = _ALL << np.uint64(8 * (begin % 8))
    tail = _ALL >> np.uint64(8 * (7 - (end - 1) % 8))
    if first == last:
        return _term(words[first] & head & tail, _KEY)
    total = _term(words[first] & head, _KEY) + _term(words[last] & tail, _KEY + _WEYL)
    key = _KEY
    # Slices, whose indices cannot be negative: LLVM makes vector instructions of the loop.
    middle = words[first + 1 : last]
    length = middle.shape[0] // 4
    a, b = middle[:length], middle[length : 2 * length]
    c, d = middle[2 * length : 3 * length], middle[3 * length : 4 * length]
    for i in range(length):
        key += _WEYL
        x = (
            (a[i] ^ key)
            + _rotated(b[i] ^ key, _16)
            + _rotated(c[i] ^ key, _32)
            + _rotated(d[i] ^ key, _48)
        )
        total += (x & _LOW) * (x >> _32)
    rest = middle[4 * length :]
    for i in range(rest.shape[0]):
        key += _WEYL
        total += _term(rest[i], key)
    return total


@numba.njit(cache=True, nogil=True)
def _rotated(word, bits):  # type: ignore[no-untyped-def]
    return (word << bits) | (word >> (_64 - bits))


@numba.njit(cache=True, nogil=True)
def _term(word, key):  # type: ignore[no-untyped-def]
    x = word ^ key
    return (x & _LOW) * (x >> _32) + word


@numba.njit(cache=True, nogil=True)
def _mixed(z):  # type: ignore[no-untyped-def]
    z = (z ^ (z >> _30)) * _MIX_1
    z = (z ^ (z >> _27)) * _MIX_2
    return z ^ (z >> _31)
