// node parse.mjs FILE...: says of each file what keeps Mermaid from reading it, and fails if something does.
import {readFileSync} from "node:fs";
import {JSDOM} from "jsdom";

const {window} = new JSDOM("");
Object.assign(globalThis, {window, document: window.document}); // Mermaid cleans labels with the browser's own parser
const {default: mermaid} = await import("mermaid");

for (const file of process.argv.slice(2)) {
  try {
    await mermaid.parse(readFileSync(file, "utf8"));
  } catch (error) {
    console.error(`${file}: ${error.message}`);
    process.exitCode = 1;
  }
}
