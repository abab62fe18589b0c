"""Hostile tar archives: headers written byte by byte, in every form that readers of tar files are known to trust."""

from __future__ import annotations

import struct

from hypothesis import strategies as st

BLOCK = 512
END = bytes(2 * BLOCK)
LISTED, TAKEN, REFUSED = "listed", "taken", "refused"


def header(name=b"evil.jpg", *, kind=b"0", size=0, link=b"", modified=0, magic=b"ustar\x0000", prefix=b"", **raw):
    """Return a header with a right checksum; ``size`` and ``modified`` are numbers, or the bytes of their fields."""
    number = [value if isinstance(value, bytes) else b"%011o\0" % value for value in (size, modified)]
    fields = (name, b"0000644\0", b"0000000\0", b"0000000\0", *number, b" " * 8, kind, link, magic, b"", b"", b"", b"",
              prefix)  # fmt: skip
    block = bytearray(struct.pack("100s8s8s8s12s12s8s1s100s8s32s32s8s8s155s12x", *fields))
    for place, value in raw.get("patch", {}).items():
        block[place : place + len(value)] = value
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data):
    return data + bytes(-len(data) % BLOCK)


def member(name=b"evil.jpg", data=b"evil", **fields):
    return header(name, size=len(data), **fields) + padded(data)


def record(key, value):
    """Return a record of a PAX header: its own length in decimal, key and value."""
    text = b" %s=%s\n" % (key, value)
    length = len(text)
    while len(b"%d" % length) + len(text) != length:
        length = len(b"%d" % length) + len(text)
    return b"%d" % length + text


def extension(data, kind=b"x", **fields):
    return member(b"././@LongLink" if kind in b"LK" else b"PaxHeaders/evil.jpg", data, kind=kind, **fields)


def pax(**records):
    """Return a PAX header; ``__`` in a key stands for a point."""
    return extension(b"".join(record(key.replace("__", ".").encode(), value) for key, value in records.items()))


def between(middle):
    """Return an archive with a member before ``middle``, and one after it."""
    return member(b"first.jpg", b"first") + middle + member(b"last.jpg", b"last") + END


