// Builds the page that runs without a server into the package, where `carellama.export.web` copies it from.
// Nothing in it depends on the time or the machine: two builds are equal byte for byte.
import { readFileSync } from 'node:fs'
import { svelte } from '@sveltejs/vite-plugin-svelte'
import { defineConfig } from 'vite'
import { notices } from '../notices.mjs'

const LICENCES = {
  'wllama.LICENCE.txt': '../node_modules/@wllama/wllama/LICENCE',
  'llama.cpp.LICENCE.txt': 'licences/llama.cpp.txt', // wllama's package has none of it
}
const here = (path) => new URL(path, import.meta.url).pathname

/** Emits the licences of what is shipped as WebAssembly: they have to go with every copy. */
function licences() {
  return {
    name: 'licences',
    apply: 'build',
    generateBundle() {
      for (const [fileName, from] of Object.entries(LICENCES)) {
        this.emitFile({ type: 'asset', fileName, source: readFileSync(here(from), 'utf8') })
      }
    },
  }
}

export default defineConfig({
  root: here('.'),
  base: './', // the folder may stand anywhere below a host
  plugins: [
    svelte({ configFile: '../svelte.config.mjs' }),
    licences(),
    notices({ 'llama.cpp, MIT (within wllama)': here('licences/llama.cpp.txt') }),
  ],
  build: {
    outDir: process.env.CARELLAMA_OFFLINE_OUT ?? here('../../src/carellama/export/web/static'),
    emptyOutDir: true,
    target: 'es2022',
    cssTarget: ['chrome123', 'firefox120', 'safari17.5'],
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rollupOptions: {
      // triage and chat are files of their own, which tests load as they are shipped
      input: { index: here('index.html'), triage: here('src/safety/triage.ts'), chat: here('src/chat/prompt.ts') },
      preserveEntrySignatures: 'strict',
      output: { entryFileNames: ({ name }) => (name === 'index' ? 'assets/[name]-[hash].js' : 'assets/[name].js') },
    },
  },
})
