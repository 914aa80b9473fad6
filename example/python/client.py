"""Talks to a golang-ipc server.

Without --echo it greets the server once a second, shows what comes back and
answers requests, until Ctrl-C, across restarts of the server. With --echo and
--request it checks a server that sends everything back, and exits: with 0 if all
is well, 2 if encryption is not available, and 1 otherwise.
"""

import argparse
import asyncio
import contextlib
import os
import struct
import sys
import time

from ipc_client import Client, EncryptionUnavailable, IpcError

ECHO_TYPE = 5
SEND_EVERY = 0.001  # seconds, with --reconnect


def parse():
    def at_least(minimum):
        def number(text):
            if not text.isascii() or not text.isdigit() or int(text) < minimum:
                raise argparse.ArgumentTypeError(f"needs a number of {minimum} or more")
            return int(text)

        return number

    parser = argparse.ArgumentParser(description="Talks to a golang-ipc server.")
    parser.add_argument("--name", default="example", help="name of the server (example)")
    parser.add_argument("--path", help="its socket, instead of /tmp/NAME.sock")
    parser.add_argument("--encrypted", action="store_true", help="refuse a server that does not encrypt")
    parser.add_argument(
        "--timeout", type=at_least(0), metavar="S",
        help="seconds to wait for a connection, an echo or a reply (30 with what follows, else for ever)",
    )
    tests = parser.add_argument_group("against a server that sends everything back")
    tests.add_argument("--echo", type=at_least(0), metavar="SIZE",
                       help="send messages of SIZE random bytes and check the echoes")
    tests.add_argument("--request", type=at_least(0), metavar="SIZE",
                       help="make requests with SIZE random bytes, all at once, and check the replies")
    tests.add_argument("--count", type=at_least(1), metavar="N", default=1, help="how many, in each session (1)")
    tests.add_argument("--sessions", type=at_least(1), metavar="N", default=1,
                       help="sessions, each with a connection of its own (1)")
    tests.add_argument("--reconnect", action="store_true",
                       help="send numbered messages until the server was restarted and N echoes have come after that")
    options = parser.parse_args()
    is_test = options.echo is not None or options.request is not None or options.reconnect
    if options.timeout is None and is_test:
        options.timeout = 30
    return options


def new_client(options, **more):
    return Client(
        options.name,
        path=options.path,
        encryption=options.encrypted,
        timeout=options.timeout or None,
        **more,
    )


class Mismatch(Exception):
    """The server did not send back what it was sent."""


async def echo(options):
    """Sends and receives at the same time, so that neither side's buffers can fill up and stall both."""
    size, count = options.echo, options.count
    started = time.monotonic()
    for session in range(1, options.sessions + 1):
        # Every message is another window on the same random bytes.
        data = os.urandom(size + count)
        async with new_client(options, reconnect=False) as client:

            async def send():
                for i in range(count):
                    await client.send(ECHO_TYPE, data[i : i + size])

            async def check():
                for i in range(count):
                    got = await client.read(options.timeout or None)
                    if got.type != ECHO_TYPE:
                        raise Mismatch(f"session {session}, echo {i + 1}: type {got.type} came back for {ECHO_TYPE}")
                    if got.data != data[i : i + size]:
                        raise Mismatch(f"session {session}, echo {i + 1}: not the {size} bytes that were sent")

            await asyncio.gather(send(), check())
    seconds = time.monotonic() - started
    return f"ok: {options.sessions} sessions, {options.sessions * count} echoes of {size} bytes, {seconds:.2f} s"


async def request(options):
    """Makes requests, and meanwhile sends back what the server asks."""
    size, count = options.request, options.count
    data = os.urandom(size + count)
    answered = 0
    async with new_client(options, reconnect=False) as client:

        async def ask(i):
            reply = await client.request(ECHO_TYPE, data[i : i + size], options.timeout or None)
            if reply.type != ECHO_TYPE:
                raise Mismatch(f"request {i + 1}: type {reply.type} came back for {ECHO_TYPE}")
            if reply.data != data[i : i + size]:
                raise Mismatch(f"request {i + 1}: not the {size} bytes that were sent")

        async def answer():
            nonlocal answered
            async for message in client:
                if message.is_request:
                    await message.reply(message.type, message.data)
                    answered += 1

        answering = asyncio.create_task(answer())
        await asyncio.gather(*map(ask, range(count)))
    await answering
    return f"ok: {count} requests of {size} bytes, {answered} answered"


async def reconnect(options):
    """Checks what a client may rely on when its server is restarted.

    Messages that a server took with it are lost, so numbers may be missing once
    for each restart. None may come twice, changed or out of order.
    """
    size = max(8, 64 if options.echo is None else options.echo)
    restarts = sent = sent_before = 0

    def on_status(status, reason):
        nonlocal restarts, sent_before
        if status == "disconnected":
            restarts += 1
            sent_before = sent

    def payload(n):
        return struct.pack(">Q", n) + bytes([n & 0xFF]) * (size - 8)

    async with new_client(options, on_status=on_status) as client:

        async def send():
            nonlocal sent
            while True:
                sent += 1
                await client.send(ECHO_TYPE, payload(sent))
                await asyncio.sleep(SEND_EVERY)

        async def check():
            last = gaps = lost = after = 0
            while after < options.count:
                got = await client.read(options.timeout or None)
                if got.type != ECHO_TYPE or len(got.data) < 8:
                    raise Mismatch(f"echo after {last}: type {got.type}, {len(got.data)} bytes")
                (n,) = struct.unpack_from(">Q", got.data)
                if not last < n <= sent:
                    raise Mismatch(f"echo {n} came after {last}, with {sent} sent")
                if got.data != payload(n):
                    raise Mismatch(f"echo {n} is not what was sent")
                missing = n - last - 1
                if missing:
                    gaps += 1
                    lost += missing
                    if gaps > restarts:
                        raise Mismatch(f"{missing} echoes are missing after {last}, without a restart")
                last = n
                if restarts and n > sent_before:
                    after += 1
            return f"ok: {restarts} restarts, {last} sent, {lost} lost with the server"

        sending = asyncio.create_task(send())
        try:
            return await check()
        finally:
            sending.cancel()


async def chat(options):
    def on_status(status, reason):
        if status == "connected":
            how = "encrypted" if client.encrypted else "not encrypted"
            print(f"connected, {how}, messages of up to {client.max_msg_size} bytes", flush=True)
        elif status == "retry":
            print(f"waiting for the server: {reason}", flush=True)
        elif status == "waiting":
            print(f"waiting for a place: {reason}", flush=True)
        else:
            print(f"disconnected: {reason}", flush=True)

    async def greet():
        n = 0
        while True:
            n += 1
            await client.send(1, f"hello {n} from Python".encode())
            await asyncio.sleep(1)

    async def show():
        async for message in client:
            text = message.data.decode(errors="replace")
            print(f"received type {message.type}: {text}", flush=True)
            if message.is_request:
                with contextlib.suppress(OSError, IpcError):  # the server may have lost interest
                    await message.reply(message.type, f"you asked {text}".encode())

    client = new_client(options, on_status=on_status)
    async with client:
        await asyncio.gather(greet(), show())


def main():
    options = parse()
    try:
        if options.reconnect:
            print(asyncio.run(reconnect(options)))
        elif options.request is not None:
            print(asyncio.run(request(options)))
        elif options.echo is not None:
            print(asyncio.run(echo(options)))
        else:
            asyncio.run(chat(options))
    except KeyboardInterrupt:
        pass
    except EncryptionUnavailable as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (OSError, IpcError, Mismatch) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
