// Debian's Chromium without its own windows, where it is installed: the same engine at a third of the processor
// time. CHROMIUM names another.
import { existsSync } from "node:fs";

const KNOWN = ["/usr/bin/chromium-headless-shell", "/usr/bin/chromium"];
export const executablePath = process.env.CHROMIUM ?? KNOWN.find((path) => existsSync(path)) ?? KNOWN[1];
