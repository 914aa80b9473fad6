"""A client for golang-ipc servers, with Python's standard library (3.9 or later).

PROTOCOL.md, at the top of the repository, describes what it speaks. Encrypted
connections need the package "cryptography".

    async with Client("example") as client:
        await client.send(1, b"hello")
        reply = await client.request(2, b"how are you?", timeout=5)
        async for message in client:
            print(message.type, message.data)

BlockingClient is for programs that do not use asyncio.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import hashlib
import os
import random
import socket
import struct
import threading
import time
from typing import AsyncIterator, Awaitable, Callable, Iterator, NamedTuple, Optional

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
except ImportError:
    ec = None

VERSION = 2
GO_ON, VERSION_DIFFERS, ENCRYPTION_REQUIRED = b"\x00", b"\x01", b"\x02"

TYPE_SIZE = 4
NONCE_SIZE = 12
TAG_SIZE = 16
PUBLIC_KEY_SIZE = 97
MAX_TYPE = 2**31 - 1
MAX_MSG_SIZE = 2**31 - 64  # whatever a server says

CONTROL_TYPE = 0
CONTROL = struct.Struct(">BBxxIQ")  # kind, flags, a number, an id: what precedes the payload
ANNOUNCE, REQUEST, REPLY, PART, ERROR, CANCEL = range(1, 7)  # kinds of control frames
PARTS_WELCOME = 1  # a flag of REQUEST
ANNOUNCE_START = bytes([ANNOUNCE]) + b"ipc"
MAX_REQUESTS = 1024  # without an answer, in each direction
ANNOUNCEMENT = ANNOUNCE_START + struct.pack(">BBHII", 1, 0, 0, MAX_REQUESTS, 0)
ANNOUNCED_WITHIN = 5.0  # seconds

READ_SIZE = 256 * 1024
INBOX_SIZE = 1024 * 1024  # bytes that are held unread before the socket is left to fill up
MESSAGE_COST = 100  # what a message counts there besides its data
FIRST_PAUSE = 0.005  # seconds
STABLE_AFTER = 1.0
FLUSH_LIMIT = 1.0
PLACE_GRACE = 1.0  # after which it is worth telling that the server has no place
PERMISSION_GRACE = 0.25  # a server that is starting may be about to open its socket to us

# A server that is starting, stopping or very busy: worth another attempt.
TRANSIENT = (FileNotFoundError, ConnectionError, BlockingIOError)


class IpcError(Exception):
    """What this module raises, besides OSError and TimeoutError."""


class ClosedError(IpcError):
    """The client was closed."""


class ProtocolError(IpcError):
    """The server broke the rules of the wire format."""


class VersionError(IpcError):
    """The server speaks another version of the protocol."""


class EncryptionRequired(IpcError):
    """The client insists on encryption, and the server does not encrypt."""


class EncryptionUnavailable(IpcError):
    """The package "cryptography" is not installed."""

    def __init__(self) -> None:
        super().__init__('encryption needs the package "cryptography": pip install cryptography')


class MessageTooLarge(IpcError):
    """The message exceeds the server's limit."""


class ReplyError(IpcError):
    """The other side's answer to a request, where that is an error."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} (code {code})")
        self.code = code
        self.text = text


class NoRequests(IpcError):
    """The server knows no requests."""


class NoReply(IpcError):
    """The request was sent, and no reply will come. The server may have handled it."""


class ReplyTimeout(NoReply, TimeoutError):
    """No reply came in time. The server may have handled the request."""


class NotAsked(IpcError):
    """The request has its answer already, or does not take one in parts."""


class RequestCancelled(IpcError):
    """The server has given up the request that was to be answered."""


class Message(NamedTuple):
    type: int
    data: bytes

    is_request = False


class Request(Message):
    """A message of the server's that it waits for an answer to: exactly one.

    The methods that answer return when the kernel has the answer, which goes over
    the connection that the request came by, or not at all. With these nothing is
    sent: NotAsked if there was an answer, RequestCancelled, a ConnectionError if
    the connection was lost, ClosedError, MessageTooLarge. Cancelling them does not
    take the answer back.

    Leaving a "with" block for a request says that there is no reply, unless there
    was one. So does the end of the last reference to the request.
    """

    is_request = True
    _question: Optional[_Question] = None

    @classmethod
    def _of(cls, question: _Question, msg_type: int, data: bytes) -> Request:
        request = cls(msg_type, data)
        request._question = question
        return request

    @property
    def parts_welcome(self) -> bool:
        """Whether the server takes an answer in parts."""
        return self._question.parts_welcome

    @property
    def cancelled(self) -> bool:
        """Whether the server gave up, or its connection was lost, before there was an answer."""
        return self._question.cancelled

    async def wait_cancelled(self) -> bool:
        """Waits for that, or until there is an answer, and returns which it was."""
        await self._question.over.wait()
        return self.cancelled

    async def reply(self, msg_type: int, data: bytes) -> None:
        """Answers, or sends the last part of an answer."""
        _check_number("message type", msg_type)
        await self._question.answer(REPLY, msg_type, _bytes_of(data))

    async def reply_part(self, msg_type: int, data: bytes) -> None:
        """Sends a part of the answer, where that is welcome."""
        _check_number("message type", msg_type)
        self._check_parts()
        await self._question.answer(PART, msg_type, _bytes_of(data))

    async def reply_end(self) -> None:
        """Ends an answer in parts after the last one."""
        self._check_parts()
        await self._question.answer(REPLY, 0, b"")

    async def reply_error(self, code: int, text: str) -> None:
        """Answers with an error. Code is the program's, 1 … 2147483647."""
        _check_number("code", code)
        await self._question.answer(ERROR, code, text.encode())

    def _check_parts(self) -> None:
        if not self.parts_welcome:
            raise NotAsked("the request takes one reply, and no parts")

    def __enter__(self) -> Request:
        return self

    def __exit__(self, *exc: object) -> None:
        self._question.drop()

    def __del__(self) -> None:
        if self._question is not None:
            self._question.forget()


