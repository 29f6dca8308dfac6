// Builds the page into the package. Nothing in it depends on the time or the machine: two builds are equal byte for byte.
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { svelte } from '@sveltejs/vite-plugin-svelte'
import { defineConfig } from 'vite'
import { notices } from './notices.mjs'

const here = (path) => new URL(path, import.meta.url)

/** Emits /sw.js: the service worker with the names of the files that it keeps and a version made of their contents. */
function serviceWorker() {
  return {
    name: 'service-worker',
    apply: 'build',
    enforce: 'post',
    generateBundle(_options, bundle) {
      const files = Object.keys(bundle).sort()
      // what opens without a network: where the page starts, all that is imported there, and the styles
      const shell = files.filter((file) => bundle[file].isEntry || file.endsWith('.css'))
      for (const file of shell) for (const one of bundle[file].imports ?? []) if (!shell.includes(one)) shell.push(one)
      shell.sort()
      const version = createHash('sha256')
      for (const file of files) {
        const part = bundle[file]
        version.update(file).update(part.type === 'chunk' ? part.code : part.source)
      }
      const source = readFileSync(here('src/sw.js'), 'utf8')
        .replace('__VERSION__', version.digest('hex').slice(0, 12))
        .replace('__FILES__', JSON.stringify(shell.map((file) => `/${file}`)))
      this.emitFile({ type: 'asset', fileName: 'sw.js', source })
    },
  }
}

export default defineConfig({
  plugins: [svelte({ configFile: './svelte.config.mjs' }), notices(), serviceWorker()],
  resolve: process.env.VITEST ? { conditions: ['browser'] } : {},
  build: {
    outDir: process.env.CARELLAMA_WEB_OUT ?? '../src/carellama/serve/web/static',
    emptyOutDir: true,
    target: 'es2022',
    cssTarget: ['chrome123', 'firefox120', 'safari17.5'], // they know light-dark(), which would be rewritten otherwise
    assetsInlineLimit: 0, // data: URLs would need more in the CSP
    modulePreload: { polyfill: false }, // the polyfill is for browsers older than the target
  },
  server: { proxy: { '/web': process.env.CARELLAMA_SERVER ?? 'http://127.0.0.1:7860' } },
  test: { environment: 'jsdom', include: ['tests/**/*.test.ts'], setupFiles: ['tests/setup.ts'] },
})
