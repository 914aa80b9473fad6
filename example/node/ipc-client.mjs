// A client for golang-ipc servers, with nothing but Node's standard library.
// PROTOCOL.md, at the top of the repository, describes what it speaks.
//
//   const client = new IpcClient({ name: 'example' });
//   await client.connect();
//   await client.send(1, 'hello');
//   const { data } = await client.request(2, 'how are you?');
//   for await (const { type, data } of client) { … }

import { createCipheriv, createDecipheriv, createECDH, createHash, randomBytes } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import { createConnection } from 'node:net';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';

const VERSION = 2;
const GO_ON = 0;
const VERSION_DIFFERS = 1;
const ENCRYPTION_REQUIRED = 2;

// Control frames.
const CONTROL_TYPE = 0;
const CONTROL_SIZE = 16; // kind, flags, 2 unused bytes, a number, an id: what precedes the payload
const ANNOUNCE = 1;
const REQUEST = 2;
const REPLY = 3;
const PART = 4;
const ERROR = 5;
const CANCEL = 6;
const PARTS_WELCOME = 1; // a flag of REQUEST
const MAX_REQUESTS = 1024; // without an answer, in each direction
const ANNOUNCEMENT = Buffer.from([ANNOUNCE, ...Buffer.from('ipc'), 1, 0, 0, 0, 0, 0, MAX_REQUESTS >> 8, 0, 0, 0, 0, 0]);
const NOTHING = Buffer.alloc(0);

const TYPE_SIZE = 4;
const NONCE_SIZE = 12;
const TAG_SIZE = 16;
const PUBLIC_KEY_SIZE = 97;
const MAX_TYPE = 2 ** 31 - 1;
const MAX_MSG_SIZE = 2 ** 31 - 64; // whatever a server says

const ON_WINDOWS = process.platform === 'win32'; // where a name is that of a pipe

// The system's limit for a socket's path, in bytes. Node cuts longer ones off
// without a word, and would look for another socket.
const MAX_PATH = ON_WINDOWS ? 256 : process.platform === 'linux' ? 107 : 103;

const BUFFER_SIZE = 64 * 1024;
const INBOX_MESSAGES = 16; // unread messages that are held before the socket is left to fill up
const UNREAD_PARTS = 1024 * 1024; // bytes of parts, likewise
const ANNOUNCED_WITHIN = 5000; // milliseconds
const FIRST_PAUSE = 5;
const STABLE_AFTER = 1000;
const FLUSH_LIMIT = 1000;
const PLACE_GRACE = 1000; // after which it is worth telling that the server has no place
const PERMISSION_GRACE = 250; // a server that is starting may be about to open its socket to us

// A server that is starting, stopping or very busy: worth another attempt.
const TRANSIENT = new Set(['ENOENT', 'ECONNREFUSED', 'EAGAIN', 'EBUSY', 'ECONNRESET', 'EPIPE', 'ERR_IPC_LOST']);

/**
 * What went wrong is in code: ERR_IPC_CLOSED, ERR_IPC_ENCRYPTION_REQUIRED,
 * ERR_IPC_LOST, ERR_IPC_NO_PLACE, ERR_IPC_NO_REPLY, ERR_IPC_NO_REQUESTS,
 * ERR_IPC_NOT_ASKED, ERR_IPC_PROTOCOL, ERR_IPC_TIMEOUT, ERR_IPC_TOO_LARGE,
 * ERR_IPC_UNANSWERED or ERR_IPC_VERSION. ERR_IPC_TIMEOUT has the path of the
 * socket, and as its cause what kept the client from being connected.
 */
export class IpcError extends Error {
  constructor(code, message, options) {
    super(message, options);
    this.name = 'IpcError';
    this.code = code;
  }
}

/** The server's answer to a request, where that is an error: a code of its program's, and a text. */
export class ReplyError extends Error {
  constructor(code, text) {
    super(`${text} (code ${code})`);
    this.name = 'ReplyError';
    this.code = code;
    this.text = text;
  }
}

const protocolError = (message) => new IpcError('ERR_IPC_PROTOCOL', message);