class Client:
    """A connection that comes back. Create and use it within one event loop.

    name        the server's name
    socket_dir  where its socket is
    path        the socket itself, instead of both
    encryption  refuse a server that does not encrypt; False follows the server
    reconnect   False ends the client with its first connection
    timeout     seconds to connect, and to reconnect; None is for ever
    retry_timer the longest pause between two attempts, in seconds
    on_status   called with "connected" and None, with "disconnected" and the
                reason, with "retry" and why an attempt to connect failed, once
                for each new reason, and with "waiting" and an IpcError when the
                server is there and has had no place for this client for a second
    """

    def __init__(
        self,
        name: str = "",
        *,
        socket_dir: str = "/tmp",
        path: Optional[str] = None,
        encryption: bool = False,
        reconnect: bool = True,
        timeout: Optional[float] = None,
        retry_timer: float = 20.0,
        on_status: Callable[[str, Optional[Exception]], None] = lambda status, reason: None,
    ) -> None:
        if not name and path is None:
            raise ValueError("a name or a path is needed")
        if encryption and ec is None:
            raise EncryptionUnavailable
        self._path = path if path is not None else f"{socket_dir}/{name}.sock"
        self._encryption = encryption
        self._reconnect = reconnect
        self._timeout = timeout
        self._retry_timer = retry_timer
        self._on_status = on_status
        self._pause = 0.0
        self._reason: Optional[Exception] = None  # why there is no connection yet
        self._task: Optional[asyncio.Task] = None
        self._link: Optional[_Link] = None
        self._end: Optional[Exception] = None  # why there will be no more connection
        self._inbox: collections.OrderedDict[object, Message] = collections.OrderedDict()  # by a key of its own
        self._unread = 0  # the cost of what it holds, and of parts
        self._frames: collections.deque[_Frame] = collections.deque()  # messages that are on no connection
        self._calls: collections.OrderedDict[_Call, None] = collections.OrderedDict()  # likewise
        self._waiters: set[asyncio.Future] = set()

    @property
    def encrypted(self) -> bool:
        """Whether there is a connection and it is encrypted."""
        return self._link is not None and self._link.encrypted

    @property
    def max_msg_size(self) -> int:
        """What the server takes in one message; 0 without a connection."""
        return self._link.max_msg_size if self._link else 0

    async def connect(self) -> None:
        """Returns when the client is connected.

        A server that is not there yet is waited for; a server of another
        version or without the encryption that is insisted on is not. After the
        client's timeout it raises a TimeoutError, whose cause is what kept it from
        being connected.
        """
        if self._task is None and self._end is None:
            self._task = asyncio.create_task(self._run())
        try:
            await self._connection()
        except asyncio.CancelledError:
            await self.close()
            raise

    async def send(self, msg_type: int, data: bytes) -> None:
        """Sends one message and returns when the kernel has all of it.

        Without a connection it waits for one, and a message that a lost
        connection cut off is sent again, whole, on the next. Messages keep
        their order, also among requests. If send() is cancelled, the message is
        sent whole or not at all.
        """
        _check_number("message type", msg_type)
        frame = _Frame(msg_type, _bytes_of(data))
        if self._link is not None:
            self._link.put_message(frame)
        elif self._end is None:
            self._frames.append(frame)
        else:
            raise self._end
        try:
            await frame.wait()
        except asyncio.CancelledError:
            frame.repeats = False
            if frame in self._frames:
                self._frames.remove(frame)
            elif self._link is not None:
                self._link.take_back(frame)
            raise

    async def request(self, msg_type: int, data: bytes, timeout: Optional[float] = None) -> Message:
        """Sends a message that the server answers, and returns the reply.

        Any number of requests may be under way. Without a connection it waits for
        one. What it raises tells what has become of the request:

        ReplyError    is the server's answer
        NoReply       it was sent, and no reply will come: the server may have
                      handled it, and it is not sent again. The cause is that of a
                      lost connection; it is None if the server said so.
        ReplyTimeout  is a NoReply and a TimeoutError: it was sent, and then given up
        NoRequests    the server knows none
        any other     it was not handled: TimeoutError, MessageTooLarge, ClosedError

        A request that is cancelled, or not answered in time, is also cancelled for
        the server. The CancelledError has a NoReply as its cause if it was sent.

        What comes before the reply is left for read(). If that gets too much, the
        reply waits until the program reads.
        """
        call = self._new_call(msg_type, data, False, timeout)
        try:
            return await self._next_answer(call)
        finally:
            self._leave(call)

    async def request_parts(
        self, msg_type: int, data: bytes, timeout: Optional[float] = None
    ) -> AsyncIterator[Message]:
        """Is request() for an answer in any number of parts: iterate over them.

        An answer that breaks off raises what request() does. Leaving the loop
        cancels the request, when Python closes this generator: contextlib.aclosing
        is for those who need that at once. The timeout is for all of the answer.
        Parts that were not taken count as unread messages.
        """
        call = self._new_call(msg_type, data, True, timeout)
        try:
            while True:
                part = await self._next_answer(call)
                if part is None:
                    return
                yield part
        finally:
            self._leave(call)

    async def read(self, timeout: Optional[float] = None) -> Message:
        """Returns the next message, which may be a Request. A TimeoutError costs none."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._inbox and self._end is None:  # another reader may be first
            left = None if deadline is None else deadline - time.monotonic()
            try:
                await asyncio.wait_for(self._until(lambda: self._inbox or self._end), left)
            except asyncio.TimeoutError:
                raise TimeoutError("no message came in time") from None
        if self._inbox:
            return self._take(next(iter(self._inbox)))
        raise self._end

    async def close(self) -> None:
        """Sends what send() and others have begun, for a second at most, and disconnects."""
        if self._link is not None:
            try:
                await asyncio.wait_for(self._link.flush(), FLUSH_LIMIT)
            except asyncio.TimeoutError:
                pass
        if self._task is None:
            self._finish(ClosedError("the client was closed"))
        else:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def __aenter__(self) -> Client:
        await self.connect()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def __aiter__(self):
        try:
            while True:
                yield await self.read()
        except ClosedError:
            return

    async def _run(self) -> None:
        first = True
        try:
            while True:
                link = await self._dial(first)
                first = False
                try:
                    await self._receive(link)
                except (OSError, IpcError) as error:
                    reason = error
                except asyncio.CancelledError:
                    reason = ClosedError("the client was closed")
                    raise
                except BaseException as error:
                    reason = error
                    raise
                finally:
                    self._detach(link, reason)
                if not self._reconnect:
                    raise reason
                self._on_status("disconnected", reason)
        except asyncio.CancelledError:
            self._finish(ClosedError("the client was closed"))
        except Exception as error:
            self._finish(error)

    async def _dial(self, first: bool) -> _Link:
        self._reason = None
        try:
            return await asyncio.wait_for(self._attempt(first), self._timeout)
        except asyncio.TimeoutError:
            text = f"timed out trying to {'connect' if first else 're-connect'} to {self._path}"
            if self._reason is not None:
                text += f": {getattr(self._reason, 'strerror', None) or self._reason}"
            raise TimeoutError(text) from self._reason

    async def _attempt(self, first: bool) -> _Link:
        """Tries until there is a connection; the pauses grow, and are never all the same."""
        told = ""
        since = time.monotonic()
        while True:
            await asyncio.sleep(self._pause * random.uniform(0.5, 1))
            self._pause = min(max(FIRST_PAUSE, 2 * self._pause), self._retry_timer)
            try:
                return await _Link.open(self._path, self._encryption, self._await_server)
            except (OSError, IpcError) as error:
                self._reason = error
                # The server may be replaced by one that fits, so only a client
                # that has never been connected gives up.
                passing = isinstance(error, TRANSIENT) or (
                    isinstance(error, PermissionError) and time.monotonic() - since < PERMISSION_GRACE
                )
                if first and not passing:
                    raise
                if str(error) != told:
                    self._on_status("retry", error)
                told = str(error)

    def _await_server(self, reason: IpcError, long: bool) -> None:
        """Is told what an attempt waits for, as an error, and then if it takes long."""
        self._reason = reason
        if long:
            self._on_status("waiting", reason)

    async def _receive(self, link: _Link) -> None:
        """Moves messages from the connection to read(), at the reader's pace."""
        self._link = link
        self._wake()
        self._on_status("connected", None)
        while self._frames:
            link.put_message(self._frames.popleft())
        self._await_announcement(link)
        since = time.monotonic()
        try:
            while True:
                if self._unread > INBOX_SIZE:
                    await self._until(lambda: self._unread <= INBOX_SIZE)
                msg_type, data = await link.receive()
                if msg_type == CONTROL_TYPE:
                    self._obey(link, data)
                else:
                    self._pause = 0.0  # it works: the next loss is worth an attempt at once
                    self._put(object(), Message(msg_type, data))
        finally:
            if time.monotonic() - since >= STABLE_AFTER:
                self._pause = 0.0

    def _put(self, key: object, message: Message) -> None:
        self._inbox[key] = message
        self._unread += _cost(message)
        self._wake()

    def _take(self, key: object) -> Message:
        message = self._inbox.pop(key)
        self._taken(message)
        return message

    def _taken(self, message: Message) -> None:
        self._unread -= _cost(message)
        self._wake()  # there may be room again

    def _detach(self, link: _Link, reason: BaseException) -> None:
        """Takes back what the lost connection has not sent, and ends the requests that it has."""
        self._link = None
        link.close(reason)
        if link.timer is not None:
            link.timer.cancel()
        for frame in link.unsent():
            if frame.type == CONTROL_TYPE:
                frame.fail(link.lost())
            elif frame.repeats:
                self._frames.append(frame)
        unsent = []
        for call in link.calls.values():
            if call.ended:
                continue
            if call.frame.sent:
                call.end(_caused(NoReply("the connection was lost before the reply came"), reason))
            else:
                call.frame = None
                unsent.append(call)
        for call in reversed(unsent):
            self._calls[call] = None
            self._calls.move_to_end(call, last=False)
        for question in link.questions.values():
            self._cancel(question)
        self._wake()

    def _finish(self, reason: Exception) -> None:
        self._end = self._end or reason
        while self._calls:
            call, _ = self._calls.popitem(last=False)
            call.end(self._end)
        while self._frames:
            self._frames.popleft().fail(self._end)
        self._wake()

    def _new_call(self, msg_type: int, data: bytes, parts: bool, timeout: Optional[float]) -> _Call:
        _check_number("message type", msg_type)
        call = _Call(msg_type, _bytes_of(data), parts)
        if self._end is not None:
            raise self._end
        if timeout is not None:
            if timeout <= 0:
                raise TimeoutError("there is no time for the request")
            call.timer = asyncio.get_running_loop().call_later(timeout, self._expire, call)
        self._calls[call] = None
        self._issue()
        return call

    async def _next_answer(self, call: _Call) -> Optional[Message]:
        """The next answer, or None after the last."""
        try:
            while not call.answers and not call.ended:
                await call.news()
        except asyncio.CancelledError as error:
            self._give_up(call, None)
            if call.may_be_handled:
                raise error from NoReply("the request was cancelled after it was sent")
            raise
        if call.answers:
            answer = call.answers.popleft()
            self._taken(answer)
            return answer
        if call.error is not None:
            raise call.error
        return None

    def _leave(self, call: _Call) -> None:
        if call.timer is not None:
            call.timer.cancel()
        self._give_up(call, None)

    def _expire(self, call: _Call) -> None:
        if not call.ended:
            why = " while too many messages are unread" if self._unread > INBOX_SIZE else ""
            if call.may_be_handled:
                self._give_up(call, ReplyTimeout(f"no reply came in time{why}"))
            else:
                self._give_up(call, TimeoutError(f"the request could not be sent in time{why}"))

    def _give_up(self, call: _Call, error: Optional[Exception]) -> None:
        """Ends a call and drops what has come for it. If it was sent, it keeps its place until the server ends it."""
        while call.answers:
            self._taken(call.answers.popleft())
        if call.ended:
            return
        call.end(error)
        if call.frame is None:
            del self._calls[call]
        elif call.link.take_back(call.frame):
            del call.link.calls[call.id]
            call.frame = None
            self._issue()
        else:
            call.link.put_control(CANCEL, 0, 0, call.id)

    def _await_announcement(self, link: _Link) -> None:
        """A server that knows requests says so at once."""

        def expire() -> None:
            if self._unread > INBOX_SIZE:
                self._await_announcement(link)  # it may have come, and is not read
            else:
                link.places = 0
                self._issue()

        if link.places is None:
            link.timer = asyncio.get_running_loop().call_later(ANNOUNCED_WITHIN, expire)

    def _issue(self) -> None:
        """Gives the connection as many of the waiting calls as the server accepts."""
        link = self._link
        while self._calls and link is not None and link.places is not None:
            call = next(iter(self._calls))
            limit = link.max_msg_size - CONTROL.size
            if link.places == 0:
                call.end(NoRequests("the server knows no requests"))
            elif len(call.data) > limit:
                call.end(MessageTooLarge(f"{len(call.data)} bytes exceed the server's limit of {limit} for a request"))
            elif len(link.calls) < link.places:
                link.issue(call)
            else:
                return  # until one has ended
            del self._calls[call]

    def _obey(self, link: _Link, data: bytes) -> None:
        """Acts on a control frame."""
        control = _parse_control(data, link.announced)
        if control is None:
            return
        if control.kind == ANNOUNCE:
            if not link.announced:
                link.announced = True
                link.places = min(control.n, MAX_REQUESTS)
                link.timer.cancel()
                self._issue()
        elif control.kind == REQUEST:
            question = link.ask(control)
            self._put(question, Request._of(question, control.n, control.payload))
        elif control.kind == CANCEL:
            control.check_id(link.last_question)
            question = link.questions.get(control.id)
            if question is not None:
                self._cancel(question)
        else:
            self._take_answer(link, control)

    def _cancel(self, question: _Question) -> None:
        """Ends a request of the server's that it does not wait for any more."""
        if question.answered:
            return
        question.cancelled = True
        question.drop()
        if question in self._inbox:
            self._take(question)

    def _take_answer(self, link: _Link, control: _Control) -> None:
        control.check_id(link.last_call)
        call = link.calls.get(control.id)
        if call is None:
            return  # it has ended
        if not call.frame.sent:
            raise ProtocolError(f"an answer to request {control.id}, which was not sent")
        if control.kind == PART and not call.parts:
            raise ProtocolError(f"a part for request {control.id}, which takes one reply")
        if not call.ended and control.kind != ERROR and control.n > 0:
            answer = Message(control.n, control.payload)
            self._unread += _cost(answer)
            call.add(answer)
        if control.kind != PART:
            del link.calls[control.id]
            if not call.ended:
                call.end(call.final_error(control))
            self._issue()

    async def _connection(self) -> _Link:
        await self._until(lambda: self._link or self._end)
        if self._link is None:
            raise self._end
        return self._link

    async def _until(self, condition: Callable[[], object]) -> None:
        while not condition():
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


