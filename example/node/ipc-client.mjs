// A client for golang-ipc servers, with nothing but Node's standard library.
// PROTOCOL.md, at the top of the repository, describes what it speaks.
//
//   const client = new IpcClient({ name: 'example' });
//   await client.connect();
//   await client.send(1, 'hello');
//   for await (const { type, data } of client) { … }

import { createCipheriv, createDecipheriv, createECDH, createHash, randomBytes } from 'node:crypto';
import { createConnection } from 'node:net';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';

const VERSION = 2;
const GO_ON = 0;
const VERSION_DIFFERS = 1;
const ENCRYPTION_REQUIRED = 2;

const TYPE_SIZE = 4;
const NONCE_SIZE = 12;
const TAG_SIZE = 16;
const PUBLIC_KEY_SIZE = 97;
const MAX_TYPE = 2 ** 31 - 1;
const MAX_MSG_SIZE = 2 ** 31 - 64; // whatever a server says

// The system's limit for a socket's path, in bytes. Node cuts longer ones off
// without a word, and would look for another socket.
const MAX_PATH = process.platform === 'linux' ? 107 : 103;

const BUFFER_SIZE = 64 * 1024;
const INBOX_MESSAGES = 16; // unread messages that are held before the socket is left to fill up
const FIRST_PAUSE = 5; // milliseconds
const STABLE_AFTER = 1000;
const FLUSH_LIMIT = 1000;
const PERMISSION_GRACE = 250; // a server that is starting may be about to open its socket to us

// A server that is starting, stopping or very busy: worth another attempt.
const TRANSIENT = new Set(['ENOENT', 'ECONNREFUSED', 'EAGAIN', 'ECONNRESET', 'EPIPE', 'ERR_IPC_LOST']);

/**
 * What went wrong is in code: ERR_IPC_CLOSED, ERR_IPC_ENCRYPTION_REQUIRED,
 * ERR_IPC_LOST, ERR_IPC_PROTOCOL, ERR_IPC_TIMEOUT, ERR_IPC_TOO_LARGE or
 * ERR_IPC_VERSION.
 */
export class IpcError extends Error {
  constructor(code, message) {
    super(message);
    this.name = 'IpcError';
    this.code = code;
  }
}

const protocolError = (message) => new IpcError('ERR_IPC_PROTOCOL', message);

/**
 * A stream of { type, data } messages that stays connected: read it with
 * `for await` or 'data' events, and write with send().
 *
 * Events besides those of a stream:
 *   'connect'     ({ encrypted, maxMsgSize })
 *   'disconnect'  (reason): the client is connecting again
 *   'retry'       (reason): an attempt to connect failed; once for each new reason
 */
export class IpcClient extends Readable {
  #path;
  #encryption;
  #reconnect;
  #timeout;
  #retryTimer;
  #stop = new AbortController();
  #link = deferred(); // settles with a Link that is ready, or with why there will be none
  #connection; // the latest Link, in its handshake or after it
  #connected = false;
  #running;
  #pause = 0;
  #sends = Promise.resolve();
  #wake = () => {};