/**
 * A stream of { type, data } messages that stays connected: read it with
 * `for await` or 'data' events, and write with send(). Ask with request().
 *
 * Events besides those of a stream:
 *   'connect'     ({ encrypted, maxMsgSize })
 *   'disconnect'  (reason): the client is connecting again
 *   'retry'       (reason): an attempt to connect failed; once for each new reason
 *   'waiting'     (reason): the server is there, and has had no place for this
 *                 client for a second; the client goes on waiting
 *   'requesterror' (error, request): onrequest failed; if nobody listens, this
 *                 becomes a warning of the process
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
  #ready; // the Link that is connected
  #running;
  #pause = 0;
  #sends = Promise.resolve();
  #onrequest;
  #waiting = []; // Calls that are on no connection
  #isFull = false; // as many messages are unread as may be
  #unread = 0; // bytes of parts
  #wake = () => {};

  /**
   * @param {object} options
   * @param {string} [options.name] the server's name
   * @param {string} [options.socketDir] where its socket is, "/tmp" by default; on
   *   Windows a prefix of the pipe's name, "" by default
   * @param {string} [options.path] the socket itself, instead of both
   * @param {boolean} [options.encryption] refuse a server that does not
   *   encrypt; false follows the server
   * @param {boolean} [options.reconnect] false ends the client with its
   *   first connection
   * @param {number} [options.timeout] milliseconds to connect, and to
   *   reconnect; 0 is for ever
   * @param {number} [options.retryTimer] the longest pause between two
   *   attempts, in milliseconds
   * @param {(request: IpcRequest) => any} [options.onrequest] answers the
   *   server's requests. It is called for each as it comes, so several may be
   *   under way. A request that it has not answered when it returns, or when the
   *   promise that it returns settles, has no reply: the server is told so.
   */
  constructor({
    name, socketDir = ON_WINDOWS ? '' : '/tmp', path, encryption = false, reconnect = true, timeout = 0, retryTimer = 20_000, onrequest,
  } = {}) {
    super({ objectMode: true, highWaterMark: INBOX_MESSAGES });
    if (!path && !name) throw new TypeError('a name or a path is needed');
    this.#path = path ?? pathOf(socketDir, name);
    if (Buffer.byteLength(this.#path) > MAX_PATH) {
      throw new RangeError(`a socket's path has ${MAX_PATH} bytes at most: ${this.#path}`);
    }
    this.#encryption = encryption;
    this.#reconnect = reconnect;
    this.#timeout = timeout;
    this.#retryTimer = retryTimer;
    this.#onrequest = onrequest;
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
    checkNumber('message type', type);
    const bytes = bytesOf(data);
    return this.#enqueue(() => this.#transmit(type, bytes));
  }

  /**
   * Sends a message that the server answers, and resolves to its reply, a
   * { type, data }. Any number may be under way. Without a connection it waits
   * for one. It rejects with a ReplyError if that is the server's answer, and
   * otherwise with an error whose code tells what has become of the request:
   *
   *   ERR_IPC_NO_REPLY     it was sent, and no reply will come. The server may
   *                        have handled it, so it is not sent again. The cause,
   *                        if the server did not say so, is the lost connection
   *                        or the signal's reason, and then so is the name.
   *   ERR_IPC_NO_REQUESTS  the server knows no requests
   *   any other            it was not handled; the signal's reason is thrown as it is
   *
   * What comes before the reply has to be read for the reply to be: a program
   * without use for messages calls resume(). Data must not be changed meanwhile.
   *
   * @param {number} type 1 … 2147483647
   * @param {string | Uint8Array} data
   * @param {object} [options]
   * @param {AbortSignal} [options.signal] gives the request up, and tells the server
   */
  async request(type, data, { signal } = {}) {
    for await (const reply of this.#ask(type, data, 0, signal)) return reply;
  }

  /**
   * Is request() for an answer in parts: an iterator over { type, data }, to
   * the end of the answer. An answer that breaks off throws as request() does.
   * Leaving the loop gives the request up, and tells the server. While too many
   * parts wait to be taken, nothing more is read from the connection.
   */
  requestParts(type, data, { signal } = {}) {
    return this.#ask(type, data, PARTS_WELCOME, signal);
  }

  /** Sends what send() has taken, for a second at most and only if connected, and disconnects. */
  async close() {
    if (this.#ready) await Promise.race([this.#sends, sleep(FLUSH_LIMIT, undefined, { ref: false })]);
    this.#end(new IpcError('ERR_IPC_CLOSED', 'the client was closed'));
    await this.#running;
  }

  _read() {
    this.#isFull = false;
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
    this.#failAll(reason);
    this.push(null);
  }

  /** Tells those that wait for a connection that there will be none. */
  #failAll(reason) {
    this.#link.reject(reason);
    for (const call of this.#waiting.splice(0)) call.end(reason);
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
        this.#attach(link);

        const reason = await this.#receive(link).catch((error) => error);
        link.destroy();
        if (performance.now() - since >= STABLE_AFTER) this.#pause = 0;
        this.#detach(link, signal.reason ?? reason);
        link.retired.resolve();
        signal.throwIfAborted();
        if (!this.#reconnect) throw reason;
        this.emit('disconnect', reason);
      }
    } catch (error) {
      this.#stop.abort(error);
      this.#failAll(error);
      // Who waits in connect() has the error already; a reader gets it as the
      // stream's, unless the end was asked for.
      if (!wasConnected || error.code === 'ERR_IPC_CLOSED') this.push(null);
      else this.destroy(error);
    }
  }

  /** Tries until there is a connection; the pauses grow, and are never all the same. */
  async #dial(isFirst) {
    const { signal } = this.#stop;
    let last; // why the latest attempt failed
    const giveUp = () => this.#stop.abort(timedOut(isFirst, this.#path, this.#connection?.unanswered ?? last));
    const timer = this.#timeout && setTimeout(giveUp, this.#timeout);
    const since = performance.now();
    try {
      for (;;) {
        if (this.#pause > 0) await sleep(this.#pause * (0.5 + Math.random() / 2), undefined, { signal });
        this.#pause = Math.min(Math.max(FIRST_PAUSE, 2 * this.#pause), this.#retryTimer);
        const link = this.#connection = new Link(this.#path);
        try {
          await link.handshake(this.#encryption, () => this.emit('waiting', link.unanswered));
          return link;
        } catch (error) {
          link.destroy();
          signal.throwIfAborted();
          // The server may be replaced by one that fits, so only a client that
          // has never been connected gives up.
          const passing = TRANSIENT.has(error.code)
            || (error.code === 'EACCES' && performance.now() - since < PERMISSION_GRACE);
          if (isFirst && !passing) throw error;
          if (error.message !== last?.message) this.emit('retry', error);
          last = error;
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
    const { signal } = this.#stop;
    while (!signal.aborted) {
      const { type, data } = await link.receive();
      if (type === CONTROL_TYPE) {
        this.#obey(link, data);
      } else {
        this.#pause = 0; // it works: the next loss is worth an attempt at once
        this.#isFull = !this.push({ type, data });
      }
      while ((this.#isFull || this.#unread > UNREAD_PARTS) && !signal.aborted) {
        await new Promise((resolve) => { this.#wake = resolve; });
      }
    }
  }

  /** Runs what sends something, after all that was enqueued before. */
  #enqueue(task) {
    const done = this.#sends.then(task);
    this.#sends = done.catch(() => {}); // this task's failure is not the next one's
    return done;
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

  #attach(link) {
    this.#ready = link;
    this.#link.resolve(link);
    // A server that knows requests says so at once.
    link.timer = setTimeout(() => {
      link.places ??= 0;
      this.#issue();
    }, ANNOUNCED_WITHIN);
    link.timer.unref();
    this.#issue();
  }

  /** Takes back what the lost connection has not sent, and ends what it has. */
  #detach(link, reason) {
    clearTimeout(link.timer);
    this.#ready = undefined;
    this.#link = deferred();
    link.loss = new IpcError('ERR_IPC_LOST', 'the connection was lost', { cause: reason });
    const unsent = [];
    for (const call of link.calls.values()) {
      if (call.state === 'sent') call.end(unanswered(reason));
      if (call.state === 'queued') unsent.push(call.withdraw());
    }
    this.#waiting.unshift(...unsent);
    link.calls.clear(); // what is being sent sees to itself
    for (const abort of link.questions.values()) abort(link.loss);
    link.questions.clear();
  }

  async* #ask(type, data, flags, signal) {
    checkNumber('message type', type);
    const call = new Call(type, bytesOf(data), flags);
    signal?.throwIfAborted();
    this.#stop.signal.throwIfAborted();
    const abort = () => {
      if (call.state !== 'ended' || call.flags) this.#giveUp(call, signal.reason); // else the reply is here
    };
    if (signal) {
      setMaxListeners(0, signal); // any number of requests may share one
      signal.addEventListener('abort', abort);
    }
    this.#waiting.push(call);
    this.#issue();
    try {
      for (;;) {
        const answer = await call.next();
        if (!answer) return;
        this.#unread -= weight(answer);
        this.#wake();
        yield answer;
      }
    } finally {
      signal?.removeEventListener('abort', abort);
      this.#giveUp(call);
    }
  }

  /** Gives the connection as many of the waiting calls as the server accepts. */
  #issue() {
    const link = this.#ready;
    while (this.#waiting.length > 0 && link?.places !== undefined) {
      const max = link.maxMsgSize - CONTROL_SIZE;
      const call = this.#waiting[0];
      if (link.places === 0) {
        call.end(new IpcError('ERR_IPC_NO_REQUESTS', 'the server knows no requests'));
      } else if (call.data.length > max) {
        call.end(new IpcError('ERR_IPC_TOO_LARGE', `${call.data.length} bytes exceed the server's limit of ${max} for a request`));
      } else if (link.calls.size < link.places) {
        call.queue(link);
        this.#enqueue(() => this.#sendCall(call, link, call.id));
      } else {
        return; // until one has ended
      }
      this.#waiting.shift();
    }
  }

  async #sendCall(call, link, id) {
    if (call.link !== link || call.id !== id) return; // it was taken back
    call.state = 'sending';
    const isSent = await link.sendControl(REQUEST, call.flags, call.type, id, call.data);
    if (!isSent) await link.retired.promise;
    if (call.state !== 'sending') return; // it has ended
    if (this.#ready === link) {
      call.state = 'sent';
    } else if (isSent || this.#stop.signal.aborted) { // after close() it may have been sent all the same
      call.end(unanswered(link.loss.cause));
    } else {
      this.#waiting.unshift(call.withdraw());
      this.#issue();
    }
  }

  /** Drops what has come for a call, and ends it. */
  #giveUp(call, reason) {
    const dropped = call.unread.splice(0);
    for (const answer of dropped) this.#unread -= weight(answer);
    this.#wake();
    const { state, link, id } = call;
    if (state === 'ended') {
      if (dropped.length > 0) call.end(givenUp(reason));
    } else if (state === 'waiting') {
      this.#waiting.splice(this.#waiting.indexOf(call), 1);
      call.end(reason);
    } else if (state === 'queued') {
      link.calls.delete(id);
      call.withdraw().end(reason);
      this.#issue();
    } else {
      call.end(givenUp(reason));
      // It keeps its place until the server has ended it, too.
      this.#enqueue(() => link.calls.has(id) && link.sendControl(CANCEL, 0, 0, id, NOTHING));
    }
  }

  /** Acts on a control frame. */
  #obey(link, data) {
    const control = parseControl(data, link.isAnnounced);
    if (!control) return;
    if (control.kind === REQUEST) {
      this.#answer(link, control);
    } else if (control.kind === CANCEL) {
      link.checkId(control, link.lastQuestion);
      link.questions.get(control.id)?.();
    } else if (control.kind !== ANNOUNCE) {
      this.#takeAnswer(link, control);
    } else if (!link.isAnnounced) {
      link.isAnnounced = true;
      link.places = Math.min(control.n, MAX_REQUESTS);
      this.#issue();
    }
  }

  #takeAnswer(link, control) {
    const { kind, n, id, payload } = control;
    link.checkId(control, link.lastCall);
    const call = link.calls.get(id);
    if (!call) return; // it has ended
    if (call.state === 'queued') throw protocolError(`an answer to request ${id}, which was not sent`);
    if (kind === PART && !call.flags) throw protocolError(`a part for request ${id}, which takes one reply`);

    const isOver = call.state === 'ended'; // for us
    if (!isOver && kind !== ERROR && n > 0) {
      const answer = { type: n, data: payload };
      this.#unread += weight(answer);
      call.add(answer);
    }
    if (kind === PART) return;
    link.calls.delete(id);
    if (!isOver) call.end(finalError(kind, n, call.flags, payload));
    this.#issue();
  }

  /** Has onrequest answer a request, and answers it if that does not. */
  #answer(link, { id, flags, n: type, payload: data }) {
    link.checkQuestion(id);
    let isOpen = true;
    const controller = new AbortController();
    const { signal } = controller;
    link.questions.set(id, (reason) => { if (isOpen) controller.abort(reason); });

    const put = (kind, n, payload) => this.#enqueue(() => {
      if (kind === PART) signal.throwIfAborted();
      else link.questions.delete(id);
      return this.#ready === link && link.sendControl(kind, 0, n, id, payload);
    });
    const answer = async (kind, n, payload) => {
      if (!isOpen) throw new IpcError('ERR_IPC_NOT_ASKED', 'the request has been answered');
      signal.throwIfAborted();
      const max = link.maxMsgSize - CONTROL_SIZE;
      if (payload.length > max) {
        throw new IpcError('ERR_IPC_TOO_LARGE', `${payload.length} bytes exceed the server's limit of ${max} for a reply`);
      }
      isOpen = kind === PART;
      if (await put(kind, n, payload)) return;
      await link.retired.promise;
      throw link.loss;
    };
    const request = new IpcRequest(type, data, (flags & PARTS_WELCOME) !== 0, signal, answer);
    const handle = async () => this.#onrequest?.(request);
    handle().finally(() => {
      if (isOpen) put(ERROR, 0, NOTHING).catch(() => {});
      isOpen = false;
    }).catch((error) => {
      if (signal.aborted && error === signal.reason || link.loss && error === link.loss) return; // as it should be
      if (!this.emit('requesterror', error, request)) process.emitWarning(error instanceof Error ? error : String(error));
    });
  }
}

