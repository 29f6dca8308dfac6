// Draws the PNG icons of the page (public/icon-*.png): a white cross with a speech bubble's tail on green.
// Run by hand after a change of the drawing: `npm run icons`. icon.svg is the same drawing.
import { writeFileSync } from 'node:fs'
import { deflateSync } from 'node:zlib'

const GREEN = [11, 99, 85]
const WHITE = [255, 255, 255]

/** Whether a point of the unit square is in the cross, or in the tail at its foot. */
function white(x, y) {
  const bar = Math.abs(x - 0.5) < 0.11 && Math.abs(y - 0.47) < 0.29
  const beam = Math.abs(y - 0.47) < 0.11 && Math.abs(x - 0.5) < 0.29
  const tail = y >= 0.76 && y < 0.88 && x > 0.39 && x < 0.61 - (y - 0.76) * 1.8
  return bar || beam || tail
}

/** Whether a point is within the square with round corners; `whole`: the square is filled to its edges. */
function green(x, y, whole) {
  const [dx, dy] = [Math.abs(x - 0.5) - 0.3, Math.abs(y - 0.5) - 0.3]
  return whole || Math.hypot(Math.max(dx, 0), Math.max(dy, 0)) < 0.2
}

function pixels(size, whole) {
  const rows = Buffer.alloc(size * (size * 4 + 1))
  const shrink = whole ? 0.8 : 1 // a maskable icon may be cut to a circle
  const STEPS = 4
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      let [inside, cross] = [0, 0]
      for (let at = 0; at < STEPS * STEPS; at++) {
        const px = (x + ((at % STEPS) + 0.5) / STEPS) / size
        const py = (y + (Math.floor(at / STEPS) + 0.5) / STEPS) / size
        if (green(px, py, whole)) inside++
        if (white((px - 0.5) / shrink + 0.5, (py - 0.5) / shrink + 0.5)) cross++
      }
      const share = cross / STEPS ** 2
      const offset = y * (size * 4 + 1) + 1 + x * 4
      for (let part = 0; part < 3; part++) rows[offset + part] = Math.round(GREEN[part] * (1 - share) + WHITE[part] * share)
      rows[offset + 3] = Math.round((255 * inside) / STEPS ** 2)
    }
  }
  return rows
}

const CRC = Array.from({ length: 256 }, (_none, at) => {
  let value = at
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1
  return value
})

/** A chunk of PNG (RFC 2083): length, name, data, CRC. */
function chunk(name, data) {
  const body = Buffer.concat([Buffer.from(name, 'latin1'), data])
  let crc = 0xffffffff
  for (const byte of body) crc = (crc >>> 8) ^ CRC[(crc ^ byte) & 255]
  const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)]
  length.writeUInt32BE(data.length)
  sum.writeUInt32BE((crc ^ 0xffffffff) >>> 0)
  return Buffer.concat([length, body, sum])
}

function png(size, whole) {
  const head = Buffer.alloc(13)
  head.writeUInt32BE(size, 0)
  head.writeUInt32BE(size, 4)
  head.set([8, 6, 0, 0, 0], 8) // 8 bits, RGBA
  const signature = Buffer.from([137, 80, 78, 71, 13, 10, 26, 10])
  const data = deflateSync(pixels(size, whole), { level: 9 })
  return Buffer.concat([signature, chunk('IHDR', head), chunk('IDAT', data), chunk('IEND', Buffer.alloc(0))])
}

for (const [name, size, whole] of [['icon-192', 192, false], ['icon-512', 512, false], ['icon-maskable-512', 512, true]]) {
  writeFileSync(new URL(`../public/${name}.png`, import.meta.url), png(size, whole))
}