class BlockingClient:
    """A Client for programs without asyncio, and for any number of threads.

    It takes what Client does, and does it in a thread of its own, which also calls
    on_status (which must not call this client). A KeyboardInterrupt ends the wait
    of the call that it comes upon: a request is then cancelled for the server too.
    """

    def __init__(self, name: str = "", **options) -> None:
        self._loop = asyncio.new_event_loop()
        self._jobs: set[asyncio.Task] = set()
        self._lock = threading.RLock()  # garbage may be collected, and a generator closed, while it is held
        self._closed = False  # written with the lock
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

        async def make() -> Client:
            return Client(name, **options)

        try:
            self._client = self._wait(make())
        except BaseException:
            self._stop()
            raise

    def connect(self) -> None:
        """Is Client.connect."""
        self._wait(self._client.connect())

    def send(self, msg_type: int, data: bytes) -> None:
        """Is Client.send."""
        self._wait(self._client.send(msg_type, data))

    def request(self, msg_type: int, data: bytes, timeout: Optional[float] = None) -> Message:
        """Is Client.request."""
        return self._wait(self._client.request(msg_type, data, timeout))

    def request_parts(self, msg_type: int, data: bytes, timeout: Optional[float] = None) -> Iterator[Message]:
        """Is Client.request_parts: a generator, and closing it cancels the request."""
        parts = self._client.request_parts(msg_type, data, timeout)

        async def next_part() -> Optional[Message]:
            async for part in parts:
                return part
            return None

        try:
            while True:
                part = self._wait(next_part())
                if part is None:
                    return
                yield part
        finally:
            # Without waiting for it: this may run where garbage is collected,
            # which may be in the thread that does the work.
            with contextlib.suppress(ClosedError):
                self._start(_Job(parts.aclose(), self._jobs))

    def read(self, timeout: Optional[float] = None) -> Message:
        """Is Client.read. The methods of a request that it returns wait as well."""
        message = self._wait(self._client.read(timeout))
        return BlockingRequest._of(message, self) if message.is_request else message

    def close(self) -> None:
        """Is Client.close. Nothing can be read after it."""
        with self._lock:
            if self._closed:
                return
            self._closed = True

        async def close() -> None:
            await self._client.close()
            # Those that wait in a call get to know first.
            await asyncio.gather(*self._jobs, return_exceptions=True)
            await self._loop.shutdown_asyncgens()

        asyncio.run_coroutine_threadsafe(close(), self._loop).result()
        self._stop()

    def __enter__(self) -> BlockingClient:
        try:
            self.connect()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Message]:
        try:
            while True:
                yield self.read()
        except ClosedError:
            return

    def _wait(self, work: Awaitable):
        """Has the thread do something, and returns what that returns."""
        job = _Job(work, self._jobs)
        try:
            return self._start(job).result()
        except BaseException:
            # A KeyboardInterrupt can come anywhere after the try.
            self._give_up(job)
            raise

    def _start(self, job: _Job) -> concurrent.futures.Future:
        with self._lock:
            if not self._closed:
                return asyncio.run_coroutine_threadsafe(job.run(), self._loop)
        job.work.close()
        raise ClosedError("the client was closed")

    def _give_up(self, job: _Job) -> None:
        with self._lock:
            if not self._closed and not job.done:
                self._loop.call_soon_threadsafe(job.give_up)

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Job:
    """Something that a thread waits for, in the event loop."""

    def __init__(self, work: Awaitable, jobs: set[asyncio.Task]) -> None:
        self.work = work
        self.done = False
        self._jobs = jobs
        self._task: Optional[asyncio.Task] = None
        self._given_up = False

    async def run(self):
        self._task = asyncio.current_task()
        self._jobs.add(self._task)
        try:
            if self._given_up:
                self.work.close()
                raise asyncio.CancelledError
            return await self.work
        finally:
            self.done = True
            self._jobs.discard(self._task)

    def give_up(self) -> None:
        self._given_up = True
        if self._task is not None:
            self._task.cancel()


