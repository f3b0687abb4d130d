"""Talk to a gateway over a plain socket, with nothing but the standard library: what a client of any language does.

python talk.py HOST PORT COMMAND BODY       prints the reply's body; exit code 1 if the answer is an error
"""

import socket
import struct
import sys

HEADER = struct.Struct(">IBBHI")  # length of the rest, kind, flags, command, seq
REQUEST, REPLY, ERROR = 0, 1, 4


def talk(host: str, port: int, command: int, body: bytes) -> tuple[int, bytes]:
    """Send one request; return the kind and the body of its answer."""
    with socket.create_connection((host, port), timeout=10) as connection, connection.makefile("rb") as stream:
        connection.sendall(HEADER.pack(8 + len(body), REQUEST, 0, command, 1) + body)
        while True:
            length, kind, _, _, seq = HEADER.unpack(stream.read(HEADER.size))
            answer = stream.read(length - 8)
            if seq == 1 and kind in (REPLY, ERROR):  # anything else is a push
                return kind, answer


if __name__ == "__main__":
    kind, answer = talk(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4].encode())
    if kind == ERROR:
        sys.exit(f"status {int.from_bytes(answer[:2], 'big')}: {answer[2:].decode()}")
    print(answer.decode())
