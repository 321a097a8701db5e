// Runs the script of a page, as a document or the README shows it.
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { rm, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

const SECONDS = 30;

/** Returns the first code block of a language. */
export const block = (text, language) => text.match(new RegExp("```" + language + "\\n([^]*?)```"))[1];

/** Runs a script until its output has all these texts, and returns the output; without them after half a minute. */
export async function run(script, ...expected) {
  // Beside this file, since the client is installed here.
  const file = fileURLToPath(new URL(`./page-${randomUUID()}.mjs`, import.meta.url));
  await writeFile(file, script);
  const page = spawn(process.execPath, [file], { stdio: ["ignore", "pipe", "inherit"] });
  const late = setTimeout(() => page.kill(), SECONDS * 1000);
  let output = "";
  try {
    for await (const part of page.stdout) {
      output += part;
      if (expected.every((text) => output.includes(text))) break;
    }
    return output;
  } finally {
    clearTimeout(late);
    page.kill();
    await rm(file);
  }
}
