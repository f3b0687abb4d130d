"""The hand-made broker: clients on uvloop, a DEALER that hands packets round robin to echo workers (ROUTER sockets).

The socket is driven by its file descriptor inside the loop, without pyzmq's asyncio layer, which is much slower.
Usage: python -m bench.zmq_gateway WORKERS
"""

import asyncio
import subprocess
import sys
from struct import Struct

import uvloop
import zmq

from .gate import Gate
from .ready import serve

TICKET = Struct(">II")  # client number, seq


def worker() -> None:
    socket = zmq.Context().socket(zmq.ROUTER)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    print(port, flush=True)
    receive, send = socket.recv, socket.send
    while True:
        send(receive(), zmq.SNDMORE)  # whose it is
        send(receive())


async def gateway(ports: list[int]) -> None:
    loop = asyncio.get_running_loop()
    socket = zmq.Context().socket(zmq.DEALER)
    socket.set_hwm(0)
    for port in ports:
        socket.connect(f"tcp://127.0.0.1:{port}")
    clients: dict[int, Gate] = {}
    scheduled = False

    def forward(number: int, seq: int, body: bytes) -> None:
        socket.send(TICKET.pack(number, seq) + body, zmq.NOBLOCK)

    def receive() -> None:
        nonlocal scheduled
        scheduled = False
        while True:
            try:
                message = socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            number, seq = TICKET.unpack_from(message)
            client = clients.get(number)
            if client is not None:
                client.reply(seq, message[TICKET.size :])

    def flush() -> None:
        # The descriptor is edge triggered: a send may swallow the edge, so look again after sending.
        nonlocal scheduled
        if not scheduled:
            scheduled = True
            loop.call_soon(receive)

    Gate.clients, Gate.forward, Gate.flush = clients, staticmethod(forward), staticmethod(flush)
    loop.add_reader(int(socket.getsockopt(zmq.FD)), receive)
    await serve(Gate)


def main() -> None:
    if sys.argv[1] == "worker":
        worker()
    command = [sys.executable, "-m", "bench.zmq_gateway", "worker"]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(int(sys.argv[1]))]
    try:
        uvloop.run(gateway([int(process.stdout.readline()) for process in workers if process.stdout]))
    finally:
        for process in workers:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
