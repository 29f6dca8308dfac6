// What the page shows of an answer is what was written: doses, ranges, list numbers, signs; nothing runs or loads.
import { describe, expect, it } from 'vitest'
import { renderBlocks, visible } from '../src/lib/markdown/render'

const show = (text: string): string => {
  const html = renderBlocks(text).join('\n')
  return visible(html).replace(/[ \t]+/g, ' ').trim()
}
const numbers = (text: string): string[] => text.match(/\d+/g) ?? []

// shown exactly as written
const DOSES = [
  '成人每次1~2片',
  '每次1~2片，每日2~3次',
  '38~39℃',
  '5*10mg',
  '5*10mg and 3*20mg',
  '5 *10mg 和 3 *20mg',
  '2**3',
  '4**5 and 6**7',
  'x**2 + y**2',
  '2***3',
  '3×10⁹/L',
  '<0.5 μg/mL',
  'pH<7.35 & K>5.5',
  'H₂O, H_2O, CO_2 and O_2',
  '2.5–5 mg q8h',
  '1_000 to 2_000',
  'P<0.05*, P<0.01**',
  '*P<0.05, **P<0.01',
  '0.9%',
  'BP 140/90mmHg',
  'a_b_c',
  '10~~20 and 30~~40',
  '5%~10%',
  String.raw`\d{1}~\d{1}`,
  '~5 mg~',
  '&#126; and &#60;',
  'CD4+ T',
  'T<sub>3</sub> 5 and T<sub>4</sub> 6',
  '[16]',
  '[16]: Li, 2004',
  '[16]: https://example.org/2004',
  '> 38.5℃ 就医',
  '>= 38.5',
  '>≥ 38.5',
  '+ 5 mmol/L',
  '01. 阿莫西林 0.5 g',
  '    5 mg with four spaces before it',
  '血钾 3.5~5.5 mmol/L，血钠 135~145 mmol/L',
  '每次2片*每日3次',
  '体重*15 ml/kg/d *2',
  '剂量：10*2*3',
  '38 ℃\n===',
  '5 mg $5 to $10, $20',
  '![a 5](http://x.example/5.png)',
  '<img src=x onerror=alert(1)> 5',
  '<script>alert(5)</script>',
  '[a](javascript:alert(5))',
  '[a](data:text/html,5)',
  '1.5.2 节',
  '-5 mmol/L',
  '3 . 5',
  '5~10分钟～15分钟',
  '| a | b |\n|---|---|\n| 1 | 2 | 3 |',
].map((text) => [text])

describe('doses', () => {
  it.each(DOSES)('%j is shown as it was written', (text) => {
    const clean = (one: string): string => one.replace(/\s+/g, ' ').trim()
    expect(clean(show(text))).toBe(clean(text))
  })

  it.each([
    '1. 休息\n3. 补液\n4. 复诊\n\n说明\n\n16. 随访\n17. 宣教',
    '3. 第三\n3. 又是三\n9. 九',
    '1) 5 mg\n2) 10 mg',
    '> 1. a\n> 3. b',
    '- 1. 5 mg\n- 3. 10 mg',
    '1. a\n   1. b 2~3\n   5. c\n7. d',
    '| 药 | 剂量 |\n|---|---|\n| 阿莫西林 | 0.5*3 |\n| 布洛芬 | 1~2片 |',
    '**5**10 mg',
    '5**10** mg',
    '*5 mg* and **10 mg** and `15*2`',
    '```python3\nx = 5 * 10 ~ 2\n```',
    '~~~\n5*10 ~ 2\n~~~',
    '# 1 剂量\n## 2.1 用法 1~2 片',
    '说明见[文献 5](https://example.org/2004/5)。',
    'https://example.org/a_1_b_2/3，请在 5 天内',
    '1\\. 5\\*10 mg',
    '- [x] 5 mg\n- [ ] 10 mg',
    '$x_1 = 5*10$ and \\(y^2 = 16\\)',
    '$$\n\\frac{5*10}{2}\n$$',
    '* 10 mg\n* 20 mg',
    '每日**3次。**请按 5 mg',
    '2023. 5 月\n2024. 6 月',
    '999999999. x',
    '[a]: 5\n[a] 6',
    'a 1  \nb 2\\\nc 3',
  ])('%j keeps its numbers, in order', (text) => {
    expect(numbers(show(text))).toEqual(numbers(text))
  })

  it('keeps numbers and signs whatever surrounds them', () => {
    // a small generator with a fixed seed: the same texts in each run
    let seed = 7
    const next = (below: number): number => (seed = (seed * 48271) % 2147483647) % below
    const pieces = ['1~2片', '5*10mg', 'H_2O', '2**3', '38.5℃', ' ', '\n', '\n\n', '* ', '1. ', '> ', '~', '*', '**', '_', '`', '|', '[', ']', '(', ')', '#', '用', 'a', '5', '\\', '<b>', '+ 5', '- ', '$']
    for (let at = 0; at < 1500; at++) {
      const text = Array.from({ length: 1 + next(14) }, () => pieces[next(pieces.length)]).join('')
      expect(numbers(show(text)), JSON.stringify(text)).toEqual(numbers(text))
    }
  }, 60_000)
})

