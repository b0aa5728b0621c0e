// Small PNGs: a screenshot has few colours, so 256 of them and a strong deflate make it a quarter.
import { deflateSync, crc32 } from "node:zlib";

/** The picture's colours, at most 256, and which of them each point has. Runs in a page. */
async function indexed(base64) {
  const bitmap = await createImageBitmap(await (await fetch(`data:image/png;base64,${base64}`)).blob());
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
  canvas.drawImage(bitmap, 0, 0);
  const { data, width, height } = canvas.getImageData(0, 0, bitmap.width, bitmap.height);
  const points = new Uint32Array(width * height), counts = new Map();
  for (let n = 0; n < points.length; n += 1) {
    const colour = (data[4 * n] << 16) | (data[4 * n + 1] << 8) | data[4 * n + 2];
    points[n] = colour;
    counts.set(colour, (counts.get(colour) ?? 0) + 1);
  }
  const palette = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 256).map(([colour]) => colour);
  const parts = (c) => [c >> 16, (c >> 8) & 255, c & 255];
  const nearest = new Map(palette.map((colour, n) => [colour, n]));
  for (const colour of counts.keys()) {
    if (nearest.has(colour)) continue;
    const [r, g, b] = parts(colour);
    let best = 0, least = Infinity;
    palette.forEach((other, n) => {
      const [x, y, z] = parts(other);
      const apart = (r - x) ** 2 + (g - y) ** 2 + (b - z) ** 2;
      if (apart < least) [best, least] = [n, apart];
    });
    nearest.set(colour, best);
  }
  let text = "";
  for (const point of points) text += String.fromCharCode(nearest.get(point));
  return { width, height, palette, indices: btoa(text) };
}

function chunk(kind, body) {
  const head = Buffer.alloc(4), tail = Buffer.alloc(4), named = Buffer.concat([Buffer.from(kind), body]);
  head.writeUInt32BE(body.length);
  tail.writeUInt32BE(crc32(named));
  return Buffer.concat([head, named, tail]);
}

/** The same picture as a PNG with a palette. `page`: any page whose policy lets data be fetched. */
export async function small(page, png) {
  const { width, height, palette, indices } = await page.evaluate(indexed, png.toString("base64"));
  const points = Buffer.from(indices, "base64");
  const rows = Buffer.alloc((width + 1) * height);
  for (let y = 0; y < height; y += 1) points.copy(rows, y * (width + 1) + 1, y * width, (y + 1) * width);
  const size = Buffer.alloc(13);
  size.writeUInt32BE(width, 0);
  size.writeUInt32BE(height, 4);
  size.set([8, 3, 0, 0, 0], 8);
  const colours = Buffer.from(palette.flatMap((c) => [c >> 16, (c >> 8) & 255, c & 255]));
  return Buffer.concat([Buffer.from([137, 80, 78, 71, 13, 10, 26, 10]), chunk("IHDR", size), chunk("PLTE", colours),
    chunk("IDAT", deflateSync(rows, { level: 9 })), chunk("IEND", Buffer.alloc(0))]);
}