  /**
   * @param {object} options
   * @param {string} [options.name] the server's name
   * @param {string} [options.socketDir] where its socket is, "/tmp" by default
   * @param {string} [options.path] the socket itself, instead of both
   * @param {boolean} [options.encryption] refuse a server that does not
   *   encrypt; false follows the server
   * @param {boolean} [options.reconnect] false ends the client with its
   *   first connection
   * @param {number} [options.timeout] milliseconds to connect, and to
   *   reconnect; 0 is for ever
   * @param {number} [options.retryTimer] the longest pause between two
   *   attempts, in milliseconds
   */
  constructor({
    name, socketDir = '/tmp', path, encryption = false, reconnect = true, timeout = 0, retryTimer = 20_000,
  } = {}) {
    super({ objectMode: true, highWaterMark: INBOX_MESSAGES });
    if (!path && !name) throw new TypeError('a name or a path is needed');
    this.#path = path ?? `${socketDir}/${name}.sock`;
    if (Buffer.byteLength(this.#path) > MAX_PATH) {
      throw new RangeError(`a socket's path has ${MAX_PATH} bytes at most: ${this.#path}`);
    }
    this.#encryption = encryption;
    this.#reconnect = reconnect;
    this.#timeout = timeout;
    this.#retryTimer = retryTimer;
    this.#stop.signal.addEventListener('abort', () => {
      this.#connection?.destroy();
      this.#wake();
    });
  }

  /**
   * Resolves when the client is connected. A server that is not there yet is
   * waited for; a server of another version or without the encryption that is
   * insisted on is not.
   */
  async connect() {
    this.#stop.signal.throwIfAborted();
    this.#running ??= this.#run();
    await this.#link.promise;
  }

  /**
   * Sends one message and resolves when the kernel has all of it: wait for
   * that before sending more, and memory stays bounded. Without a connection it
   * waits for one, and a message that a lost connection cut off is sent again,
   * whole, on the next. Messages keep their order. Data must not be changed
   * meanwhile.
   *
   * @param {number} type 1 … 2147483647
   * @param {string | Uint8Array} data
   */
  async send(type, data) {
    if (!Number.isInteger(type) || type < 1 || type > MAX_TYPE) {
      throw new RangeError(`message type ${type} is not within 1 … ${MAX_TYPE}`);
    }
    if (typeof data === 'string') data = Buffer.from(data);
    if (!(data instanceof Uint8Array)) throw new TypeError('data is neither a string nor bytes');

    const sent = this.#sends.then(() => this.#transmit(type, data));
    this.#sends = sent.catch(() => {}); // this message's failure is not the next one's
    return sent;
  }

  /** Sends what send() has taken, for a second at most and only if connected, and disconnects. */
  async close() {
    if (this.#connected) await Promise.race([this.#sends, sleep(FLUSH_LIMIT, undefined, { ref: false })]);
    this.#end(new IpcError('ERR_IPC_CLOSED', 'the client was closed'));
    await this.#running;
  }

  _read() {
    this.#wake();
  }

  _destroy(error, callback) {
    this.#end(new IpcError('ERR_IPC_CLOSED', 'the client was destroyed'));
    callback(error);
  }

  /** Stops whatever is under way; #run then ends, with this reason. */
  #end(reason) {
    this.#stop.abort(reason);
    if (this.#running) return;
    this.#link.reject(reason);
    this.push(null);
  }

  async #run() {
    const { signal } = this.#stop;
    let wasConnected = false;
    try {
      for (;;) {
        const link = await this.#dial(!wasConnected);
        wasConnected = true;
        const since = performance.now();
        this.emit('connect', { encrypted: link.encrypted, maxMsgSize: link.maxMsgSize });
        this.#link.resolve(link);
        this.#connected = true;

        const reason = await this.#receive(link).catch((error) => error);
        this.#connected = false;
        link.destroy();
        if (performance.now() - since >= STABLE_AFTER) this.#pause = 0;
        this.#link = deferred();
        link.retired.resolve();
        signal.throwIfAborted();
        if (!this.#reconnect) throw reason;
        this.emit('disconnect', reason);
      }
    } catch (error) {
      this.#stop.abort(error);
      this.#link.reject(error);
      // Who waits in connect() has the error already; a reader gets it as the
      // stream's, unless the end was asked for.
      if (!wasConnected || error.code === 'ERR_IPC_CLOSED') this.push(null);
      else this.destroy(error);
    }
  }

  /** Tries until there is a connection; the pauses grow, and are never all the same. */
  async #dial(isFirst) {
    const { signal } = this.#stop;
    const timedOut = isFirst ? 'timed out trying to connect' : 'timed out trying to re-connect';
    const timer = this.#timeout && setTimeout(
      () => this.#stop.abort(new IpcError('ERR_IPC_TIMEOUT', timedOut)), this.#timeout);
    let lastReason;
    const since = performance.now();
    try {
      for (;;) {
        if (this.#pause > 0) await sleep(this.#pause * (0.5 + Math.random() / 2), undefined, { signal });
        this.#pause = Math.min(Math.max(FIRST_PAUSE, 2 * this.#pause), this.#retryTimer);
        const link = this.#connection = new Link(this.#path);
        try {
          await link.handshake(this.#encryption);
          return link;
        } catch (error) {
          link.destroy();
          signal.throwIfAborted();
          // The server may be replaced by one that fits, so only a client that
          // has never been connected gives up.
          const passing = TRANSIENT.has(error.code)
            || (error.code === 'EACCES' && performance.now() - since < PERMISSION_GRACE);
          if (isFirst && !passing) throw error;
          if (error.message !== lastReason) this.emit('retry', error);
          lastReason = error.message;
        }
      }
    } catch (error) {
      signal.throwIfAborted(); // with the reason, where sleep has only an AbortError
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Moves messages from the connection to the reader of this stream, at the reader's pace. */
  async #receive(link) {
    while (!this.#stop.signal.aborted) {
      const message = await link.receive();
      this.#pause = 0; // it works: the next loss is worth an attempt at once
      if (!this.push(message)) await new Promise((resolve) => { this.#wake = resolve; });
    }
  }

  async #transmit(type, data) {
    for (;;) {
      const link = await this.#link.promise;
      if (data.length > link.maxMsgSize) {
        const message = `${data.length} bytes exceed the server's limit of ${link.maxMsgSize}`;
        throw new IpcError('ERR_IPC_TOO_LARGE', message);
      }
      if (await link.send(type, data)) return;
      await link.retired.promise;
    }
  }
}

/** One connection: its handshake, and the frames after it. */
class Link {
  maxMsgSize = 0;
  retired = deferred(); // resolves once the client no longer uses this connection
  #socket;
  #reader;
  #seal;

  constructor(path) {
    this.#socket = createConnection({ path });
    this.#socket.on('error', () => {}); // the reader gets it too, and tells
    this.#reader = new ByteReader(this.#socket);
  }

  get encrypted() {
    return this.#seal !== undefined;
  }

  destroy() {
    this.#socket.destroy();
  }

  /** Every answer waits for the step before it and is a write of its own: peers rely on that. */
  async handshake(insistOnEncryption) {
    const [version, encrypted] = await this.#reader.take(2);
    if (version !== VERSION) {
      await this.#put([Buffer.of(VERSION_DIFFERS)]);
      throw new IpcError('ERR_IPC_VERSION', `the server speaks version ${version}, not ${VERSION}`);
    }
    if (encrypted > 1) throw protocolError(`the server's encryption flag is ${encrypted}`);
    if (insistOnEncryption && !encrypted) {
      await this.#put([Buffer.of(ENCRYPTION_REQUIRED)]);
      throw new IpcError('ERR_IPC_ENCRYPTION_REQUIRED', 'encryption is required, and the server does not encrypt');
    }
    await this.#put([Buffer.of(GO_ON)]);
    if (encrypted) await this.#exchangeKeys();

    // A server without a free place lets its clients wait here.
    const limit = await this.#take(4, 4);
    this.maxMsgSize = Math.min(limit.readUInt32BE(), MAX_MSG_SIZE);
    await this.#put([Buffer.of(GO_ON)]);
  }

  async #exchangeKeys() {
    const theirs = Buffer.from(await this.#reader.take(PUBLIC_KEY_SIZE));
    if (theirs[0] !== 4) throw protocolError("the server's public key is not an uncompressed point");
    const ecdh = createECDH('secp384r1');
    let ours, x;
    // Some peers drop leading zero bytes of x before hashing and some do not.
    // Without any, all agree on the key.
    do {
      ours = ecdh.generateKeys();
      try {
        x = ecdh.computeSecret(theirs);
      } catch {
        throw protocolError("the server's public key is not a point of the curve");
      }
    } while (x[0] === 0);
    await this.#put([ours]);
    this.#seal = new Seal(createHash('sha256').update(x).digest());
  }

  /** The next message; control messages are passed over. */
  async receive() {
    for (;;) {
      const body = await this.#take(TYPE_SIZE, TYPE_SIZE + this.maxMsgSize);
      const type = body.readInt32BE();
      if (type < 0) throw protocolError(`message type ${type} is negative`);
      if (type > 0) return { type, data: body.subarray(TYPE_SIZE) };
    }
  }

  /** Resolves to whether the kernel has all of the message. If not, none of it will be delivered. */
  async send(type, data) {
    const head = Buffer.alloc(4 + TYPE_SIZE);
    head.writeInt32BE(type, 4);
    if (!this.#seal) {
      head.writeUInt32BE(TYPE_SIZE + data.length);
      return this.#put([head, data]);
    }
    const sealed = this.#seal.seal([head.subarray(4), data]);
    head.writeUInt32BE(NONCE_SIZE + TYPE_SIZE + data.length + TAG_SIZE);
    return this.#put([head.subarray(0, 4), ...sealed]);
  }

  /** A length and what it measures, opened. The length is checked before anything is gathered. */
  async #take(min, max) {
    const overhead = this.#seal ? NONCE_SIZE + TAG_SIZE : 0;
    const length = (await this.#reader.take(4)).readUInt32BE();
    if (length < min + overhead || length > max + overhead) {
      throw protocolError(`a frame of ${length} bytes is not within ${min + overhead} … ${max + overhead}`);
    }
    const bytes = await this.#reader.take(length);
    return this.#seal ? this.#seal.open(bytes) : Buffer.from(bytes);
  }

  /** Hands bytes to the kernel in one write, and resolves to whether it took them all. */
  #put(parts) {
    const socket = this.#socket;
    if (!socket.writable) return false;
    return new Promise((resolve) => {
      socket.cork();
      for (const part of parts.slice(0, -1)) socket.write(part);
      // Without the check of destroyed: a write that was cut off by destroy()
      // reports success.
      socket.write(parts.at(-1), (error) => resolve(!error && !socket.destroyed));
      socket.uncork();
      // Nothing left to write and no error: taken, even if the socket is
      // destroyed before the callback runs.
      if (socket.writableLength === 0 && !socket.errored) resolve(true);
    });
  }
}

/** Seals and opens what one connection carries. */
class Seal {
  #key;
  #prefix;
  #counter = 2 ** 32; // run out, so the first nonce draws a prefix

  constructor(key) {
    this.#key = key;
  }

  seal(parts) {
    const nonce = this.#nextNonce();
    const cipher = createCipheriv('aes-256-gcm', this.#key, nonce);
    const sealed = parts.map((part) => cipher.update(part));
    cipher.final(); // has no bytes in this mode, and makes the tag
    return [nonce, ...sealed, cipher.getAuthTag()];
  }

  open(bytes) {
    const nonce = bytes.subarray(0, NONCE_SIZE);
    const decipher = createDecipheriv('aes-256-gcm', this.#key, nonce, { authTagLength: TAG_SIZE });
    decipher.setAuthTag(bytes.subarray(-TAG_SIZE));
    const plain = decipher.update(bytes.subarray(NONCE_SIZE, -TAG_SIZE));
    try {
      decipher.final(); // checks the tag: nothing may be used before
    } catch {
      throw protocolError('a sealed frame does not open');
    }
    return plain;
  }

  /**
   * Server and client share one key, so a nonce must not repeat on either side:
   * random bytes keep the sides apart.
   */
  #nextNonce() {
    if (this.#counter === 2 ** 32) {
      this.#prefix = randomBytes(8);
      this.#counter = 0;
    }
    const nonce = Buffer.alloc(NONCE_SIZE);
    this.#prefix.copy(nonce);
    nonce.writeUInt32BE(this.#counter++, 8);
    return nonce;
  }
}

/** Cuts a socket's bytes into the pieces that are asked for, however they arrive. */
class ByteReader {
  #chunks;
  #buffer = Buffer.allocUnsafe(BUFFER_SIZE);
  #start = 0;
  #end = 0;

  constructor(socket) {
    this.#chunks = socket[Symbol.asyncIterator]();
  }

  /** Resolves to the next n bytes. They are valid until the next call. */
  async take(n) {
    while (this.#end - this.#start < n) {
      const { value, done } = await this.#chunks.next();
      if (done) throw new IpcError('ERR_IPC_LOST', 'the server closed the connection');
      this.#append(value);
    }
    const bytes = this.#buffer.subarray(this.#start, this.#start + n);
    this.#start += n;
    return bytes;
  }

  #append(chunk) {
    if (this.#end + chunk.length > this.#buffer.length) {
      // Memory follows what has arrived, never a length that is only claimed.
      const held = this.#end - this.#start;
      let size = BUFFER_SIZE;
      while (size < held + chunk.length) size *= 2;
      const next = size === this.#buffer.length ? this.#buffer : Buffer.allocUnsafe(size);
      this.#buffer.copy(next, 0, this.#start, this.#end);
      this.#buffer = next;
      this.#start = 0;
      this.#end = held;
    }
    chunk.copy(this.#buffer, this.#end);
    this.#end += chunk.length;
  }
}

/** A promise and what settles it. Nobody may be waiting, so a rejection of it is not reported. */
function deferred() {
  const d = {};
  d.promise = new Promise((resolve, reject) => Object.assign(d, { resolve, reject }));
  d.promise.catch(() => {});
  return d;
}
