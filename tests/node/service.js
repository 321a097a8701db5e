// Starts and stops the service as its users do, on a free port with an empty data directory.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));
const python = process.env.CHAT_PYTHON ?? path.join(root, ".venv/bin/python");
const START_SECONDS = 90;

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

export class Service {
  #process = null;
  #output = "";

  static async create() {
    const service = new Service();
    service.port = await freePort();
    service.url = `http://127.0.0.1:${service.port}`;
    // Short: it has the database's socket, whose path may have 107 characters at most.
    service.folder = await mkdtemp(path.join(tmpdir(), "chat-"));
    process.on("exit", () => service.#process?.kill());
    return service;
  }

  async start(...options) {
    const environment = { CHAT_DATA_DIR: this.folder, CHAT_RATE_LIMITS: "off", CHAT_LOG_FORMAT: "json" };
    const command = ["-m", "chat_app", "run", "--port", String(this.port), ...options];
    const streams = ["ignore", "pipe", "pipe"];
    this.#process = spawn(python, command, { cwd: root, env: { ...process.env, ...environment }, stdio: streams });
    const failed = once(this.#process, "error");
    for (const stream of [this.#process.stdout, this.#process.stderr])
      stream.on("data", (data) => (this.#output = (this.#output + data).slice(-20_000)));
    failed.then(([error]) => (this.#output += `${python}: ${error.message}`));
    await this.#ready();
  }

  async #ready() {
    for (const deadline = Date.now() + START_SECONDS * 1000; Date.now() < deadline; await sleep(100)) {
      if (!this.#process.pid || this.#process.exitCode !== null) break;
      const answer = await fetch(`${this.url}/readyz`).catch(() => null);
      if (answer?.ok) return;
    }
    await this.stop().catch(() => null);
    throw new Error(`The service did not get ready:\n${this.#output}`);
  }

  async stop() {
    if (!this.#process?.pid || this.#process.exitCode !== null) return;
    const ended = once(this.#process, "exit");
    this.#process.kill("SIGTERM");
    const late = setTimeout(() => this.#process.kill("SIGKILL"), 20_000);
    const [status] = await ended;
    clearTimeout(late);
    assert.equal(status, 0, `The service ended with ${status}:\n${this.#output}`);
  }

  async remove() {
    await this.stop();
    await rm(this.folder, { recursive: true, force: true });
  }

  async request(method, address, { token, json, form } = {}) {
    const headers = token ? { authorization: `Bearer ${token}` } : {};
    if (json !== undefined) headers["content-type"] = "application/json";
    const body = json === undefined ? form : JSON.stringify(json);
    const answer = await fetch(`${this.url}${address}`, { method, headers, body });
    const content = await answer.text();
    return { status: answer.status, data: content ? JSON.parse(content) : null };
  }
}
