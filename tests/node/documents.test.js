// The published documents on a service with two workers: their snippets, unchanged, and the script of the Swagger page.
import assert from "node:assert/strict";
import { after, before, it } from "node:test";
import vm from "node:vm";
import { block, run } from "./page.js";
import { Service } from "./service.js";

const [ANNA, BORIS] = ["+79000000001", "+79000000002"];
const SEND = "/api/v1/chats/{chat_id}/messages";
let service;

before(async () => {
  service = await Service.create();
  await service.start("--workers", "2");
});

after(() => service.remove());

async function logIn(username) {
  const form = new URLSearchParams({ username, password: "demo-password" });
  return (await service.request("POST", "/api/v1/auth/login", { form })).data.access_token;
}

async function document(name) {
  return (await service.request("GET", name)).data;
}

it("the snippet of /docs/ receives an event", async () => {
  const token = await logIn(BORIS);
  const chats = (await service.request("GET", "/api/v1/chats", { token })).data.items;
  const users = (await service.request("GET", "/api/v1/users?query=Anna", { token })).data.items;
  const { id } = chats.find((chat) => chat.mine.peer?.id === users[0].id);
  // Until the page is connected it misses them.
  const sending = setInterval(() => {
    const json = { type: "text", text: "Are you there?", client_id: crypto.randomUUID() };
    service.request("POST", SEND.replace("{chat_id}", id), { token, json });
  }, 300);
  try {
    const output = await run(block((await document("/openapi.json")).info.description, "js"), "Are you there?");
    assert.match(output, /the list[^]*Are you there\?/);
  } finally {
    clearInterval(sending);
  }
});

it("the snippet of /docs/events/ connects and is answered", async () => {
  const output = await run(block((await document("/asyncapi.json")).info.description, "js"), "connected", "items");
  assert.match(output, /connected/);
  assert.match(output, /true 200/);
});

/** Returns the options with which the Swagger page starts Swagger. */
async function swaggerPage() {
  const source = await (await fetch(`${service.url}/docs/static/docs.js`)).text();
  let options;
  const SwaggerUIBundle = (given) => (options = given);
  vm.runInNewContext(source, { SwaggerUIBundle, crypto, location: new URL(`${service.url}/docs/`) });
  return options;
}

/** Returns the document as the Swagger page shows it. */
async function shown(page) {
  const url = `${service.url}/openapi.json`;
  return JSON.parse(page.responseInterceptor({ url, text: await (await fetch(url)).text() }).text);
}

it("each try on the Swagger page sends a new client_id, and one that was typed stays", async () => {
  const page = await swaggerPage();
  const [first, second] = [await shown(page), await shown(await swaggerPage())];
  const example = first.paths[SEND].post.requestBody.content["application/json"].examples.text.value;
  assert.notEqual(example.client_id, second.paths[SEND].post.requestBody.content["application/json"].examples.text.value.client_id);
  const headers = { "content-type": "application/json", authorization: `Bearer ${await logIn(ANNA)}` };
  const chat_id = first.paths[SEND].post.parameters[0].example;
  const send = async (message) => {
    const body = JSON.stringify(message, null, 2);
    const made = page.requestInterceptor({ url: service.url + SEND.replace("{chat_id}", chat_id), body });
    const answer = await fetch(made.url, { method: "POST", headers, body: made.body });
    return { status: answer.status, ...(await answer.json()) };
  };
  const tries = [await send(example), await send({ ...example, text: "Or at ten?" })];
  assert.deepEqual(tries.map(({ status }) => status), [201, 201]);
  assert.equal(new Set([example, ...tries].map(({ client_id }) => client_id)).size, 3);
  const typed = { ...example, client_id: crypto.randomUUID() };
  assert.deepEqual([(await send(typed)).status, (await send(typed)).status], [201, 200]);
});
