"""Tables of replacements as SentencePiece writes them: a double array of the keys, and the texts that stand for them.

`src/data/tokenizer/charsmap.rs` has the layout. Places are taken as they are free, which is slow and simple.
"""

import struct


class _Trie:
    """Keys in UTF-8, each with the place of its replacement."""

    def __init__(self):
        self.children: dict[int, "_Trie"] = {}
        self.value: int | None = None


def charsmap(table: dict[str, str]) -> bytes:
    """The bytes of `precompiled_charsmap`."""
    texts, places = b"", {}
    for text in table.values():
        if text not in places:
            places[text] = len(texts)
            texts += text.encode() + b"\0"
    root = _Trie()
    for key, text in table.items():
        node = root
        for byte in key.encode():
            node = node.children.setdefault(byte, _Trie())
        node.value = places[text]
    units: dict[int, int] = {}
    _put(root, 0, 0, {0}, set(), units)
    length = (max(units) // 256 + 1) * 256
    trie = struct.pack(f"<{length}I", *(units.get(i, 0) for i in range(length)))
    return struct.pack("<I", len(trie)) + trie + texts


def _put(node: _Trie, place: int, label: int, taken: set[int], bases: set[int], units: dict[int, int]) -> None:
    """Writes the unit of a node that stands at `place`, and those of all below it."""
    # A key that ends here has its leaf where a byte of 0 would lead.
    below = sorted(node.children) if node.value is None else [0, *sorted(node.children)]
    base = next(b for b in range(1, 1 << 21) if b not in bases and not any(b ^ byte in taken for byte in below))
    bases.add(base)
    taken.update(base ^ byte for byte in below)
    units[place] = label | (256 if node.value is not None else 0) | (base ^ place) << 10
    if node.value is not None:
        units[base] = 1 << 31 | node.value
    for byte, child in node.children.items():
        _put(child, base ^ byte, byte, taken, bases, units)
