"""A client for golang-ipc servers, with Python's standard library (3.9 or later).

PROTOCOL.md, at the top of the repository, describes what it speaks. Encrypted
connections need the package "cryptography".

    async with Client("example") as client:
        await client.send(1, b"hello")
        async for message in client:
            print(message.type, message.data)
"""

from __future__ import annotations

import asyncio
import collections
import hashlib
import os
import random
import socket
import struct
import time
from typing import Callable, NamedTuple, Optional

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

READ_SIZE = 256 * 1024
INBOX_MESSAGES = 16  # unread messages that are held before the socket is left to fill up
FIRST_PAUSE = 0.005  # seconds
STABLE_AFTER = 1.0
FLUSH_LIMIT = 1.0
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


class Message(NamedTuple):
    type: int
    data: bytes


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
                reason, and with "retry" and why an attempt to connect failed,
                once for each new reason
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
        self._task: Optional[asyncio.Task] = None
        self._link: Optional[_Link] = None
        self._end: Optional[Exception] = None  # why there will be no more connection
        self._inbox: collections.deque[Message] = collections.deque()
        self._sending = asyncio.Lock()
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
        version or without the encryption that is insisted on is not.
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
        their order. Cancelling it under way costs the connection, because half
        a message cannot be taken back.
        """
        if not 1 <= msg_type <= MAX_TYPE:
            raise ValueError(f"message type {msg_type} is not within 1 … {MAX_TYPE}")
        async with self._sending:
            while True:
                link = await self._connection()
                if len(data) > link.max_msg_size:
                    raise MessageTooLarge(f"{len(data)} bytes exceed the server's limit of {link.max_msg_size}")
                try:
                    return await link.send(msg_type, data)
                except OSError:
                    await self._until(lambda: self._link is not link)

    async def read(self, timeout: Optional[float] = None) -> Message:
        """Returns the next message. A TimeoutError costs none."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._inbox and self._end is None:  # another reader may be first
            left = None if deadline is None else deadline - time.monotonic()
            try:
                await asyncio.wait_for(self._until(lambda: self._inbox or self._end), left)
            except asyncio.TimeoutError:
                raise TimeoutError("no message came in time") from None
        if self._inbox:
            self._wake()  # there is room again
            return self._inbox.popleft()
        raise self._end

    async def close(self) -> None:
        """Sends what send() has begun, for a second at most, and disconnects."""
        if self._link is not None:
            try:
                await asyncio.wait_for(self._sending.acquire(), FLUSH_LIMIT)
                self._sending.release()
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
                finally:
                    self._link = None
                    self._wake()
                    await link.close()
                if not self._reconnect:
                    raise reason
                self._on_status("disconnected", reason)
        except asyncio.CancelledError:
            self._finish(ClosedError("the client was closed"))
        except Exception as error:
            self._finish(error)

    async def _dial(self, first: bool) -> _Link:
        try:
            return await asyncio.wait_for(self._attempt(first), self._timeout)
        except asyncio.TimeoutError:
            raise TimeoutError(f"timed out trying to {'connect' if first else 're-connect'}") from None

    async def _attempt(self, first: bool) -> _Link:
        """Tries until there is a connection; the pauses grow, and are never all the same."""
        last_reason = ""
        since = time.monotonic()
        while True:
            await asyncio.sleep(self._pause * random.uniform(0.5, 1))
            self._pause = min(max(FIRST_PAUSE, 2 * self._pause), self._retry_timer)
            try:
                return await _Link.open(self._path, self._encryption)
            except (OSError, IpcError) as error:
                # The server may be replaced by one that fits, so only a client
                # that has never been connected gives up.
                passing = isinstance(error, TRANSIENT) or (
                    isinstance(error, PermissionError) and time.monotonic() - since < PERMISSION_GRACE
                )
                if first and not passing:
                    raise
                if str(error) != last_reason:
                    self._on_status("retry", error)
                last_reason = str(error)

    async def _receive(self, link: _Link) -> None:
        """Moves messages from the connection to read(), at the reader's pace."""
        self._link = link
        self._wake()
        self._on_status("connected", None)
        since = time.monotonic()
        try:
            while True:
                message = await link.receive()
                self._pause = 0.0  # it works: the next loss is worth an attempt at once
                await self._until(lambda: len(self._inbox) < INBOX_MESSAGES)
                self._inbox.append(message)
                self._wake()
        finally:
            if time.monotonic() - since >= STABLE_AFTER:
                self._pause = 0.0

    def _finish(self, reason: Exception) -> None:
        self._end = self._end or reason
        self._wake()

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


