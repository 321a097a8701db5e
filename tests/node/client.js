// A user with an official Socket.IO client. Every answer and event is checked against the contract on arrival.
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { io } from "socket.io-client";
import { answers, events, problem } from "./contract.js";

const PATIENCE = 10_000;
let phones = Math.floor(Math.random() * 1e6) * 10;

// The commands and events that the tests used, compared with the published document at the end.
export const exercised = { commands: new Set(), events: new Set() };

export class Person {
  received = [];
  #faults = [];

  static async register(service, name) {
    const person = new Person();
    person.service = service;
    person.name = name;
    person.phone = `+7916${String(phones++).padStart(7, "0")}`;
    const account = { phone: person.phone, password: "correct horse", name };
    const { status, data } = await service.request("POST", "/api/v1/auth/register", { json: account });
    assert.equal(status, 201, JSON.stringify(data));
    person.id = data.id;
    await person.logIn();
    return person;
  }

  /** The same user on another device. */
  async another() {
    const device = new Person();
    Object.assign(device, { service: this.service, name: this.name, phone: this.phone, id: this.id });
    await device.logIn();
    return device;
  }

  async logIn() {
    const form = new URLSearchParams({ username: this.phone, password: "correct horse" });
    const { status, data } = await this.service.request("POST", "/api/v1/auth/login", { form });
    assert.equal(status, 200, JSON.stringify(data));
    this.token = data.access_token;
  }

  request(method, address, options = {}) {
    return this.service.request(method, `/api/v1${address}`, { token: this.token, ...options });
  }

  /** Connects and returns the payload of `ready`. */
  async connect(auth = {}) {
    this.socket = dial(this.service, { token: this.token, ...auth });
    this.socket.onAny((name, ...payload) => this.#take(name, payload));
    const failed = (error) => this.#faults.push(error);
    this.socket.on("connect_error", failed);
    const ready = await this.next("ready");
    // Later ones belong to reconnects.
    this.socket.off("connect_error", failed);
    return ready;
  }

  #take(name, payload) {
    exercised.events.add(name);
    this.received.push({ name, payload: payload[0] });
    try {
      assert.equal(payload.length, 1, `${name} has ${payload.length} arguments`);
      assert.ok(events[name], `${name} is not in the contract`);
      events[name](payload[0], name);
    } catch (error) {
      this.#faults.push(error);
    }
  }

  /** Returns the data of a command that succeeds. */
  async ask(command, ...argument) {
    const answer = await this.#answer(command, argument);
    assert.equal(answer.ok, true, `${command}: ${JSON.stringify(answer)}`);
    assert.deepEqual(Object.keys(answer).sort(), ["data", "ok", "request_id", "status"], command);
    assert.ok(answers[command], `${command} is not in the contract`);
    answers[command](answer.data, command);
    assert.equal(answer.status === 204, answer.data === null, `${command} answers ${answer.status}`);
    exercised.commands.add(command);
    return answer;
  }

  /** Returns the problem with which a command is refused. */
  async refused(command, ...argument) {
    const answer = await this.#answer(command, argument);
    assert.equal(answer.ok, false, `${command}: ${JSON.stringify(answer)}`);
    assert.deepEqual(Object.keys(answer).sort(), ["error", "ok"], command);
    problem(answer.error, command);
    return answer.error;
  }

  async #answer(command, argument) {
    const answer = await this.socket.timeout(PATIENCE).emitWithAck(command, ...argument);
    this.check();
    return answer;
  }

  /** Returns the payload of the first event of this name, received or to come, that meets the condition. */
  async next(name, condition = () => true, patience = PATIENCE) {
    for (const deadline = Date.now() + patience; Date.now() < deadline; await sleep(10)) {
      this.check();
      const found = this.received.find((event) => event.name === name && condition(event.payload));
      if (found) return found.payload;
    }
    throw new Error(`${this.name} got no such ${name}, only ${JSON.stringify(this.received, null, 1)}`);
  }

  forget() {
    this.received = [];
  }

  /** Returns the names of the events since `forget`. Events of all earlier commits have arrived when it returns. */
  async eventNames() {
    await this.ask("list_chats", { limit: 1 });
    // presence_changed may arrive at any time and is not about the chat.
    return this.received.map((event) => event.name).filter((name) => name !== "presence_changed");
  }

  close() {
    this.socket?.disconnect();
  }

  /** Fails if anything received was not as the contract says. */
  check() {
    if (this.#faults.length) throw this.#faults[0];
  }
}

export function dial(service, auth) {
  const quickly = { reconnectionDelay: 100, reconnectionDelayMax: 500 };
  return io(service.url, { auth, forceNew: true, ...quickly });
}

/** Returns the error with which a connection is refused. The client must not retry by itself. */
export async function refusal(service, auth) {
  const socket = dial(service, auth);
  const error = await new Promise((resolve, reject) => {
    setTimeout(reject, PATIENCE, new Error("neither refused nor connected")).unref();
    socket.once("connect", () => reject(new Error("connected")));
    socket.once("connect_error", (error) => (error.data ? resolve(error) : reject(error)));
  }).finally(() => socket.disconnect());
  exercised.events.add("connect_error");
  return error;
}
