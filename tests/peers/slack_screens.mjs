// Draws the Slack messages of the golden file in Chromium, by a renderer of Block Kit that others
// wrote: `node slack_screens.mjs FOLDER DRAWERS OUT`. FOLDER holds playwright-core, DRAWERS the
// packages of slack_screens.json. Also checks that no message became markup on its way.

import { createRequire } from "node:module";
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import { small } from "../console/png.mjs";
import { executablePath } from "./browser.mjs";

const [folder, drawers, out] = process.argv.slice(2);
const [require, drawing] = [folder, drawers].map((f) => createRequire(join(f, "package.json")));
const { chromium } = require("playwright-core");
const { createElement } = drawing("react");
const { renderToStaticMarkup } = drawing("react-dom/server");
const place = dirname(drawing.resolve("slack-blocks-to-jsx"));
const { Message } = await import(pathToFileURL(join(place, "index.mjs")));
const style = readFileSync(join(place, "style.css"), "utf8");
const here = new URL(".", import.meta.url).pathname;
const messages = JSON.parse(readFileSync(join(here, "../../crates/approval/tests/card/slack.json"), "utf8"));

const icon = readFileSync(join(here, "../../crates/approval/src/console/icon.svg"));
const logo = `data:image/svg+xml;base64,${icon.toString("base64")}`;

const browser = await chromium.launch({
    executablePath,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
// What the renderer leaves to the page around it.
const AROUND = `body { margin: 0; background: #fff; font: 15px/1.46 Lato, system-ui, sans-serif; color: #1d1c1d }
    #card { padding: 16px 20px } #card * { min-width: 0; overflow-wrap: break-word } blockquote, .slack_blocks_to_jsx__rich_text_quote { margin: 4px 0 }
    button { font: inherit }`;
let failed = 0;
// What each must say, at least.
const SAID = {
    grouped: ["customers", "invoices", "payroll"], ask: ["which ticket?"], deny: ["Looks wrong"],
    hostile: ["**APPROVED** by"], denied: ["denied by carol"], answered: ["which report?"],
};
const DARK = "body { background: #1a1d21; color: #d1d2d3 }";
for (const [name, key, theme, width] of [
    ...Object.keys(messages).map((key) => [key, key, "light", 720]),
    ["open-dark", "open", "dark", 720], ["open-phone", "open", "light", 390], ["grouped-phone", "grouped", "light", 390],
]) {
    const message = messages[key];
    const drawn = renderToStaticMarkup(createElement(Message, {
        name: "Grantwright", logo, time: new Date("2026-11-21T13:38:00Z"), blocks: message.blocks, theme,
    }));
    const page = await browser.newPage({ viewport: { width, height: 900 }, deviceScaleFactor: 1.5 });
    await page.setContent(`<!doctype html><meta charset="utf-8"><style>${style}${AROUND}${theme === "dark" ? DARK : ""}</style><div id="card">${drawn}</div>`);
    const seen = await page.evaluate(() => ({
        text: document.body.innerText, odd: document.querySelectorAll("#card script, #card iframe").length,
        wide: document.documentElement.scrollWidth > innerWidth,
    }));
    const wanted = SAID[key] ?? ["customers"];
    if (seen.odd || !wanted.every((word) => seen.text.includes(word))) {
        failed += 1;
        console.log(`FAIL ${name}: ${seen.text}`);
    }
    const png = await page.locator("#card").screenshot();
    writeFileSync(join(out, `slack-${name}.png`), await small(page, png));
    await page.close();
}
await browser.close();
process.exit(failed ? 1 : 0);
