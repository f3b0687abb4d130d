"""The client wire as the bench needs it: requests of one fixed size, cut by offset."""

from struct import Struct

HEADER = Struct(">IBBHI")  # length, kind, flags, command, seq
BODY = bytes(range(64))
SIZE = HEADER.size + len(BODY)  # bytes of every request and every reply
COMMAND = 101  # echo, in the reference workers of all languages
REQUEST, REPLY = 0, 1


def request(seq: int) -> bytes:
    return HEADER.pack(SIZE - 4, REQUEST, 0, COMMAND, seq) + BODY
