// Renders reports in Chromium: `node report_screens.mjs FOLDER OUT FILE…`. Each becomes a picture of the screen
// and a PDF as it prints; fails where a page is not as a page should be.

import { createRequire } from "node:module";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { pathToFileURL } from "node:url";
import { executablePath } from "./browser.mjs";

const [folder, out, ...files] = process.argv.slice(2);
const require = createRequire(folder + "/package.json");
const { chromium } = require("playwright-core");
const profile = mkdtempSync(join(tmpdir(), "reports-"));
const browser = await chromium.launchPersistentContext(profile, {
    executablePath, viewport: { width: 1200, height: 1400 },
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
let failed = 0;
for (const file of files) {
    const name = basename(file, ".html");
    const page = await browser.newPage();
    const said = [];
    page.on("console", (message) => said.push(message.text()));
    page.on("request", (request) => request.url().startsWith("file:") || said.push(request.url()));
    await page.goto(pathToFileURL(file).href);
    const seen = await page.evaluate(() => ({
        title: document.querySelector("h1")?.textContent,
        charts: document.querySelectorAll("figure svg").length,
        scripts: document.scripts.length,
        wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
        cut: [...document.querySelectorAll("svg text")].filter((text) => {
            const box = text.getBoundingClientRect(), frame = text.ownerSVGElement.getBoundingClientRect();
            return box.right > frame.right + 1 || box.bottom > frame.bottom + 1;
        }).length,
    }));
    await page.screenshot({ path: join(out, `${name}.png`) });
    const pdf = await page.pdf({ format: "A4", printBackground: true, path: join(out, `${name}.pdf`) });
    const good = seen.title && seen.charts === 5 && !seen.scripts && seen.wide <= 0 && !seen.cut && !said.length
        && pdf.length > 10000;
    console.log(`${good ? "ok  " : "FAIL"} ${name} ${JSON.stringify(seen)} ${said.join(" ")}`);
    failed += good ? 0 : 1;
    await page.close();
}
await browser.close();
rmSync(profile, { recursive: true, force: true });
process.exit(failed ? 1 : 0);