class _Link:
    """One connection: its handshake, and the frames after it."""

    def __init__(self, path: str) -> None:
        self.max_msg_size = 0
        self._seal: Optional[_Seal] = None
        self._buffer = bytearray()
        self._sending = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._sock.setblocking(False)
            # Not loop.sock_connect: a Unix socket connects at once or not at
            # all, and that call takes EAGAIN, a full backlog, for success.
            self._sock.connect(path)
        except BaseException:
            self._sock.close()
            raise

    @classmethod
    async def open(cls, path: str, insist_on_encryption: bool) -> _Link:
        link = cls(path)
        try:
            await link._handshake(insist_on_encryption)
        except BaseException:
            await link.close()
            raise
        return link

    @property
    def encrypted(self) -> bool:
        return self._seal is not None

    async def close(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_RDWR)  # fails a send that is under way
        except OSError:
            pass
        async with self._sending:
            self._sock.close()

    async def _handshake(self, insist_on_encryption: bool) -> None:
        """Every answer waits for the step before it and is a write of its own: peers rely on that."""
        version, encrypted = await self._take(2)
        if version != VERSION:
            await self._put(VERSION_DIFFERS)
            raise VersionError(f"the server speaks version {version}, not {VERSION}")
        if encrypted > 1:
            raise ProtocolError(f"the server's encryption flag is {encrypted}")
        if insist_on_encryption and not encrypted:
            await self._put(ENCRYPTION_REQUIRED)
            raise EncryptionRequired("encryption is required, and the server does not encrypt")
        if encrypted and ec is None:
            raise EncryptionUnavailable
        await self._put(GO_ON)
        if encrypted:
            await self._exchange_keys()

        # A server without a free place lets its clients wait here.
        limit = await self._take_frame(4, 4)
        self.max_msg_size = min(int.from_bytes(limit, "big"), MAX_MSG_SIZE)
        await self._put(GO_ON)

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
        await self._put(ours.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))
        self._seal = _Seal(hashlib.sha256(x).digest())

    async def receive(self) -> Message:
        """The next message; control messages are passed over."""
        while True:
            body = await self._take_frame(TYPE_SIZE, TYPE_SIZE + self.max_msg_size)
            (msg_type,) = struct.unpack_from(">i", body)
            if msg_type < 0:
                raise ProtocolError(f"message type {msg_type} is negative")
            if msg_type > 0:
                return Message(msg_type, body[TYPE_SIZE:])

    async def send(self, msg_type: int, data: bytes) -> None:
        """An OSError means that the kernel does not have all of it, and none will be delivered."""
        body = struct.pack(">i", msg_type) + data
        if self._seal:
            body = self._seal.seal(body)
        async with self._sending:
            try:
                await self._put(struct.pack(">I", len(body)) + body)
            except asyncio.CancelledError:
                try:
                    self._sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
                raise

    async def _put(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._sock, data)

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
            chunk = await self._loop.sock_recv(self._sock, READ_SIZE)
            if not chunk:
                raise ConnectionResetError("the server closed the connection")
            self._buffer += chunk
        with memoryview(self._buffer) as held, held[:n] as first:
            taken = bytes(first)
        del self._buffer[:n]
        return taken


class _Seal:
    """Seals and opens what one connection carries."""

    def __init__(self, key: bytes) -> None:
        self._aes = AESGCM(key)
        self._prefix = b""
        self._counter = 2**32  # run out, so the first nonce draws a prefix

    def seal(self, plain: bytes) -> bytes:
        nonce = self._next_nonce()
        return nonce + self._aes.encrypt(nonce, plain, None)

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