# Name -> (blocks between two good members, what listing the photos makes of it). LISTED: the member is listed as
# unreadable, and the others are found; TAKEN: the member is a photo; REFUSED: the archive is refused in a line.
# Unpacking refuses everything except TAKEN.
FORMS = {
    "pax headers in a chain": (pax(comment=b"a") * 1200 + member(), LISTED),
    "long names in a chain": (extension(b"evil.jpg\0", b"L") * 1200 + member(), LISTED),
    "long links in a chain": (extension(b"evil.jpg\0", b"K") * 1200 + member(), LISTED),
    "global headers in a chain": (extension(record(b"comment", b"a"), b"g") * 1200 + member(), LISTED),
    "both kinds in a chain": ((pax(path=b"a.jpg") + extension(b"b.jpg\0", b"L")) * 600 + member(), LISTED),
    "solaris headers in a chain": (extension(record(b"path", b"a.jpg"), b"X") * 1200 + member(), LISTED),
    "pax path with NUL": (pax(path=b"a\0.jpg") + member(), LISTED),
    "pax path of NUL": (pax(path=b"\0") + member(), LISTED),
    "pax path to the parent": (pax(path=b"a/../../evil.jpg") + member(), LISTED),
    "pax path of 300 bytes": (pax(path=b"a" * 300 + b".jpg") + member(), LISTED),
    "pax path of 500,000 bytes": (pax(path=b"a/" * 250_000 + b"evil.jpg") + member(), LISTED),
    "pax path of 4,096 folders": (pax(path=b"a/" * 4096 + b"evil.jpg") + member(), LISTED),
    "pax record of length 0": (extension(b"0 path=a.jpg\n") + member(), LISTED),
    "pax record of a negative length": (extension(b"-5 path=a.jpg\n") + member(), LISTED),
    "pax record longer than its header": (extension(b"999 path=a.jpg\n") + member(), LISTED),
    "pax record of 5,000 digits": (extension(b"9" * 5000 + b" path=a.jpg\n") + member(), LISTED),
    "pax record with Arabic digits": (extension("١٤ path=a.jpg\n".encode()) + member(), LISTED),
    "pax record without a value": (extension(b"10 path a\n") + member(), LISTED),
    "pax record without an end": (extension(b"11 path=a.j") + member(), LISTED),
    "pax header of random bytes": (extension(bytes(range(256)) * 2) + member(), LISTED),
    "pax size below zero": (pax(size=b"-1") + member(), LISTED),
    "pax size of -512": (pax(size=b"-512") + member(), LISTED),
    "pax size that is no number": (pax(size=b"1_0") + member(), LISTED),
    "pax size of 5,000 digits": (pax(size=b"1" * 5000) + member(), LISTED),
    "pax size beyond the file": (pax(size=b"99999999") + member(), REFUSED),
    "pax size of 10 ** 19": (pax(size=b"1" + b"0" * 19) + member(), REFUSED),
    "pax header of 2 MiB": (extension(record(b"comment", bytes(2**21))) + member(), LISTED),
    "long name of 2 MiB": (extension(b"a" * 2**21, b"L") + member(), LISTED),
    "pax header beyond the file": (header(kind=b"x", size=2**33 - 1), REFUSED),
    "long name beyond the file": (header(kind=b"L", size=2**33 - 1), REFUSED),
    "pax header of size -1": (header(kind=b"x", size=b"\xff" * 12), REFUSED),
    "long name of 2 ** 80": (header(kind=b"L", size=b"\x80\x04" + bytes(10)), REFUSED),
    "global header with a path": (extension(record(b"path", b"a.jpg"), b"g") + member(), REFUSED),
    "global header with a size": (extension(record(b"size", b"0"), b"g") + member(), REFUSED),
    "global header that is sparse": (extension(record(b"GNU.sparse.map", b"0,1"), b"g") + member(), REFUSED),
    "sparse": (header(kind=b"S", size=0, patch={386: b"%011o\0" % 0 * 8, 483: b"%011o\0" % 2**32}), LISTED),
    "sparse with negative parts": (header(kind=b"S", patch={386: b"\xff" * 96, 483: b"\xff" * 12}), LISTED),
    "sparse with parts that are no numbers": (header(kind=b"S", patch={386: b"z" * 96, 483: b"z" * 12}), LISTED),
    "sparse with extensions to the end": (
        header(kind=b"S", patch={482: b"\1"}) + (bytes(504) + b"\1" + bytes(7)) * 3000, REFUSED),
    "sparse 0.0": (pax(GNU__sparse__numblocks=b"1", GNU__sparse__offset=b"-1", GNU__sparse__numbytes=b"x") + member(),
                   LISTED),
    "sparse 0.1": (pax(GNU__sparse__map=b"0,99999999999999999999", GNU__sparse__size=b"99999999999999999999")
                   + member(), LISTED),
    "sparse 0.1 without numbers": (pax(GNU__sparse__map=b"a,b") + member(), LISTED),
    "sparse 1.0": (pax(GNU__sparse__major=b"1", GNU__sparse__minor=b"0", GNU__sparse__realsize=b"9" * 30)
                   + member(data=b"99999999999999\n-1\n"), LISTED),
    "sparse 1.0 with an endless map": (pax(GNU__sparse__major=b"1", GNU__sparse__minor=b"0")
                                       + member(data=b"9" * 5000), LISTED),
    "size below zero": (header(size=b"\xff" * 12), REFUSED),
    "size of -512": (header(size=b"\xff" * 10 + b"\xfe\0"), REFUSED),
    "size of -1 in octal": (header(size=b"-0000000001\0"), REFUSED),
    "size of 2 ** 63": (header(size=b"\x80\0\0\0\x80" + bytes(7)), REFUSED),
    "size of 2 ** 87": (header(size=b"\x80\x80" + bytes(10)), REFUSED),
    "size that is no number": (header(size=b"evil"), REFUSED),
    "size with an underscore": (header(size=b"0000000_004\0"), REFUSED),
    "size beyond the file": (header(size=2**33 - 1), REFUSED),
    "symbolic link": (header(kind=b"2", link=b"/etc/passwd"), LISTED),
    "symbolic link to the parent": (header(kind=b"2", link=b"../../evil"), LISTED),
    "symbolic link beyond PATH_MAX": (
        extension(b"a/../" * 2000 + b"../../outside\0", b"K") + header(kind=b"2"), LISTED),
    "hard link to nothing": (header(kind=b"1", link=b"nothing.jpg"), LISTED),
    "hard link out": (header(kind=b"1", link=b"../../outside/file.txt"), LISTED),
    "character device": (header(kind=b"3"), LISTED),
    "block device": (header(kind=b"4"), LISTED),
    "FIFO": (header(kind=b"6"), LISTED),
    "unknown kind": (member(kind=b"Z"), LISTED),
    "another volume": (member(kind=b"M"), LISTED),
    "name to the parent": (member(b"../evil.jpg"), LISTED),
    "prefix to the parent": (member(prefix=b"../.."), LISTED),
    "no name": (member(b""), LISTED),
    "name of points": (member(b"./."), LISTED),
    "wrong checksum": (b"x" + member()[1:], REFUSED),
    "checksum that is no number": (member()[:148] + b"z" * 8 + member()[156:], REFUSED),
    "absolute name": (member(b"/evil.jpg"), TAKEN),
    "pax path that is absolute": (pax(path=b"//evil.jpg") + member(), TAKEN),
    "pax path that is empty": (pax(path=b"") + member(), TAKEN),
    "pax path that is not UTF-8": (pax(path=b"evil\xe9\xff.jpg") + member(), TAKEN),
    "pax path in Arabic": (pax(path="صورة.jpg".encode()) + member(), TAKEN),
    "pax path that turns text round": (pax(path="evil\u202e.jpg".encode()) + member(), TAKEN),
    "long name": (extension(b"d" * 200 + b"/evil.jpg\0", b"L") + member(), TAKEN),
    "long name with NUL inside": (extension(b"evil.jpg\0b.jpg", b"L") + member(), TAKEN),
    "date that is no number": (pax(mtime=b"nan") + member(modified=b"\xff" * 12), TAKEN),
    "date of 1e300": (pax(mtime=b"1e300") + member(modified=b"zzz"), TAKEN),
    "date of 100,000 digits": (pax(mtime=b"9" * 100_000) + member(), TAKEN),
    "contiguous": (member(kind=b"7"), TAKEN),
    "of version 7": (member(kind=b"\0", magic=b""), TAKEN),
}  # fmt: skip

