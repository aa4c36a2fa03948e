// A real OpenID Connect provider for tests, and somebody who logs in at it as a browser would.
//
//   node oidc.mjs serve PORT PEOPLE    serves until it is killed; PEOPLE is a JSON file: user → groups,
//                                      or user → claims of their token
//   node oidc.mjs login PORT USER      prints the ID token that the user gets
//
// The package `oidc-provider` is found where NODE_MODULES says; ISSUER may be another URL of that port.

import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [, , command, port, argument] = process.argv;
const issuer = process.env.ISSUER ?? `http://127.0.0.1:${port}`;
// Below this path of the machine.
const below = new URL(issuer).pathname.replace(/\/$/, '');
const TAGS = 'https://aws.amazon.com/tags';
const client = { id: 'grid', secret: 'a-secret-of-tests', redirect: `${issuer}/back` };

async function serve() {
  // Nobody reads more than the first line.
  console.info = console.warn = () => {};
  const require = createRequire(`${process.env.NODE_MODULES}/`);
  const { default: Provider } = await import(pathToFileURL(require.resolve('oidc-provider')));
  const provider = new Provider(issuer, {
    clients: [{
      client_id: client.id,
      client_secret: client.secret,
      redirect_uris: [client.redirect],
      grant_types: ['authorization_code'],
      response_types: ['code'],
    }],
    claims: { openid: ['sub', 'azp', 'app_id', TAGS], groups: ['groups'] },
    conformIdTokenClaims: false,
    ttl: { IdToken: 24 * 3600 },
    pkce: { required: () => false },
    async findAccount(_, id) {
      const said = JSON.parse(readFileSync(argument, 'utf8'))[id] ?? [];
      const claims = Array.isArray(said) ? { groups: said } : said;
      return { accountId: id, claims: async () => ({ sub: id, ...claims }) };
    },
  });
  const answer = provider.callback();
  const server = createServer((request, reply) => {
    request.originalUrl = request.url;
    request.url = request.url.slice(below.length) || '/';
    answer(request, reply);
  });
  server.listen(Number(port), '127.0.0.1', () => console.log('ready'));
}

async function login() {
  const cookies = new Map();
  // One step of a browser: with its cookies, and without following.
  async function step(url, form) {
    const reply = await fetch(new URL(url, issuer), {
      method: form ? 'POST' : 'GET',
      body: form && new URLSearchParams(form),
      redirect: 'manual',
      headers: { cookie: [...cookies].map(([name, value]) => `${name}=${value}`).join('; ') },
    });
    for (const line of reply.headers.getSetCookie()) {
      const [, name, value] = line.match(/^([^=]+)=([^;]*)/);
      if (value) cookies.set(name, value); else cookies.delete(name);
    }
    return reply;
  }
  const query = new URLSearchParams({
    client_id: client.id,
    redirect_uri: client.redirect,
    response_type: 'code',
    scope: 'openid groups',
  });
  let place = `${issuer}/auth?${query}`;
  for (let steps = 0; steps < 20; steps += 1) {
    const reply = await step(place);
    const next = reply.headers.get('location');
    if (next?.startsWith(client.redirect)) {
      const code = new URL(next).searchParams.get('code');
      if (!code) throw new Error(next);
      const token = await fetch(`${issuer}/token`, {
        method: 'POST',
        body: new URLSearchParams({
          grant_type: 'authorization_code', code, redirect_uri: client.redirect,
        }),
        headers: { authorization: `Basic ${btoa(`${client.id}:${client.secret}`)}` },
      });
      console.log((await token.json()).id_token);
      return;
    }
    if (next) { place = next; continue; }
    // A page that asks who it is, or whether the client may know.
    const page = await reply.text();
    const prompt = page.match(/name="prompt" value="(\w+)"/)?.[1];
    const action = page.match(/action="([^"]+)"/)?.[1];
    if (!prompt || !action) throw new Error(`${reply.status} ${page}`);
    const form = prompt === 'login' ? { prompt, login: argument, password: 'any' } : { prompt };
    place = (await step(action, form)).headers.get('location');
  }
  throw new Error('the login does not end');
}

await (command === 'serve' ? serve() : login());
