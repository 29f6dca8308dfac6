// The service worker: the page opens and answers without a network. The page's own files are kept when it is installed;
// the pieces of the model are put into their own cache by the page, which shows how far it is. Nothing else is kept, and
// nothing of what is asked or answered passes here. `carellama.export.web` fills in version and files.
const SHELL = 'carellama-offline-__VERSION__'
const MODEL = 'carellama-model-__MODEL__'
const FILES = __FILES__
const SCOPE = new URL('./', self.location.href).href
const own = (name) => name.startsWith('carellama-offline-') || name.startsWith('carellama-model-')

self.addEventListener('install', (event) => {
  const kept = caches.open(SHELL).then((cache) => cache.addAll(FILES.map((file) => new Request(SCOPE + file, { cache: 'reload' }))))
  event.waitUntil(kept.then(() => self.skipWaiting()))
})

self.addEventListener('activate', (event) => {
  // another export beside this one, on the same host, has its own scope and names: only what stood here before goes
  const older = caches.keys().then((names) => Promise.all(names.filter(own).map(forgetOlder)))
  event.waitUntil(older.then(() => self.clients.claim()))
})

async function forgetOlder(name) {
  if (name === SHELL || name === MODEL) return
  const urls = (await (await caches.open(name)).keys()).map((request) => request.url)
  const here = [`${SCOPE}index.html`, `${SCOPE}model/`] // not those of an export in a folder below this one
  if (urls.length === 0 || urls.some((url) => here.some((one) => url.startsWith(one)))) await caches.delete(name)
}

self.addEventListener('fetch', (event) => {
  const { method, mode, url } = event.request
  if (method !== 'GET' || !url.startsWith(SCOPE)) return
  const path = url.slice(SCOPE.length).replace(/[?#].*$/, '')
  if (mode !== 'navigate') event.respondWith(file(event.request))
  else if (path === '' || path === 'index.html') event.respondWith(page(event.request))
})

/** The page itself. These two headers let it compute in several threads, whatever the host sends. */
async function page(request) {
  const kept = (await caches.match(`${SCOPE}index.html`, { cacheName: SHELL })) ?? (await fetch(request))
  const headers = new Headers(kept.headers)
  headers.set('Cross-Origin-Opener-Policy', 'same-origin')
  headers.set('Cross-Origin-Embedder-Policy', 'require-corp')
  return new Response(kept.body, { status: kept.status, statusText: kept.statusText, headers })
}

async function file(request) {
  const kept = await caches.match(request, { cacheName: SHELL, ignoreSearch: true })
  if (kept === undefined) return fetch(request)
  const headers = new Headers(kept.headers)
  headers.set('Cross-Origin-Embedder-Policy', 'require-corp') // scripts of workers need it too
  headers.set('Cross-Origin-Resource-Policy', 'same-origin')
  return new Response(kept.body, { status: kept.status, statusText: kept.statusText, headers })
}
