// A client that does what a test tells it: see language_requests_test.go.

import crypto from 'node:crypto';
import { syncBuiltinESMExports } from 'node:module';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';

const { values: options } = parseArgs({
  options: {
    path: { type: 'string' },
    encrypted: { type: 'boolean' },
    'no-handler': { type: 'boolean' },
    key: { type: 'string' },
    prefix: { type: 'string' },
  },
});

if (options.key) {
  const { createECDH } = crypto;
  crypto.createECDH = (curve) => {
    const ecdh = createECDH(curve);
    ecdh.generateKeys = () => {
      ecdh.setPrivateKey(options.key, 'hex');
      return ecdh.getPublicKey();
    };
    return ecdh;
  };
}
if (options.prefix) crypto.randomBytes = () => Buffer.from(options.prefix, 'hex');
syncBuiltinESMExports(); // before the module is imported that is to get these
const { IpcClient, ReplyError } = await import('../../example/node/ipc-client.mjs');

const print = (event) => console.log(JSON.stringify(event));
const bytes = (hex = '') => Buffer.from(hex, 'hex');
const message = ({ type, data }) => ({ type, data: data.toString('hex') });

const KINDS = {
  ERR_IPC_CLOSED: 'closed',
  ERR_IPC_LOST: 'lost',
  ERR_IPC_NO_REPLY: 'no reply',
  ERR_IPC_NO_REQUESTS: 'no requests',
  ERR_IPC_NOT_ASKED: 'not asked',
  ERR_IPC_TOO_LARGE: 'too large',
};

function failure(error) {
  if (error instanceof ReplyError) return { kind: 'error', code: error.code, text: error.text };
  const maybe = error.code === 'ERR_IPC_NO_REPLY';
  let kind = KINDS[error.code] ?? 'other';
  if (maybe && error.cause) kind = error.cause.code === 'ERR_IPC_CLOSED' ? 'closed' : 'lost';
  if (error.name === 'AbortError') kind = 'cancelled';
  if (error.name === 'TimeoutError') kind = 'timeout';
  return { kind, text: error.message, maybe };
}

/** A function that waits until something has happened that makes condition true, and one that looks again. */
function gate(condition) {
  let look = () => {};
  const wait = async () => {
    while (!condition()) await new Promise((resolve) => { look = resolve; });
  };
  return { wait, look: () => look() };
}

const calls = new Map(); // what runs of ours
const handlers = new Map(); // what a handler has to do
const running = new Set();

async function request({ call, type, data, timeout }) {
  const controller = new AbortController();
  calls.set(call, { controller });
  const expired = new DOMException('expired', 'TimeoutError');
  const timer = timeout && setTimeout(() => controller.abort(expired), timeout);
  try {
    const reply = await client.request(type, bytes(data), { signal: controller.signal });
    print({ event: 'reply', call, ...message(reply) });
  } catch (error) {
    print({ event: 'failed', call, ...failure(error) });
  } finally {
    clearTimeout(timer);
  }
}

async function parts({ call, type, data, take = Infinity }) {
  const controller = new AbortController();
  const { signal } = controller;
  const c = { controller, left: take, isLeaving: false };
  c.gate = gate(() => c.left > 0 || c.isLeaving || signal.aborted);
  calls.set(call, c);
  try {
    for await (const part of client.requestParts(type, bytes(data), { signal })) {
      print({ event: 'part', call, ...message(part) });
      c.left--;
      await c.gate.wait();
      if (c.isLeaving) break;
    }
    print({ event: c.isLeaving ? 'left' : 'end', call });
  } catch (error) {
    print({ event: 'failed', call, ...failure(error) });
  }
}

const ANSWERS = {
  reply: (r, { type, data }) => r.reply(type, bytes(data)),
  part: (r, { type, data }) => r.replyPart(type, bytes(data)),
  end: (r) => r.replyEnd(),
  error: (r, { code, text = '' }) => r.replyError(code, text),
};

async function onrequest(r) {
  const request = handlers.size + 1;
  const queue = [];
  const { wait, look } = gate(() => queue.length > 0);
  handlers.set(request, (command) => {
    queue.push(command);
    look();
  });
  print({ event: 'request', request, ...message(r), parts: r.partsWelcome });
  r.signal.addEventListener('abort', () => print({ event: 'cancelled', request }));
  for (;;) {
    await wait();
    const command = queue.shift();
    if (command.do === 'return') return;
    if (command.do === 'raise') throw new Error('as it was told');
    try {
      await ANSWERS[command.do](r, command);
      print({ event: 'answered', request });
    } catch (error) {
      print({ event: 'refused', request, ...failure(error) });
    }
  }
}

const COMMANDS = {
  request,
  parts,
  take({ call, count }) {
    const c = calls.get(call);
    c.left += count;
    c.gate.look();
  },
  leave({ call }) {
    const c = calls.get(call);
    c.isLeaving = true;
    c.gate.look();
  },
  cancel({ call }) {
    const { controller, gate: g } = calls.get(call);
    controller.abort();
    g?.look();
  },
  send: ({ type, data }) => client.send(type, bytes(data)),
  async close() {
    await client.close();
    await Promise.all(running);
    process.exit(0);
  },
};

const client = new IpcClient({
  path: options.path,
  encryption: options.encrypted,
  onrequest: options['no-handler'] ? undefined : onrequest,
  retryTimer: 20,
});
client.on('connect', () => print({ event: 'connect' }));
client.on('disconnect', () => print({ event: 'disconnect' }));
client.on('data', (m) => print({ event: 'message', ...message(m) }));
client.on('requesterror', (error) => {
  if (error.message !== 'as it was told') console.error(error);
});

createInterface({ input: process.stdin }).on('line', (line) => {
  const command = JSON.parse(line);
  const handler = handlers.get(command.request);
  if (handler) {
    handler(command);
    return;
  }
  const run = (async () => COMMANDS[command.do](command))(); // a failure is the driver's, and ends it
  if (command.do !== 'close') running.add(run);
}).on('close', () => process.exit(1));
await client.connect();
