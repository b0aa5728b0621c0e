// Draws the Teams cards of the golden file with Microsoft's own renderer in Chromium:
// `node teams_screens.mjs FOLDER OUT`. Also checks that no card became markup on its way.

import { createRequire } from "node:module";
import { readFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { executablePath } from "./browser.mjs";

const [folder, out] = process.argv.slice(2);
const require = createRequire(folder + "/package.json");
const { chromium } = require("playwright-core");
const here = new URL(".", import.meta.url).pathname;
const cards = JSON.parse(readFileSync(join(here, "../../crates/approval/tests/card/teams.json"), "utf8"));
const renderer = readFileSync(require.resolve("adaptivecards/dist/adaptivecards.min.js"), "utf8");
const profile = mkdtempSync(join(tmpdir(), "cards-"));
const browser = await chromium.launchPersistentContext(profile, {
    executablePath, viewport: { width: 720, height: 900 }, deviceScaleFactor: 1.5,
    timezoneId: "Europe/Berlin", locale: "en-GB",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
const HOST = {
    fontFamily: "system-ui, sans-serif",
    spacing: { small: 4, default: 6, medium: 12, large: 16, extraLarge: 24, padding: 12 },
    fontSizes: { small: 12, default: 14, medium: 16, large: 18, extraLarge: 24 },
    fontTypes: { default: { fontFamily: "system-ui, sans-serif" }, monospace: { fontFamily: "'DejaVu Sans Mono', monospace" } },
    containerStyles: {
        default: { backgroundColor: "#ffffff" }, emphasis: { backgroundColor: "#f0f0f0" },
    },
    actions: { maxActions: 6, actionsOrientation: "horizontal", buttonSpacing: 8 },
};
const DARK = { ...HOST, containerStyles: {
    default: { backgroundColor: "#292929", foregroundColors: { default: { default: "#ffffff", subtle: "#c8c8c8" } } },
    emphasis: { backgroundColor: "#3d3d3d", foregroundColors: { default: { default: "#ffffff", subtle: "#c8c8c8" } } },
} };
let failed = 0;
for (const [name, card, look, width, press] of [
    ...Object.entries(cards).map(([name, card]) => [name, card, "light", 720]),
    ["open-dark", cards.open, "dark", 720],
    ["open-phone", cards.open, "light", 390],
    ["deny", cards.open, "light", 720, "Deny"],
    ["ask", cards.open, "light", 720, "Ask"],
    ["narrow", cards.open, "light", 720, "Narrow"],
]) {
    const page = await browser.newPage();
    await page.setViewportSize({ width, height: 900 });
    await page.setContent(`<style>
        body { margin: 12px; font: 14px system-ui, sans-serif; background: ${look === "dark" ? "#1f1f1f" : "#f5f5f5"} }
        .ac-adaptiveCard { border-radius: 6px; box-shadow: 0 1px 3px #0003; max-width: 700px }
        .ac-pushButton { font: inherit; padding: 5px 12px; border: 1px solid #8888; border-radius: 4px; background: #fff; margin-bottom: 4px }
        .ac-actionSet { flex-wrap: wrap } .ac-richTextBlock { overflow-wrap: anywhere }
        textarea, input, select { font: inherit; max-width: 100% }
        </style><div id="card"></div>`);
    await page.addScriptTag({ content: renderer });
    const seen = await page.evaluate(([card, host]) => {
        const shown = new AdaptiveCards.AdaptiveCard();
        shown.hostConfig = new AdaptiveCards.HostConfig(host);
        AdaptiveCards.AdaptiveCard.onProcessMarkdown = (text, result) => {
            // As Teams does: what is markdown becomes markup here.
            result.outputHtml = text.replace(/\*\*(.+?)\*\*/g, "<b>$1</b>").replace(/\[(.+?)\]\((.+?)\)/g, "<a href='$2'>$1</a>");
            result.didProcess = true;
        };
        shown.parse(card);
        const node = shown.render();
        document.getElementById("card").append(node);
        return { links: node.querySelectorAll("a, b, h1, img, script").length, text: node.innerText };
    }, [card, look === "dark" ? DARK : HOST]);
    const bad = seen.links > 0 || /\{\{|DATE\(|TIME\(/.test(seen.text) && name !== "hostile";
    if (bad) {
        failed += 1;
        console.log(`FAIL ${name}: markup or an unread function in the card: ${seen.text}`);
    }
    if (press) await page.getByRole("button", { name: press, exact: true }).click();
    await page.locator("#card").screenshot({ path: join(out, `teams-${name}.png`) });
    await page.close();
}
await browser.close();
rmSync(profile, { recursive: true, force: true });
process.exit(failed ? 1 : 0);
