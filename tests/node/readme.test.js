// The examples of the README, unchanged, on a service with its demo data.
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { readFile, rm, writeFile } from "node:fs/promises";
import { after, before, it } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { Service } from "./service.js";

const WRITTEN = "http://127.0.0.1:8000";
const readme = await readFile(new URL("../../README.md", import.meta.url), "utf8");

/** The first code block of a language, with the address of this service. */
const block = (language) => readme.match(new RegExp("```" + language + "\\n([^]*?)```"))[1].replaceAll(WRITTEN, service.url);

let service;

before(async () => {
  service = await Service.create();
  await service.start();
});

after(() => service.remove());

it("its page receives its own message", { timeout: 30_000 }, async () => {
  // Beside this file, since the client is installed here.
  const file = fileURLToPath(new URL("./readme-page.mjs", import.meta.url));
  await writeFile(file, block("js"));
  const page = spawn(process.execPath, [file], { stdio: ["ignore", "pipe", "inherit"] });
  try {
    let output = "";
    for await (const part of page.stdout) {
      output += part;
      if (output.includes("the list changed") && output.includes("the active chat changed")) break;
    }
    assert.match(output, /Hello!/);
  } finally {
    page.kill();
    await rm(file);
  }
});

it("its shell command logs in", async () => {
  const [command] = readme.match(/^curl .*login.*$/m);
  const { stdout } = await promisify(execFile)("sh", ["-c", command.replaceAll(WRITTEN, service.url)]);
  assert.equal(JSON.parse(stdout).token_type, "bearer");
});
