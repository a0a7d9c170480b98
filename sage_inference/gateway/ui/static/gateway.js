// The gateway's API, and the session that opens it. The token is in sessionStorage: gone with the tab, and no cookie.

const KEY = "sage-session";
// The page is served at / and at /ui, perhaps below a prefix.
export const BASE = new URL(".", location.href);

let token = null;
try { token = sessionStorage.getItem(KEY); } catch { /* storage is off: the session lasts until a reload */ }

export const signedIn = () => token !== null;

export class Refused extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

export function forget() {
  token = null;
  try { sessionStorage.removeItem(KEY); } catch { /* storage is off */ }
}

export async function signIn(secret) {
  const answer = await call("POST", "ui/session", secret, {});
  token = answer.token;
  try { sessionStorage.setItem(KEY, token); } catch { /* storage is off */ }
}

export async function signOut() {
  try { await call("DELETE", "ui/session"); } catch { /* the gateway is gone, and the session with it */ }
  forget();
}

export const authorization = () => (token === null ? {} : { authorization: `Bearer ${token}` });

// The decoded answer. Throws Refused for an error of the gateway, and TypeError where it cannot be reached.
export async function call(method, path, body, headers = authorization()) {
  const options = { method, headers: { accept: "application/json", ...headers }, cache: "no-store", credentials: "omit", redirect: "error" };
  if (body !== undefined) { options.body = JSON.stringify(body); options.headers["content-type"] = "application/json"; }
  const answer = await fetch(new URL(path, BASE), options);
  return await decoded(answer);
}

export async function decoded(answer) {
  let document = null;
  try { document = await answer.json(); } catch { /* not JSON */ }
  if (!answer.ok) throw new Refused(answer.status, document?.error?.message ?? `the gateway answered ${answer.status}`);
  return document;
}

// The events of a response with server-sent events, as [name, data].
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    const blocks = rest.split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      let name = "message";
      const data = [];
      for (const line of block.split(/\r?\n/)) {
        if (line.startsWith("event:")) name = line.slice(6).trim();
        else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
      }
      if (data.length) yield [name, data.join("\n")];
    }
  }
}
