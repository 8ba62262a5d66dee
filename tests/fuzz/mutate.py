"""A good input and a random generator → a bad one."""

import copy
import json
import math
from random import Random

MAX_BYTES = 200_000  # of an input that grew
NUMBERS = (0, 1, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
WORDS = (
    *(
        b"\0",
        b"\n",
        b"\r",
        b"\r\n",
        b"\t",
        b'"',
        b"'",
        b",",
        b"=",
        b" ",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
    ),
    *(b"\x1b[31m", b"\xed\xa0\x80", b"..", b"../../x", b"/etc/passwd", b"%s%n", b"-1", b"1e999"),
    *(b"nan", b"NaN", b"Infinity", b"0x7f", b"9" * 40, b"9" * 5000, b"a" * 300, b"[" * 3000),
    *(b"\xc3\xa9", b"null", b"true", b"{}", b"[]", "\u202e".encode(), "\u2028".encode()),
)
VALUES = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, math.nan, math.inf),
    *("", "a", "\0", "\ud800", "\n\x1b[31m", "../../x", "/", "float16", "a" * 3000, [], {}),
    *([[]], [None], {"": None}, {"a.b": 1}, [[[]]], {"config": {}}),
)


def of_bytes(rng: Random, seed: bytes, words: tuple[bytes, ...] = (), head: int = 0) -> bytes:
    """Change a few places of `seed`, or of its first `head` bytes only."""
    data, kept = bytearray(seed[:head] if head else seed), seed[head:] if head else b""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(8)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            width = rng.choice((1, 2, 4, 8))
            number = rng.choice(NUMBERS) % 256**width
            data[at : at + width] = number.to_bytes(width, rng.choice(("little", "big")))
        elif kind == 2:
            data[at : at + rng.choice((1, 4, 40))] = b""
        elif kind == 3:
            data[at:at] = data[rng.randrange(len(data) + 1) :][: rng.choice((1, 4, 40, 400))]
        elif kind == 4:
            data[at : at + rng.choice((0, 4))] = rng.choice(words or WORDS)
        elif kind == 5:
            data[at:at] = rng.choice(WORDS)
        elif kind == 6:
            data[at : at + 4] = rng.randbytes(4)
        elif kind == 7 and not rng.randrange(4):
            del data[at:]
            kept = b""
    return bytes(data[:MAX_BYTES]) + kept


def of_tree(rng: Random, tree):
    """A copy of nested dicts and lists in which a few values or keys are changed or gone."""
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        parent, key = _somewhere(rng, tree)
        if parent is None:
            return copy.deepcopy(rng.choice(VALUES))
        kind = rng.randrange(6)
        if kind == 0:
            del parent[key]
        elif kind == 1 and isinstance(parent, dict):
            parent[rng.choice(("", "a.b", "x" * 99, "\n", "config", "seed"))] = parent.pop(key)
        elif kind == 2 and not isinstance(parent[key], dict | list):
            parent[key] = rng.choice((str(parent[key]), [parent[key]], {"a": parent[key]}))
        elif kind == 3:
            parent[key] = _nested(rng.choice((2, 50, 400)), rng.choice(("list", "dict")))
        else:
            parent[key] = copy.deepcopy(rng.choice(VALUES))
    return tree


def of_json(rng: Random, seed: bytes) -> bytes:
    """Half of the time damaged as text, half of the time as values."""
    if rng.randrange(2):
        return of_bytes(rng, seed)
    return json.dumps(of_tree(rng, json.loads(seed))).encode("utf-8", "surrogatepass")


def _somewhere(rng: Random, tree):
    """A random place: its container and key; None if the tree is no container or empty."""
    parent, key = None, None
    while isinstance(tree, dict | list) and tree:
        if parent is not None and not rng.randrange(3):
            break
        parent, key = (
            tree,
            rng.choice([*tree]) if isinstance(tree, dict) else rng.randrange(len(tree)),
        )
        tree = tree[key]
    return parent, key


def _nested(depth: int, kind: str):
    value = None
    for _ in range(depth):
        value = [value] if kind == "list" else {"a": value}
    return value
