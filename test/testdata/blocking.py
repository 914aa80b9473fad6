"""Does what a program without asyncio may do: see TestPythonBlocking."""

import concurrent.futures
import contextlib
import gc
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "example" / "python"))
from ipc_client import (  # noqa: E402
    BlockingClient,
    ClosedError,
    NotAsked,
    NoReply,
    ReplyError,
    ReplyTimeout,
)

# Types of messages: what the test's server does with them.
ECHO, PARTS, FAIL, HOLD, FLOOD, CANCELLED, ASK, INTERRUPT, STICK = range(1, 10)


def raises(kind, call, *args):
    try:
        result = call(*args)
    except kind as error:
        return error
    raise AssertionError(f"{result} instead of {kind.__name__}")


def wait_for_cancel(client):
    """The server says so when a request of the type FLOOD or INTERRUPT has been cancelled."""
    assert client.request(CANCELLED, b"").type == CANCELLED


def check_requests(client):
    def ask(i):
        return client.request(ECHO, b"%d" % i).data

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        assert list(pool.map(ask, range(500))) == [b"%d" % i for i in range(500)]
    assert [part.data for part in client.request_parts(PARTS, b"3")] == [b"1", b"2", b"3"]
    error = raises(ReplyError, client.request, FAIL, b"so it is")
    assert (error.code, error.text) == (7, "so it is")
    raises(ValueError, client.request, 0, b"")
    raises(TypeError, client.request, ECHO, "a string")


def check_giving_up(client):
    error = raises(ReplyTimeout, client.request, HOLD, b"", 0.01)
    assert isinstance(error, NoReply) and isinstance(error, TimeoutError)
    raises(ReplyTimeout, list, client.request_parts(HOLD, b"", 0.01))
    with contextlib.closing(BlockingClient("not connected")) as other:
        for timeout in (0, 0.01):
            error = raises(TimeoutError, other.request, HOLD, b"", timeout)
            assert not isinstance(error, NoReply)

    for part in client.request_parts(FLOOD, b""):
        assert part.data == b"more"
        break
    gc.collect()
    wait_for_cancel(client)
    parts = client.request_parts(FLOOD, b"")
    next(parts)
    parts.close()
    wait_for_cancel(client)


def check_answering(client):
    """The server asks, while it is asked."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.request, ASK, b"one")
        request = client.read()
        assert request.is_request and not request.parts_welcome and not request.cancelled
        raises(NotAsked, request.reply_part, ECHO, b"")
        request.reply(ECHO, request.data + b" and two")
        assert request.wait_cancelled() is False
        raises(NotAsked, request.reply, ECHO, b"")
        assert asked.result().data == b"one and two"

        for answer in (lambda request: request.__exit__(), lambda request: None):
            asked = pool.submit(client.request, ASK, b"")
            answer(client.read())
            gc.collect()
            assert raises(ReplyError, asked.result).text.count("without a reply")

        asked = pool.submit(client.request, ASK, b"")
        with client.read() as request:
            request.reply_error(8, "no")
        assert "code 8" in raises(ReplyError, asked.result).text
    raises(TimeoutError, client.read, 0.01)


def check_interrupt(client):
    """The test sends the signal when its server has the request."""
    raises(KeyboardInterrupt, client.request, INTERRUPT, b"")
    wait_for_cancel(client)


def check_close(client):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        asked = pool.submit(client.request, STICK, b"")
        assert client.read().type == STICK  # so the server has the request
        iterating = pool.submit(list, client)
        unfinished = client.request_parts(FLOOD, b"")
        next(unfinished)
        client.close()
        client.close()
        assert isinstance(raises(NoReply, asked.result).__cause__, ClosedError)
        assert iterating.result() == []
    raises(ClosedError, next, unfinished)
    for call in (client.read, client.connect):
        raises(ClosedError, call)
    for call in (client.request, client.send):
        raises(ClosedError, call, ECHO, b"")


def main(path, encrypted):
    with BlockingClient(path=path, encryption=encrypted) as client:
        for check in (check_requests, check_giving_up, check_answering, check_interrupt, check_close):
            check(client)
    print("ok: all of it")


main(sys.argv[2], "--encrypted" in sys.argv)
