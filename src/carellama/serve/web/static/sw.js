// The service worker: the page opens without a network, to read earlier conversations. It keeps the page's own files
// and nothing else: no question, no answer, nothing of /web/ or /v1/. vite.config.mjs fills in version and files.
const CACHE = 'carellama-a4c3b074097e'
const FILES = ["/assets/AccountDialog-CGIcE_14.css","/assets/AdminDialog-M-ukD6-h.css","/assets/EntryPage-D_8M9Qcx.css","/assets/FeedbackForm-wh4K7Y2X.css","/assets/Field-CvCZS3xm.css","/assets/LoginForm-D4QxwJUp.css","/assets/ModelCards-DdGjFgn7.css","/assets/SessionDialog-Cttc4hvt.css","/assets/index-7rASlyEw.css","/assets/index-DJ2RkThN.js","/assets/index.svelte-bytSR9ZM.js","/assets/server-BBGwP_j3.js"]
const SHELL = '/'

self.addEventListener('install', (event) => {
  event.waitUntil(
    caches
      .open(CACHE)
      .then((cache) => cache.addAll([SHELL, '/icon.svg', '/manifest.webmanifest', ...FILES]))
      .then(() => self.skipWaiting()),
  )
})

self.addEventListener('activate', (event) => {
  const forget = (names) => Promise.all(names.filter((name) => name.startsWith('carellama-') && name !== CACHE).map((name) => caches.delete(name)))
  event.waitUntil(
    caches
      .keys()
      .then(forget)
      .then(() => self.clients.claim()),
  )
})

self.addEventListener('fetch', (event) => {
  const { method, mode, url } = event.request
  const { origin, pathname } = new URL(url)
  if (method !== 'GET' || origin !== self.location.origin) return
  if (mode === 'navigate') {
    if (pathname !== '/' && !pathname.startsWith('/c/')) return
    event.respondWith(fetch(event.request).catch(() => caches.match(SHELL)))
  } else if (pathname.startsWith('/assets/')) {
    event.respondWith(caches.match(pathname).then((kept) => kept ?? fetchAndKeep(event.request)))
  }
})

/** Parts that are loaded when an answer needs them (formulas, coloured code) are kept from then on. */
async function fetchAndKeep(request) {
  const response = await fetch(request)
  if (response.ok) await (await caches.open(CACHE)).put(request, response.clone())
  return response
}