/** A request of the server's, as onrequest gets it. */
export class IpcRequest {
  #answer;

  /** It is made by IpcClient. */
  constructor(type, data, partsWelcome, signal, answer) {
    this.type = type;
    this.data = data;
    /** Whether the server takes an answer in parts. */
    this.partsWelcome = partsWelcome;
    /** Ends when the server gives the request up, and when its connection is lost. */
    this.signal = signal;
    this.#answer = answer;
  }

  /**
   * Answers, for good. Like all of these methods it resolves when the kernel
   * has the answer, and rejects if it does not go out: with the signal's reason,
   * or ERR_IPC_NOT_ASKED, ERR_IPC_TOO_LARGE or ERR_IPC_LOST. Nobody has to look.
   */
  reply(type, data) {
    return quietly(async () => this.#answer(REPLY, checkNumber('message type', type), bytesOf(data)));
  }

  /** Sends one of several parts, where they are welcome; wait for it, and memory stays bounded. */
  replyPart(type, data) {
    return quietly(async () => {
      this.#checkParts();
      return this.#answer(PART, checkNumber('message type', type), bytesOf(data));
    });
  }

  /** Ends an answer in parts. A reply() instead is the last of them. */
  replyEnd() {
    return quietly(async () => {
      this.#checkParts();
      return this.#answer(REPLY, 0, NOTHING);
    });
  }

  /** Answers with an error: code is 1 … 2147483647, and the program's. */
  replyError(code, text) {
    return quietly(async () => this.#answer(ERROR, checkNumber('code', code), Buffer.from(String(text))));
  }

  #checkParts() {
    if (!this.partsWelcome) throw new IpcError('ERR_IPC_NOT_ASKED', 'the request takes one reply');
  }
}

/** A request of ours, and the answers to it. */
class Call {
  state = 'waiting'; // for a place on a connection; then queued, sending, sent; and ended
  link; // it is on this connection,
  id; // and this is its id there
  unread = [];
  #error;
  #news = deferred();

