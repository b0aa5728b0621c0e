// What the console adds where scripts run: local times, keys, live updates, proofs. Everything can
// be read, and nearly everything done, without it.
"use strict";
