"""A client that does what a test tells it: see language_requests_test.go."""

import argparse
import asyncio
import json
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "example" / "python"))
import ipc_client  # noqa: E402

KINDS = {  # the first that fits
    ipc_client.NoRequests: "no requests",
    ipc_client.NotAsked: "not asked",
    ipc_client.RequestCancelled: "cancelled",
    ipc_client.MessageTooLarge: "too large",
    ipc_client.ClosedError: "closed",
    TimeoutError: "timeout",
    ConnectionError: "lost",
    ipc_client.NoReply: "no reply",
}

LONGEST_LINE = 64 * 1024 * 1024


class AsTold(Exception):
    """What a handler raises that is to fail."""


def report(event, **members):
    print(json.dumps({"event": event, **members}), flush=True)


def contents(message):
    return {"type": message.type, "data": message.data.hex()}


def failure(error):
    if isinstance(error, ipc_client.ReplyError):
        return {"kind": "error", "code": error.code, "text": error.text}
    maybe = isinstance(error, ipc_client.NoReply)
    kind = next((kind for what, kind in KINDS.items() if isinstance(error, what)), "other")
    if kind == "no reply" and error.__cause__ is not None:
        kind = "closed" if isinstance(error.__cause__, ipc_client.ClosedError) else "lost"
    return {"kind": kind, "text": str(error), "maybe": maybe}


class Driver:
    def __init__(self, options):
        self.answers = not options.no_handler
        self.client = ipc_client.Client(
            path=options.path, encryption=options.encrypted, retry_timer=0.02, on_status=self.on_status
        )
        self.calls = {}  # by number: the task of each request
        self.orders = {}  # by number of a call for parts: how many to take, or none to leave
        self.handlers = {}  # by number: what a handler has to do
        self.tasks = set()
        self.ended = asyncio.Event()

    @staticmethod
    def on_status(status, reason):
        if status != "retry":
            report(status[: status.index("ed")])

    def start(self, work):
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.done)
        return task

    def start_call(self, call, work):
        def done(task):
            if task.cancelled():  # before it began
                report("failed", call=call, kind="cancelled")

        self.calls[call] = self.start(work)
        self.calls[call].add_done_callback(done)

    def done(self, task):
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            raise task.exception()  # a fault of the driver's, which the event loop prints

    def do(self, command):
        do = command.pop("do")
        if "request" in command:
            self.handlers[command.pop("request")].put_nowait((do, command))
        elif do == "request":
            self.start_call(command["call"], self.request(**command))
        elif do == "parts":
            self.orders[command["call"]] = asyncio.Queue()
            self.start_call(command["call"], self.parts(**command))
        elif do == "take":
            self.orders[command["call"]].put_nowait(command["count"])
        elif do == "leave":
            self.orders[command["call"]].put_nowait(0)
        elif do == "cancel":
            self.calls[command["call"]].cancel()
        elif do == "send":
            self.start(self.client.send(command["type"], bytes.fromhex(command.get("data", ""))))
        elif do == "close":
            self.start(self.close())

    async def request(self, call, type, data="", timeout=None, **_):
        try:
            reply = await self.client.request(type, bytes.fromhex(data), timeout and timeout / 1000)
        except asyncio.CancelledError as error:
            report("failed", call=call, kind="cancelled", maybe=isinstance(error.__cause__, ipc_client.NoReply))
        except Exception as error:
            report("failed", call=call, **failure(error))
        else:
            report("reply", call=call, **contents(reply))

    async def parts(self, call, type, data="", take=None, **_):
        part = None
        try:
            async for part in self.client.request_parts(type, bytes.fromhex(data)):
                report("part", call=call, **contents(part))
                if take is not None:
                    take -= 1
                if take == 0:
                    take = await self.orders[call].get()
                    if take == 0:
                        report("left", call=call)
                        return
        except asyncio.CancelledError as error:
            maybe = part is not None or isinstance(error.__cause__, ipc_client.NoReply)
            report("failed", call=call, kind="cancelled", maybe=maybe)
        except Exception as error:
            report("failed", call=call, **failure(error))
        else:
            report("end", call=call)

    async def read(self):
        while True:
            self.take(await self.client.read())

    def take(self, message):
        if not message.is_request:
            report("message", **contents(message))
        elif self.answers:
            number = len(self.handlers) + 1
            self.handlers[number] = asyncio.Queue()
            report("request", request=number, **contents(message), parts=message.parts_welcome)
            self.start(self.watch(number, message))
            self.start(self.handle(number, message))

    async def watch(self, number, request):
        if await request.wait_cancelled():
            report("cancelled", request=number)

    async def handle(self, number, request):
        try:
            with request:
                while True:
                    do, command = await self.handlers[number].get()
                    if do == "return":
                        return
                    if do == "raise":
                        raise AsTold
                    try:
                        await self.answer(request, do, **command)
                    except Exception as error:
                        report("refused", request=number, **failure(error))
                    else:
                        report("answered", request=number)
        except AsTold:
            pass

    @staticmethod
    async def answer(request, do, type=0, data="", code=0, text="", **_):
        if do == "reply":
            await request.reply(type, bytes.fromhex(data))
        elif do == "part":
            await request.reply_part(type, bytes.fromhex(data))
        elif do == "end":
            await request.reply_end()
        elif do == "error":
            await request.reply_error(code, text)

    async def close(self):
        await self.client.close()
        for task in self.calls.values():
            await asyncio.wait([task])
        self.ended.set()

    async def run(self):
        self.start(self.take_commands())
        await self.client.connect()
        reading = asyncio.create_task(self.read())
        await self.ended.wait()
        try:
            await reading
        except ipc_client.ClosedError:
            pass

    async def take_commands(self):
        commands = asyncio.StreamReader(limit=LONGEST_LINE)
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
        )
        while line := await commands.readline():
            self.do(json.loads(line))
        os._exit(1)


async def main(options):
    await Driver(options).run()


parser = argparse.ArgumentParser()
parser.add_argument("--path", required=True)
parser.add_argument("--encrypted", action="store_true")
parser.add_argument("--no-handler", action="store_true")
parser.add_argument("--key", type=lambda scalar: int(scalar, 16))
parser.add_argument("--prefix", type=bytes.fromhex)
options = parser.parse_args()
if options.key:
    ipc_client.ec.generate_private_key = lambda curve: ipc_client.ec.derive_private_key(options.key, curve)
if options.prefix:
    ipc_client.os.urandom = lambda n: options.prefix
asyncio.run(main(options))