class BlockingRequest(Message):
    """Is Request for a BlockingClient."""

    is_request = True

    @classmethod
    def _of(cls, request: Request, client: BlockingClient) -> BlockingRequest:
        self = cls(*request)
        self._request = request
        self._client = client
        return self

    @property
    def parts_welcome(self) -> bool:
        return self._request.parts_welcome

    @property
    def cancelled(self) -> bool:
        return self._request.cancelled

    def wait_cancelled(self) -> bool:
        return self._client._wait(self._request.wait_cancelled())

    def reply(self, msg_type: int, data: bytes) -> None:
        self._client._wait(self._request.reply(msg_type, data))

    def reply_part(self, msg_type: int, data: bytes) -> None:
        self._client._wait(self._request.reply_part(msg_type, data))

    def reply_end(self) -> None:
        self._client._wait(self._request.reply_end())

    def reply_error(self, code: int, text: str) -> None:
        self._client._wait(self._request.reply_error(code, text))

    def __enter__(self) -> BlockingRequest:
        return self

    def __exit__(self, *exc: object) -> None:
        self._request._question.forget()


class _Link:
    """One connection: its handshake, and the frames after it."""

    def __init__(self, path: str) -> None:
        self.max_msg_size = 0
        self.announced = False  # the server knows requests
        self.places: Optional[int] = None  # how many it accepts, once that is known
        self.timer: Optional[asyncio.TimerHandle] = None  # until then
        self.calls: dict[int, _Call] = {}  # by id: those that hold a place
        self.last_call = 0
        self.questions: dict[int, _Question] = {}  # by id: those that hold a place of ours
        self.last_question = 0
        self.loss: Optional[BaseException] = None
        self.loop = asyncio.get_running_loop()
        self._seal: Optional[_Seal] = None
        self._buffer = bytearray()
        self._frames: collections.deque[_Frame] = collections.deque()  # that the kernel does not have whole
        self._is_waiting = False  # for the kernel
        self._flushed: Optional[asyncio.Future] = None
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._sock.setblocking(False)
            # Not loop.sock_connect: a Unix socket connects at once or not at
            # all, and that call takes EAGAIN, a full backlog, for success.
            self._sock.connect(path)
        except BaseException as error:
            self._sock.close()
            if isinstance(error, OSError):
                error.filename = path  # which connect leaves out
            raise

    @classmethod
    async def open(cls, path: str, insist_on_encryption: bool, waiting: Callable[[IpcError, bool], None]) -> _Link:
        link = cls(path)
        try:
            await link._handshake(insist_on_encryption, waiting)
        except BaseException as error:
            link.close(error)
            raise
        return link

    @property
    def encrypted(self) -> bool:
        return self._seal is not None

    def close(self, reason: BaseException) -> None:
        self.loss = reason
        self._rest()
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._sock.close()

    async def _handshake(self, insist_on_encryption: bool, waiting: Callable[[IpcError, bool], None]) -> None:
        """Every answer waits for the step before it and is a write of its own: peers rely on that."""
        waiting(IpcError("the connection is not answered: is the server busy, stopped, or not one of this protocol?"), False)
        try:
            version, encrypted = await self._take(2)
        except ConnectionError as error:
            raise ConnectionResetError(
                "the server closed the connection without a word: "
                "it may have refused this client (Authorize), be closing, or speak another protocol"
            ) from error
        if version != VERSION:
            await self._write(VERSION_DIFFERS)
            raise VersionError(f"the server speaks version {version}, not {VERSION}")
        if encrypted > 1:
            raise ProtocolError(f"the server's encryption flag is {encrypted}")
        if insist_on_encryption and not encrypted:
            await self._write(ENCRYPTION_REQUIRED)
            raise EncryptionRequired("encryption is required, and the server does not encrypt")
        if encrypted and ec is None:
            raise EncryptionUnavailable
        await self._write(GO_ON)
        if encrypted:
            await self._exchange_keys()

        # A server without a free place lets its clients wait here.
        full = IpcError("the server has no place for this client: is it in single mode, or at MaxClients?")
        waiting(full, False)
        timer = self.loop.call_later(PLACE_GRACE, waiting, full, True)
        try:
            limit = await self._take_frame(4, 4)
        finally:
            timer.cancel()
        self.max_msg_size = min(int.from_bytes(limit, "big"), MAX_MSG_SIZE)
        if self.max_msg_size < CONTROL.size:
            self.places = 0
            await self._write(GO_ON)
        else:
            await self._write(GO_ON + self._encode(CONTROL_TYPE, ANNOUNCEMENT))

    async def _exchange_keys(self) -> None:
        point = await self._take(PUBLIC_KEY_SIZE)
        curve = ec.SECP384R1()
        try:
            theirs = ec.EllipticCurvePublicKey.from_encoded_point(curve, point)
        except ValueError:
            raise ProtocolError("the server's public key is not a point of the curve") from None
        # Some peers drop leading zero bytes of x before hashing and some do
        # not. Without any, all agree on the key.
        while True:
            ours = ec.generate_private_key(curve)
            x = ours.exchange(ec.ECDH(), theirs)
            if x[0] != 0:
                break
        await self._write(ours.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))
        self._seal = _Seal(hashlib.sha256(x).digest())

    async def receive(self) -> tuple[int, bytes]:
        """The type and the data of the next frame."""
        body = await self._take_frame(TYPE_SIZE, TYPE_SIZE + self.max_msg_size)
        (msg_type,) = struct.unpack_from(">i", body)
        if msg_type < 0:
            raise ProtocolError(f"message type {msg_type} is negative")
        return msg_type, body[TYPE_SIZE:]

    def put_message(self, frame: _Frame) -> None:
        if len(frame.data) > self.max_msg_size:
            excess = f"{len(frame.data)} bytes exceed the server's limit of {self.max_msg_size}"
            frame.fail(MessageTooLarge(excess))
        else:
            self._put(frame)

    def put_control(self, kind: int, flags: int, n: int, id: int, payload: bytes = b"") -> _Frame:
        frame = _Frame(CONTROL_TYPE, CONTROL.pack(kind, flags, n, id) + payload)
        self._put(frame)
        return frame

    def _put(self, frame: _Frame) -> None:
        """Sends a frame, after those before it: at once, as far as the kernel takes it."""
        self._frames.append(frame)
        if self.loss is None and not self._is_waiting:
            self._send()

    def take_back(self, frame: _Frame) -> bool:
        """Reports whether nothing of the frame has been sent, and then nothing will be."""
        if frame.begun:
            return False
        if frame in self._frames:
            self._frames.remove(frame)
        return True

    def unsent(self) -> list[_Frame]:
        """What the kernel does not have whole, once the connection is closed."""
        for frame in self._frames:
            frame.begun = False
            frame.rest = None
        return list(self._frames)

    async def flush(self) -> None:
        """Returns when the kernel has everything, or the connection is lost."""
        if self._frames and self.loss is None:
            if self._flushed is None or self._flushed.done():
                self._flushed = self.loop.create_future()
            await asyncio.wait([self._flushed])

    def _send(self) -> None:
        """Sends what the kernel takes now. A connection that fails to send is left to the reader, who notices."""
        try:
            while self._frames:
                frame = self._frames[0]
                if not frame.rest:
                    frame.rest = memoryview(self._encode(frame.type, frame.data))
                n = self._sock.send(frame.rest)
                frame.begun = True
                frame.rest = frame.rest[n:]
                if not frame.rest:
                    self._frames.popleft()
                    frame.finish()
        except (BlockingIOError, InterruptedError):
            if not self._is_waiting:
                self._is_waiting = True
                self.loop.add_writer(self._sock, self._send)
        except OSError as error:
            self.loss = error
            self._rest()
        else:
            self._rest()

    def _rest(self) -> None:
        """Waits for the kernel no longer: there is nothing to send, or no way to."""
        if self._is_waiting:
            self._is_waiting = False
            self.loop.remove_writer(self._sock)
        if self._flushed is not None and not self._flushed.done():
            self._flushed.set_result(None)

    def lost(self) -> Exception:
        """What to raise where the connection is needed that was lost."""
        if isinstance(self.loss, ClosedError):
            return ClosedError(str(self.loss))
        return _caused(ConnectionResetError("the connection was lost"), self.loss)

    def issue(self, call: _Call) -> None:
        """Sends a request, under the next id."""
        self.last_call += 1
        call.link, call.id = self, self.last_call
        self.calls[call.id] = call
        flags = PARTS_WELCOME if call.parts else 0
        call.frame = self.put_control(REQUEST, flags, call.type, call.id, call.data)

    def ask(self, control: _Control) -> _Question:
        """Takes a request of the server's."""
        if control.id <= self.last_question:
            raise ProtocolError(f"request {control.id} after request {self.last_question}")
        if len(self.questions) >= MAX_REQUESTS:
            raise ProtocolError(f"more than {MAX_REQUESTS} requests without an answer")
        self.last_question = control.id
        question = _Question(self, control.id, bool(control.flags & PARTS_WELCOME))
        self.questions[control.id] = question
        return question

    def _encode(self, msg_type: int, data: bytes) -> bytes:
        head = struct.pack(">i", msg_type)
        if self._seal is None:
            return b"".join((struct.pack(">I", TYPE_SIZE + len(data)), head, data))
        nonce, sealed = self._seal.seal(head + data)
        return b"".join((struct.pack(">I", len(nonce) + len(sealed)), nonce, sealed))

    async def _write(self, data: bytes) -> None:
        await self.loop.sock_sendall(self._sock, data)

    async def _take_frame(self, least: int, most: int) -> bytes:
        """A length and what it measures, opened. The length is checked before anything is gathered."""
        overhead = NONCE_SIZE + TAG_SIZE if self._seal else 0
        length = int.from_bytes(await self._take(4), "big")
        if not least + overhead <= length <= most + overhead:
            raise ProtocolError(f"a frame of {length} bytes is not within {least + overhead} … {most + overhead}")
        body = await self._take(length)
        return self._seal.open(body) if self._seal else body

    async def _take(self, n: int) -> bytes:
        """The next n bytes, however they arrive. Memory follows what has arrived, not what was claimed."""
        while len(self._buffer) < n:
            chunk = await self.loop.sock_recv(self._sock, READ_SIZE)
            if not chunk:
                raise ConnectionResetError("the server closed the connection")
            self._buffer += chunk
        with memoryview(self._buffer) as held, held[:n] as first:
            taken = bytes(first)
        del self._buffer[:n]
        return taken


