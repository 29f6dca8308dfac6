// A plugin of Vite: the licences of all packages that a build contains, in one file that goes with every copy.
import { readdirSync, readFileSync } from 'node:fs'

const LICENCE_FILE = /^(licen[cs]e|copying|notice)/i
const PACKAGE = /^(.*\/node_modules\/((?:@[^/]+\/)?[^/]+))\//

/** Emits THIRD-PARTY-NOTICES.txt. `others` are files for what no package holds: name to path of the licence. */
export function notices(others = {}) {
  return {
    name: 'third-party-notices',
    apply: 'build',
    generateBundle(_options, bundle) {
      const folders = new Map()
      for (const part of Object.values(bundle)) {
        for (const id of part.type === 'chunk' ? part.moduleIds : []) {
          const found = PACKAGE.exec(id.replace(/^\0/, ''))
          if (found) folders.set(found[2], found[1])
        }
      }
      const parts = [...folders].sort().map(([name, folder]) => packageNotice(name, folder))
      for (const [name, path] of Object.entries(others)) parts.push(`${name}\n\n${readFileSync(path, 'utf8').trim()}`)
      const head = 'This page contains the following software of others, under the licences given here.'
      const source = [head, ...parts].join(`\n\n${'-'.repeat(80)}\n\n`) + '\n'
      this.emitFile({ type: 'asset', fileName: 'THIRD-PARTY-NOTICES.txt', source })
    },
  }
}

/** Name, version and licence of a package, and the text of its licence files. */
function packageNotice(name, folder) {
  const about = JSON.parse(readFileSync(`${folder}/package.json`, 'utf8'))
  const files = readdirSync(folder).filter((file) => LICENCE_FILE.test(file)).sort()
  if (!about.license) throw new Error(`${name} states no licence: look it up before the page is shipped with it`)
  const texts = files.map((file) => readFileSync(`${folder}/${file}`, 'utf8').trim())
  return [`${name} ${about.version}, ${about.license}`, ...texts].join('\n\n')
}