  constructor(type, data, flags) {
    this.type = type;
    this.data = data;
    this.flags = flags;
  }

  queue(link) {
    this.state = 'queued';
    this.link = link;
    this.id = ++link.lastCall;
    link.calls.set(this.id, this);
  }

  withdraw() {
    this.state = 'waiting';
    this.link = undefined;
    return this;
  }

  add(answer) {
    this.unread.push(answer);
    this.#tell();
  }

  end(error) {
    this.state = 'ended';
    this.#error = error;
    this.#tell();
  }

  /** The next answer; none after the last. */
  async next() {
    for (;;) {
      if (this.unread.length > 0) return this.unread.shift();
      if (this.#error) throw this.#error;
      if (this.state === 'ended') return undefined;
      await this.#news.promise;
    }
  }

  #tell() {
    this.#news.resolve();
    this.#news = deferred();
  }
}

/** One connection: its handshake, and the frames after it. */
class Link {
  maxMsgSize = 0;
  isAnnounced = false; // the server knows requests
  places; // how many it accepts, once that is known
  timer;
  calls = new Map(); // by id: those that hold a place
  lastCall = 0n;
  questions = new Map(); // by id: what aborts those of the server's that have no answer
  lastQuestion = 0n;
  loss; // once it has happened
  retired = deferred(); // resolves once the client no longer uses this connection
  unanswered; // what the server has yet to do in the handshake, as an error
  #socket;
  #reader;
  #seal;

