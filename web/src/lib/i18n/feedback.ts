// The words of the form for feedback, in both languages: loaded with it alone.
import { language } from './index.svelte'

const en = {
  title: 'What do you think of this answer?',
  reasons: 'Why? (you may choose several)',
  wrong: 'Medically wrong',
  unsafe: 'Unsafe, could harm somebody',
  not_for_me: 'Does not fit the person who asked',
  missing: 'Something important is missing',
  unclear: 'Hard to understand',
  language: 'Wrong language',
  other: 'Something else',
  comment: 'In your own words',
  correction: 'How should the answer have been?',
  prefer: 'I prefer this answer to the one beside it; store that one as well',
  consent: 'I agree that this is stored on the server to improve the model: the conversation up to this answer with its attached files, the answer, the name of the model, and what I filled in here.',
  masked: 'Before it is stored, names, telephone numbers and other identifiers are masked by rules, which do not find every one. Without your consent nothing is sent. You can withdraw it later under this answer.',
  send: 'Send feedback',
  sending: 'Sending …',
  cancel: 'Cancel',
  failed: 'The feedback was not sent. Nothing was stored; try again.',
  tooLong: 'The conversation is too long to be stored as feedback. Nothing was sent.',
}
const zh: typeof en = {
  title: '您觉得这个回答怎么样？',
  reasons: '原因（可多选）',
  wrong: '医学内容有误',
  unsafe: '不安全，可能造成伤害',
  not_for_me: '不符合提问者的情况',
  missing: '遗漏了重要内容',
  unclear: '不易理解',
  language: '语言不对',
  other: '其他',
  comment: '补充说明',
  correction: '正确的回答应当是怎样的？',
  prefer: '与并排的另一个回答相比，我更认可这个；请同时保存另一个',
  consent: '我同意在服务器上保存以下内容，用于改进模型：到这个回答为止的对话（含添加的文件）、回答本身、模型名称，以及我在这里填写的内容。',
  masked: '保存之前会按规则遮盖姓名、电话号码等身份信息，但规则无法找出全部。未经您同意不会发送任何内容。之后可以在这个回答下方撤回。',
  send: '提交评价',
  sending: '正在提交……',
  cancel: '取消',
  failed: '评价未能提交，没有保存任何内容，请重试。',
  tooLong: '对话过长，无法作为评价保存，没有发送任何内容。',
}

/** The words for `name` in the language of the page. */
export function f(name: keyof typeof en): string {
  return (language.current === 'zh' ? zh : en)[name]
}
