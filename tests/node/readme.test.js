// The examples of the README, unchanged, on a service with its demo data.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { after, before, it } from "node:test";
import { promisify } from "node:util";
import { block, run } from "./page.js";
import { Service } from "./service.js";

const WRITTEN = "http://127.0.0.1:8000";
const readme = await readFile(new URL("../../README.md", import.meta.url), "utf8");

let service;

before(async () => {
  service = await Service.create();
  await service.start();
});

after(() => service.remove());

it("its page receives its own message", async () => {
  const script = block(readme, "js").replaceAll(WRITTEN, service.url);
  assert.match(await run(script, "the list changed", "the active chat changed"), /Hello!/);
});

it("its shell command logs in", async () => {
  const [command] = readme.match(/^curl .*login.*$/m);
  const { stdout } = await promisify(execFile)("sh", ["-c", command.replaceAll(WRITTEN, service.url)]);
  assert.equal(JSON.parse(stdout).token_type, "bearer");
});