  constructor(path) {
    this.#socket = createConnection({ path });
    this.#socket.on('error', () => {}); // the reader gets it too, and tells
    this.#socket.once('connect', () => {
      this.unanswered = new IpcError('ERR_IPC_UNANSWERED',
        'the connection is not answered: is the server busy, stopped, or not one of this protocol?');
    });
    this.#reader = new ByteReader(this.#socket);
  }

  get encrypted() {
    return this.#seal !== undefined;
  }

  destroy() {
    this.unanswered = undefined;
    this.#socket.destroy();
  }

  /**
   * Every answer waits for the step before it and is a write of its own: peers rely
   * on that. Calls onWait once if the server has no place for a while.
   */
  async handshake(insistOnEncryption, onWait) {
    const [version, encrypted] = await this.#reader.take(2).catch((error) => { throw turnedAway(error); });
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
    this.unanswered = new IpcError('ERR_IPC_NO_PLACE',
      'the server has no place for this client: is it in single mode, or at MaxClients?');
    const timer = setTimeout(onWait, PLACE_GRACE);
    const limit = await this.#take(4, 4).finally(() => clearTimeout(timer));
    this.unanswered = undefined;
    this.maxMsgSize = Math.min(limit.readUInt32BE(), MAX_MSG_SIZE);
    if (this.maxMsgSize < CONTROL_SIZE) {
      this.places = 0;
      await this.#put([Buffer.of(GO_ON)]);
    } else {
      await this.#put([Buffer.of(GO_ON), ...this.#frame(CONTROL_TYPE, [ANNOUNCEMENT])]);
    }
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

  /** The next message or control frame. */
  async receive() {
    const body = await this.#take(TYPE_SIZE, TYPE_SIZE + this.maxMsgSize);
    const type = body.readInt32BE();
    if (type < 0) throw protocolError(`message type ${type} is negative`);
    return { type, data: body.subarray(TYPE_SIZE) };
  }

  /** Resolves to whether the kernel has all of the message. If not, none of it will be delivered. */
  async send(type, data) {
    return this.#put(this.#frame(type, [data]));
  }

  /** Is send() for a control frame. */
  async sendControl(kind, flags, n, id, payload) {
    const head = Buffer.alloc(CONTROL_SIZE);
    head[0] = kind;
    head[1] = flags;
    head.writeUInt32BE(n, 4);
    head.writeBigUInt64BE(id, 8);
    return this.#put(this.#frame(CONTROL_TYPE, [head, payload]));
  }

  /** Checks the id of a frame about a request: the last one that was made has this id. */
  checkId({ kind, id }, last) {
    if (id === 0n || id > last) throw protocolError(`a control frame of kind ${kind} for request ${id}: there are ${last}`);
  }

  /** Checks and takes the id of a request of the server's. */
  checkQuestion(id) {
    if (id <= this.lastQuestion) throw protocolError(`request ${id} after ${this.lastQuestion}`);
    if (this.questions.size >= MAX_REQUESTS) throw protocolError(`more than ${MAX_REQUESTS} requests without an answer`);
    this.lastQuestion = id;
  }

  #frame(type, parts) {
    const head = Buffer.alloc(4 + TYPE_SIZE);
    head.writeInt32BE(type, 4);
    const sealed = this.#seal?.seal([head.subarray(4), ...parts]);
    const size = (pieces) => pieces.reduce((n, piece) => n + piece.length, 0);
    head.writeUInt32BE(sealed ? size(sealed) : TYPE_SIZE + size(parts));
    return sealed ? [head.subarray(0, 4), ...sealed] : [head, ...parts];
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

/** The path of the socket, or of the pipe, of a server. */
function pathOf(dir, name) {
  if (!ON_WINDOWS) return `${dir}/${name}.sock`;
  return ['\\\\.\\pipe', ...dir.split(/[\\/]+/).filter(Boolean), name].join('\\');
}

/** Why connecting to path was given up; cause is what kept it from succeeding, if that is known. */
function timedOut(isFirst, path, cause) {
  const why = cause?.syscall ? cause.code : cause?.message; // the system's messages repeat the path
  const message = `timed out trying to ${isFirst ? 'connect' : 're-connect'} to ${path}${why ? `: ${why}` : ''}`;
  return Object.assign(new IpcError('ERR_IPC_TIMEOUT', message, { cause }), { path });
}

/** Says what it may mean that a connection ended before the server said anything. */
function turnedAway(error) {
  if (error.code !== 'ERR_IPC_LOST' && error.code !== 'ECONNRESET') return error;
  return new IpcError('ERR_IPC_LOST', 'the server closed the connection without a word: '
    + 'it may have refused this client (Authorize), be closing, or speak another protocol', { cause: error });
}

/** What a control frame says, or undefined if that is nothing to us. */
function parseControl(data, isAnnounced) {
  const kind = data[0]; // an empty frame has none
  const isAnnouncement = kind === ANNOUNCE && ANNOUNCEMENT.subarray(0, 4).subarray(0, data.length).equals(data.subarray(0, 4));
  const isKnown = isAnnounced && kind >= REQUEST && kind <= CANCEL;
  if (!isAnnouncement && !isKnown) return undefined;
  if (data.length < CONTROL_SIZE) throw protocolError(`a control frame of kind ${kind} has ${data.length} bytes`);
  if (isAnnouncement) return data[4] === 0 ? undefined : { kind, n: data.readUInt32BE(8) };

  const n = data.readUInt32BE(4);
  const least = kind === REQUEST || kind === PART ? 1 : 0;
  if (kind !== CANCEL && (n < least || n > MAX_TYPE)) throw protocolError(`a control frame of kind ${kind} has the number ${n}`);
  // An id has 64 bits, more than a number of JavaScript's holds.
  return { kind, flags: data[1], n, id: data.readBigUInt64BE(8), payload: data.subarray(CONTROL_SIZE) };
}

/** The error, if it is one, that a final answer is. */
function finalError(kind, n, flags, payload) {
  if (kind === ERROR && n > 0) return new ReplyError(n, payload.toString());
  if (kind === REPLY && (n > 0 || flags)) return undefined;
  return new IpcError('ERR_IPC_NO_REPLY', 'the server has not replied');
}

const unanswered = (cause) => new IpcError('ERR_IPC_NO_REPLY', 'the connection was lost before the reply came', { cause });

function givenUp(cause) {
  const error = new IpcError('ERR_IPC_NO_REPLY', 'the request was given up after it was sent', { cause });
  if (cause?.name) error.name = cause.name;
  return error;
}

/** What an answer that was not taken counts. */
const weight = ({ data }) => data.length + 100;

function checkNumber(what, n) {
  if (!Number.isInteger(n) || n < 1 || n > MAX_TYPE) throw new RangeError(`${what} ${n} is not within 1 … ${MAX_TYPE}`);
  return n;
}

function bytesOf(data) {
  if (typeof data === 'string') return Buffer.from(data);
  if (!(data instanceof Uint8Array)) throw new TypeError('data is neither a string nor bytes');
  return data;
}

/** What f returns, without a report if that is a rejection and nobody looks. */
function quietly(f) {
  const result = f();
  result.catch(() => {});
  return result;
}

/** A promise and what settles it. Nobody may be waiting, so a rejection of it is not reported. */
function deferred() {
  const d = {};
  d.promise = new Promise((resolve, reject) => Object.assign(d, { resolve, reject }));
  d.promise.catch(() => {});
  return d;
}