# Archives that end where they must not.
CUT = {
    "in its first header": member()[:100],
    "in a later header": member() + member()[:100],
    "in a member": member(data=b"evil" * 1000)[:1000],
    "before a member's padding ends": member()[:600],
    "after an extension header": pax(path=b"a.jpg"),
    "after an extension header, with an end mark": pax(path=b"a.jpg") + END,
    "at once": b"",
}

numbers = st.one_of(
    st.integers(0, 2000),
    st.binary(min_size=12, max_size=12),
    st.sampled_from([b"\xff" * 12, b"\x80" + bytes(11), b"\x80\x80" + bytes(10), b"-1", b"9", b"0x10", b" 17 ", b""]),
)
names = st.one_of(
    st.binary(max_size=100),
    st.sampled_from([b"evil.jpg", b"a/evil.jpg", b"../evil.jpg", b"/evil.jpg", b"a/../../evil.jpg", b"a", b"a/b"]),
)
kinds = st.sampled_from([bytes([kind]) for kind in b"000\x001234567SxXgLKDMVZ"])
records = st.builds(
    record,
    st.sampled_from([b"path", b"size", b"mtime", b"linkpath", b"hdrcharset", b"GNU.sparse.map", b"GNU.sparse.size",
                     b"GNU.sparse.major", b"GNU.sparse.name", b"comment"]),
    st.one_of(st.binary(max_size=30), names, st.sampled_from([b"-1", b"0", b"4", b"9" * 30, b"nan", b"\0", b"1,2"])),
)  # fmt: skip
blocks = st.one_of(
    st.builds(
        lambda name, kind, size, link, modified, prefix, data: header(
            name, kind=kind, size=size, link=link, modified=modified, prefix=prefix
        ) + padded(data),
        names, kinds, numbers, names, numbers, st.sampled_from([b"", b"..", b"a", b"/"]), st.binary(max_size=600),
    ),
    st.builds(lambda name, data: member(name, data), names, st.binary(max_size=600)),
    st.builds(lambda several, kind: extension(b"".join(several), kind), st.lists(records, max_size=3),
              st.sampled_from([b"x", b"g", b"L", b"K", b"X"])),
    st.builds(lambda block, times: block * times, st.builds(extension, names, st.sampled_from([b"x", b"L"])),
              st.integers(1, 40)),
    st.sampled_from([blocks for blocks, _ in FORMS.values() if len(blocks) < 2**15]),
)  # fmt: skip
edits = st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=12)), max_size=4)


def edited(archive, edits):
    """Return an archive with bytes changed at these shares of its length, and checksums as they were."""
    data = bytearray(archive)
    for share, some in edits:
        at = int(share * len(data))
        data[at : at + len(some)] = some
    return bytes(data)


def resummed(archive):
    """Return an archive with a right checksum in every block that was meant as a header, as an attacker writes it."""
    data = bytearray(archive)
    for at in range(0, len(data) - BLOCK + 1, BLOCK):
        if data[at + 257 : at + 262] == b"ustar":
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + BLOCK])
    return bytes(data)


archives = st.builds(
    lambda parts, edits, sums, cut: (resummed if sums else bytes)(edited(b"".join(parts) + END, edits))[: cut or None],
    st.lists(blocks, min_size=1, max_size=5),
    edits,
    st.booleans(),
    st.one_of(st.none(), st.integers(1, 5000)),
)
