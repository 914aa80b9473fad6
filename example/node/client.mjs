// Talks to a golang-ipc server. Without --echo it greets the server once a
// second, shows what comes back and answers requests, until Ctrl-C, across
// restarts of the server. With --echo and --request it checks a server that sends
// everything back, and exits.

import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { IpcClient } from './ipc-client.mjs';

const USAGE = `usage: node client.mjs [options]

  --name NAME      name of the server (example)
  --path PATH      its socket, instead of /tmp/NAME.sock
  --encrypted      refuse a server that does not encrypt
  --timeout S      seconds to wait for a connection, an echo or a reply
                   (30 with what follows, else for ever)

against a server that sends everything back:

  --echo SIZE      send messages of SIZE random bytes and check the echoes
  --request SIZE   make requests with SIZE random bytes, all at once, and check
                   the replies
  --count N        how many, in each session (1)
  --sessions N     sessions, each with a connection of its own (1)
  --reconnect      send numbered messages until the server was restarted and
                   N echoes have come after that
`;

const ECHO_TYPE = 5;
const SEND_EVERY = 1; // milliseconds, with --reconnect

function parse() {
  const { values: given } = parseArgs({
    options: {
      name: { type: 'string' },
      path: { type: 'string' },
      encrypted: { type: 'boolean' },
      timeout: { type: 'string' },
      echo: { type: 'string' },
      request: { type: 'string' },
      count: { type: 'string' },
      sessions: { type: 'string' },
      reconnect: { type: 'boolean' },
      help: { type: 'boolean' },
    },
  });
  // parseArgs knows defaults since Node 18.11 only.
  const values = { name: 'example', count: '1', sessions: '1', ...given };
  const number = (name, min) => {
    const n = Number(values[name]);
    if (!/^\d+$/.test(values[name]) || n < min) throw new Error(`--${name} needs a number of ${min} or more`);
    return n;
  };
  const isTest = values.echo !== undefined || values.request !== undefined || values.reconnect;
  if (values.timeout === undefined) values.timeout = isTest ? 30_000 : 0;
  else values.timeout = 1000 * number('timeout', 0);
  for (const name of ['echo', 'request']) {
    if (values[name] !== undefined) values[name] = number(name, 0);
  }
  values.count = number('count', 1);
  values.sessions = number('sessions', 1);
  return values;
}

const newClient = ({ name, path, encrypted, timeout }, more) =>
  new IpcClient({ name, path, timeout, encryption: encrypted, ...more });

/** Sends and receives at the same time, so that neither side's buffers can fill up and stall both. */
async function echo(options) {
  const { echo: size, count, sessions } = options;
  const started = performance.now();
  for (let session = 1; session <= sessions; session++) {
    const client = newClient(options, { reconnect: false });
    await client.connect();
    // Every message is another window on the same random bytes.
    const bytes = randomBytes(size + count);
    const payload = (i) => bytes.subarray(i, i + size);
    const send = async () => {
      for (let i = 0; i < count; i++) await client.send(ECHO_TYPE, payload(i));
    };
    const check = async () => {
      const next = receiver(client, options.timeout);
      for (let i = 0; i < count; i++) {
        const { type, data } = await next();
        const where = `session ${session}, echo ${i + 1}`;
        if (type !== ECHO_TYPE) throw new Error(`${where}: type ${type} came back for ${ECHO_TYPE}`);
        if (!payload(i).equals(data)) throw new Error(`${where}: not the ${size} bytes that were sent`);
      }
    };
    await Promise.all([send(), check()]);
    await client.close();
  }
  const seconds = ((performance.now() - started) / 1000).toFixed(2);
  return `ok: ${sessions} sessions, ${sessions * count} echoes of ${size} bytes, ${seconds} s`;
}

/** Makes requests, and meanwhile sends back what the server asks. */
async function request(options) {
  const { request: size, count, timeout } = options;
  let answered = 0;
  const client = newClient(options, {
    reconnect: false,
    onrequest: async (asked) => {
      await asked.reply(asked.type, asked.data);
      answered++;
    },
  });
  client.resume(); // what comes besides is of no use here, and would hold up the replies
  await client.connect();
  const signal = timeout ? AbortSignal.timeout(timeout) : undefined;
  const ask = async (_, i) => {
    const data = randomBytes(size);
    const reply = await client.request(ECHO_TYPE, data, { signal });
    if (reply.type !== ECHO_TYPE) throw new Error(`request ${i + 1}: type ${reply.type} came back for ${ECHO_TYPE}`);
    if (!data.equals(reply.data)) throw new Error(`request ${i + 1}: not the ${size} bytes that were sent`);
  };
  await Promise.all(Array.from({ length: count }, ask));
  await client.close();
  return `ok: ${count} requests of ${size} bytes, ${answered} answered`;
}