class _Frame:
    """Something to send, until the kernel has all of it."""

    def __init__(self, msg_type: int, data: bytes) -> None:
        self.type = msg_type
        self.data = data
        self.rest: Optional[memoryview] = None  # of what goes to the kernel, once it is this frame's turn
        self.begun = False  # the kernel has some of it
        self.sent = False  # the kernel has all of it
        self.repeats = True  # on the next connection, if this one is lost; of a message
        self.on_sent: Callable[[], object] = lambda: None
        self._error: Optional[Exception] = None
        self._waiter: Optional[asyncio.Future] = None

    async def wait(self) -> None:
        """Returns when it is sent; an error means that it is not, and will not be."""
        if not self.sent and self._error is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        self.sent = True
        self.data = b""
        self.on_sent()
        self._tell()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._tell()

    def _tell(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _Call:
    """A request of ours, and the answers to it."""

    def __init__(self, msg_type: int, data: bytes, parts: bool) -> None:
        self.type = msg_type
        self.data = data
        self.parts = parts  # they are welcome
        self.timer: Optional[asyncio.TimerHandle] = None
        self.link: Optional[_Link] = None  # it is on this connection,
        self.id = 0  # where this is its id
        self.frame: Optional[_Frame] = None  # and this carries it; None: it is on none
        self.answers: collections.deque[Message] = collections.deque()  # that were not taken
        self.ended = False  # for us
        self.error: Optional[Exception] = None  # and why, if not by an answer
        self._waiter: Optional[asyncio.Future] = None

    @property
    def may_be_handled(self) -> bool:
        return self.frame is not None and self.frame.begun

    def add(self, answer: Message) -> None:
        self.answers.append(answer)
        self._tell()

    def end(self, error: Optional[Exception]) -> None:
        self.ended = True
        self.error = error
        self._tell()

    async def news(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def final_error(self, control: _Control) -> Optional[Exception]:
        """What a final answer raises, if it does."""
        if control.kind == ERROR and control.n > 0:
            return ReplyError(control.n, control.payload.decode(errors="replace"))
        if control.kind == REPLY and (control.n > 0 or self.parts):
            return None
        return NoReply("the server has ended the request without a reply")

    def _tell(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _Question:
    """A request of the server's: what is left of it without the message."""

    def __init__(self, link: _Link, id: int, parts_welcome: bool) -> None:
        self.parts_welcome = parts_welcome
        self.answered = False
        self.cancelled = False
        self.over = asyncio.Event()  # either of the two
        self._link = link
        self._id = id

    async def answer(self, kind: int, n: int, payload: bytes) -> None:
        if self.answered and not self.cancelled:
            raise NotAsked("the request has been answered")
        if self._link.loss is not None:
            raise self._link.lost()
        if self.cancelled:
            raise RequestCancelled("the server has given up the request")
        limit = self._link.max_msg_size - CONTROL.size
        if len(payload) > limit:
            raise MessageTooLarge(f"{len(payload)} bytes exceed the server's limit of {limit} for a reply")
        await self._put(kind, n, payload).wait()

    def drop(self) -> None:
        """Says that there is no reply, unless there was one."""
        if not self.answered:
            self._put(ERROR, 0, b"")

    def forget(self) -> None:
        """Is drop() from any thread, as garbage is collected in any."""
        if not self.answered and self._link.loss is None:
            try:
                self._link.loop.call_soon_threadsafe(self.drop)
            except RuntimeError:
                pass  # the event loop has ended

    def _put(self, kind: int, n: int, payload: bytes) -> _Frame:
        if kind != PART:
            self.answered = True
            self.over.set()
        frame = self._link.put_control(kind, 0, n, self._id, payload)
        if kind != PART:
            # The place is free when the server can know, and not before: who
            # does not take the answers gets no more requests in.
            frame.on_sent = lambda: self._link.questions.pop(self._id)
            if frame.sent:
                frame.on_sent()
        return frame


class _Control(NamedTuple):
    """What a control frame says."""

    kind: int
    flags: int
    n: int
    id: int
    payload: bytes

    def check_id(self, last: int) -> None:
        if not 1 <= self.id <= last:
            raise ProtocolError(f"a control frame of kind {self.kind} for request {self.id}, and there were {last}")


def _parse_control(data: bytes, announced: bool) -> Optional[_Control]:
    """What a control frame says, or None if that is nothing to us."""
    kind = data[0] if data else 0
    if kind == ANNOUNCE:
        if not ANNOUNCE_START.startswith(data[: len(ANNOUNCE_START)]):
            return None
    elif not announced or not REQUEST <= kind <= CANCEL:
        return None
    if len(data) < CONTROL.size:
        raise ProtocolError(f"a control frame of kind {kind} has {len(data)} bytes")
    if kind == ANNOUNCE:
        version, requests = struct.unpack_from(">BxxxI", data, len(ANNOUNCE_START))
        return _Control(kind, 0, requests, 0, b"") if version > 0 else None
    control = _Control(*CONTROL.unpack_from(data), data[CONTROL.size :])
    least = 1 if kind in (REQUEST, PART) else 0
    if kind != CANCEL and not least <= control.n <= MAX_TYPE:
        raise ProtocolError(f"a control frame of kind {kind} has the number {control.n}")
    return control


def _check_number(what: str, n: int) -> None:
    if not isinstance(n, int) or not 1 <= n <= MAX_TYPE:
        raise ValueError(f"{what} {n} is not within 1 … {MAX_TYPE}")


def _bytes_of(data: bytes) -> bytes:
    """Data, or a copy if it could change. It refuses what is no bytes before it is in a queue."""
    return data if isinstance(data, bytes) else bytes(memoryview(data))


def _cost(message: Message) -> int:
    """What an unread message counts."""
    return len(message.data) + MESSAGE_COST


def _caused(error: Exception, cause: Optional[BaseException]) -> Exception:
    error.__cause__ = cause
    return error


class _Seal:
    """Seals and opens what one connection carries."""

    def __init__(self, key: bytes) -> None:
        self._aes = AESGCM(key)
        self._prefix = b""
        self._counter = 2**32  # run out, so the first nonce draws a prefix

    def seal(self, plain: bytes) -> tuple[bytes, bytes]:
        nonce = self._next_nonce()
        return nonce, self._aes.encrypt(nonce, plain, None)

    def open(self, sealed: bytes) -> bytes:
        try:
            return self._aes.decrypt(sealed[:NONCE_SIZE], sealed[NONCE_SIZE:], None)
        except InvalidTag:
            raise ProtocolError("a sealed frame does not open") from None

    def _next_nonce(self) -> bytes:
        """Server and client share one key, so a nonce must not repeat on either side.

        Random bytes keep the sides apart.
        """
        if self._counter == 2**32:
            self._prefix = os.urandom(8)
            self._counter = 0
        nonce = self._prefix + struct.pack(">I", self._counter)
        self._counter += 1
        return nonce
