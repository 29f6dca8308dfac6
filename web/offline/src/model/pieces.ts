// The pieces of the model on this device: downloaded once, each with its check sum, into a cache of its own.
import type { OfflineConfig, Piece } from '../config'

export type DownloadFault = 'full' | 'network' | 'incomplete' | 'stopped'

export class DownloadError extends Error {
  constructor(
    readonly fault: DownloadFault,
    readonly file = '',
  ) {
    super(fault)
  }
}

function cacheName(config: OfflineConfig): string {
  return `carellama-model-${config.model.digest.slice(0, 12)}`
}

function addressOf(piece: Piece): string {
  return new URL(piece.file, document.baseURI).href
}

/** The pieces that are here, whole. */
export async function storedPieces(config: OfflineConfig): Promise<Set<string>> {
  const cache = await caches.open(cacheName(config))
  const urls = new Set((await cache.keys()).map((request) => request.url))
  return new Set(config.model.pieces.filter((piece) => urls.has(addressOf(piece))).map((piece) => piece.file))
}

/** Downloads what is missing, piece by piece; `onBytes` is told how much is here. Raises `DownloadError`. */
export async function download(config: OfflineConfig, signal: AbortSignal, onBytes: (bytes: number) => void): Promise<void> {
  const cache = await caches.open(cacheName(config))
  const stored = await storedPieces(config)
  let bytes = config.model.pieces.filter((piece) => stored.has(piece.file)).reduce((sum, piece) => sum + piece.bytes, 0)
  onBytes(bytes)
  for (const piece of config.model.pieces) {
    if (stored.has(piece.file)) continue
    const before = bytes
    const data = await fetchPiece(piece, signal, (more) => onBytes(before + more))
    if ((await digestOf(data)) !== piece.sha256) throw new DownloadError('incomplete', piece.file)
    try {
      const headers = { 'Content-Type': 'application/octet-stream', 'Content-Length': String(data.byteLength) }
      await cache.put(addressOf(piece), new Response(data, { headers }))
    } catch {
      throw new DownloadError('full')
    }
    bytes += piece.bytes
    onBytes(bytes)
  }
}

async function fetchPiece(piece: Piece, signal: AbortSignal, onBytes: (bytes: number) => void): Promise<Uint8Array<ArrayBuffer>> {
  const data = new Uint8Array(piece.bytes)
  let at = 0
  try {
    const response = await fetch(addressOf(piece), { signal, cache: 'no-store' })
    if (!response.ok || response.body === null) throw new DownloadError('incomplete', piece.file)
    const reader = response.body.getReader()
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      if (at + part.value.length > data.length) throw new DownloadError('incomplete', piece.file)
      data.set(part.value, at)
      at += part.value.length
      onBytes(at)
    }
  } catch (error) {
    if (error instanceof DownloadError) throw error
    throw new DownloadError(signal.aborted ? 'stopped' : 'network')
  }
  if (at !== data.length) throw new DownloadError('incomplete', piece.file)
  return data
}

async function digestOf(data: Uint8Array<ArrayBuffer>): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', data))
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('')
}

/** The whole file, put together from its pieces. Raises `DownloadError` where the browser has thrown one away. */
export async function modelBlob(config: OfflineConfig): Promise<Blob> {
  const cache = await caches.open(cacheName(config))
  const parts: Blob[] = []
  for (const piece of config.model.pieces) {
    const kept = await cache.match(addressOf(piece))
    const blob = kept === undefined ? null : await kept.blob()
    if (blob === null || blob.size !== piece.bytes) {
      await cache.delete(addressOf(piece))
      throw new DownloadError('incomplete', piece.file)
    }
    parts.push(blob)
  }
  return new Blob(parts)
}

export async function removeModel(config: OfflineConfig): Promise<void> {
  await caches.delete(cacheName(config))
}