/**
 * Messages that a server took with it are lost, so numbers may be missing
 * once for each restart. None may come twice, changed or out of order.
 */
async function reconnect(options) {
  const { echo: size = 64, count } = options;
  const client = newClient(options);
  await client.connect();
  let restarts = 0;
  let sent = 0;
  let sentBefore = 0; // the last restart
  client.on('disconnect', () => {
    restarts++;
    sentBefore = sent;
  });

  const payload = (n) => {
    const bytes = Buffer.alloc(Math.max(8, size), n & 0xff);
    bytes.writeBigUInt64BE(BigInt(n));
    return bytes;
  };
  let done = false;
  const send = async () => {
    for (; !done; await sleep(SEND_EVERY)) await client.send(ECHO_TYPE, payload(++sent));
  };
  const check = async () => {
    const next = receiver(client, options.timeout);
    let last = 0, gaps = 0, lost = 0;
    for (let after = 0; after < count;) {
      const { type, data } = await next();
      if (type !== ECHO_TYPE || data.length < 8) {
        throw new Error(`echo after ${last}: type ${type}, ${data.length} bytes`);
      }
      const n = Number(data.readBigUInt64BE());
      if (n <= last || n > sent) throw new Error(`echo ${n} came after ${last}, with ${sent} sent`);
      if (!payload(n).equals(data)) throw new Error(`echo ${n} is not what was sent`);
      const missing = n - last - 1;
      if (missing > 0) {
        gaps++;
        lost += missing;
        if (gaps > restarts) throw new Error(`${missing} echoes are missing after ${last}, without a restart`);
      }
      last = n;
      if (restarts > 0 && n > sentBefore) after++;
    }
    done = true;
    return `ok: ${restarts} restarts, ${last} sent, ${lost} lost with the server`;
  };
  const [, summary] = await Promise.all([send(), check()]);
  await client.close();
  return summary;
}

/** A function that returns the client's next message, and waits for it so long and no longer. */
function receiver(client, milliseconds) {
  const messages = client[Symbol.asyncIterator]();
  return async () => {
    const timer = milliseconds && setTimeout(
      () => client.destroy(new Error('no echo came in time')), milliseconds);
    try {
      const { value, done } = await messages.next();
      if (done) throw new Error('the connection ended before all echoes came');
      return value;
    } finally {
      clearTimeout(timer);
    }
  };
}

async function chat(options) {
  const client = newClient(options, {
    onrequest: async (request) => {
      console.log(`asked type ${request.type}: ${request.data}`);
      await request.reply(request.type, `you asked ${request.data}`);
    },
  });
  client.on('retry', (reason) => console.log(`waiting for the server: ${reason.message}`));
  client.on('waiting', (reason) => console.log(`waiting for a place: ${reason.message}`));
  client.on('disconnect', (reason) => console.log(`disconnected: ${reason.message}`));
  client.on('connect', ({ encrypted, maxMsgSize }) => {
    console.log(`connected, ${encrypted ? 'encrypted' : 'not encrypted'}, messages of up to ${maxMsgSize} bytes`);
  });

  const stop = new AbortController();
  process.once('SIGINT', () => {
    stop.abort();
    client.close();
  });
  const greet = async () => {
    await client.connect();
    for (let n = 1; ; n++) {
      await client.send(1, `hello ${n} from Node`);
      await sleep(1000, undefined, { signal: stop.signal });
    }
  };
  const show = async () => {
    for await (const { type, data } of client) console.log(`received type ${type}: ${data}`);
  };
  await Promise.all([greet(), show()]).catch((error) => {
    if (!stop.signal.aborted) throw error;
  });
}

try {
  const options = parse();
  if (options.help) console.log(USAGE);
  else if (options.reconnect) console.log(await reconnect(options));
  else if (options.request !== undefined) console.log(await request(options));
  else if (options.echo !== undefined) console.log(await echo(options));
  else await chat(options);
} catch (error) {
  console.error(`error: ${error.message}`);
  process.exit(1);
}