describe('marks', () => {
  it.each([
    ['请**立即**就医', '<strong>立即</strong>'],
    ['**每日3次。**请', '<strong>每日3次。</strong>'],
    ['1. a\n3. b', '<li value="3">'],
    ['1) a', '<ol class="parenthesis">'],
    ['`5*10`', '<code>5*10</code>'],
    ['| a | b |\n|---|---|\n| 1 | 2 |', '<td>2</td>'],
    ['[x](https://example.org)', 'rel="noopener noreferrer"'],
    ['[120](tel:120)', 'href="tel:120"'],
    ['见 https://example.org/a，请', 'href="https://example.org/a"'],
    ['$x^2$', '<span class="formula">$x^2$'],
    ['&lt;5', '&lt;5'],
  ])('%j', (text, expected) => {
    expect(renderBlocks(text).join('')).toContain(expected)
  })
})

describe('attacks', () => {
  it.each([
    '<script>alert(1)</script>',
    '<img src=x onerror=alert(1)>',
    '<svg onload=alert(1)>',
    '[x](javascript:alert(1))',
    '[x](JaVaScRiPt:alert(1))',
    '[x](vbscript:x)',
    '[x](data:text/html;base64,PHNjcmlwdD4=)',
    '![x](https://evil.example/track.png)',
    '<iframe src="https://evil.example"></iframe>',
    '<a href="javascript:alert(1)">x</a>',
    '`<script>alert(1)</script>`',
    '```html\n<script>alert(1)</script>\n```',
    '```"><script>alert(1)</script>\nx\n```',
    '[x](https://a.example/"onmouseover="alert(1))',
    '$<img src=x onerror=alert(1)>^2$',
    '<style>*{display:none}</style>',
    '<form action="https://evil.example"><input name=q></form>',
    '&#60;script&#62;alert(1)&#60;/script&#62;',
    '<math><mi//xlink:href="data:x,<script>alert(4)</script>">',
    '| <script>alert(1)</script> |\n|---|\n| <img src=x onerror=alert(1)> |',
  ])('%j is inert', (text) => {
    const page = document.createElement('div')
    page.innerHTML = renderBlocks(text).join('')
    expect(page.querySelector('script,img,svg,iframe,style,form,input,object,embed,link,math')).toBeNull()
    for (const element of page.querySelectorAll('*')) {
      for (const { name, value } of element.attributes) {
        expect(name).not.toMatch(/^on|^style$|^src$/)
        if (name === 'href') expect(value).toMatch(/^(https?:|mailto:|tel:)/)
      }
    }
  })
})

describe('markup without end', () => {
  it.each([
    ['quotations', `${'>'.repeat(5000)} x`],
    ['lists', Array.from({ length: 400 }, (_, depth) => `${' '.repeat(2 * depth)}- x`).join('\n')],
    ['items within items', `${'- '.repeat(2000)}x`],
    ['brackets', `${'['.repeat(5000)}x${'](y)'.repeat(5000)}`],
    ['stars', '**a *b '.repeat(4000)],
    ['formulas', '$x^2 '.repeat(4000)],
    ['backticks', Array.from({ length: 200 }, (_, count) => `${'`'.repeat(count)}x`).join('')],
  ])('%s: is shown as it was written', (_name, text) => {
    const blocks = renderBlocks(text)
    expect(blocks).toHaveLength(1)
    expect(blocks[0]).toMatch(/^<p class="as-written">/)
  })

  it('is far from what people write', () => {
    const long = Array.from({ length: 60 }, (_, at) => `| **${at}** | \`a\` | [x](https://example.org) | $x_${at}$ |`)
    expect(renderBlocks(['| a | b | c | d |', '| - | - | - | - |', ...long].join('\n'))[0]).toMatch(/^<table>/)
    expect(renderBlocks('- one\n  - two\n    - three\n      - four\n        - five')[0]).toMatch(/^<ul>/)
  })
})
