// Words of this page alone; all others are those of the page that a server shows.
import { fill, language } from '../../src/lib/i18n/index.svelte'

const en = {
  welcome: 'A health assistant on this device',
  about: 'The model {name} runs in this browser. No question and no answer leaves the device.',
  needsTitle: 'What it needs',
  needsStorage: '{size} of storage, downloaded once from this site',
  needsMemory: 'about {size} of free memory while it answers',
  needsTime: 'time: phones write a few words a second, older ones less',
  onlyRules: 'Signs of an emergency are looked for in your words by rules, before the model answers. Rules miss some. The checks of answers and requests that the CareLlama server makes do not run here.',
  download: 'Download {size} and start',
  resume: 'Continue the download',
  start: 'Start the model',
  downloading: 'Downloading the model',
  progress: '{done} of {all}',
  cancelDownload: 'Pause',
  loading: 'Loading the model into memory',
  loadingLong: 'This can take a minute on a phone.',
  ready: 'The model is ready, also without a network.',
  offlineReady: 'Ready for flight mode',
  onlineOnly: 'Saving the page for flight mode',
  noShell: 'The page could not be saved for flight mode: {reason}',
  wrongPlace: 'This page must be opened over https or on localhost: browsers allow no offline pages elsewhere.',
  noWasm: 'This browser cannot run the model: it lacks WebAssembly with SIMD. Chrome 91, Firefox 89, Safari 16.4 and later have it.',
  noCache: 'This browser does not let the page store files: private windows often do not.',
  littleMemory: 'This device reports {given} GB of memory; the model needs about {size}. It may fail to load.',
  littleStorage: 'The browser offers {given} of storage here; the model needs {size}. Free some space first.',
  storageFull: 'Storage is full: {done} of {all} are saved. Free some space, then continue the download.',
  noNetwork: 'The download stopped: the site cannot be reached. {done} of {all} are saved.',
  incomplete: 'The model on this site is incomplete: {file} is missing or has other contents than its check sum says. Export it anew, and upload the whole folder.',
  noMemory: 'The model did not fit into memory. Close other tabs and apps and try again, or use a smaller model.',
  loadFailed: 'The model could not be loaded: {reason}',
  answerFailed: 'The answer broke off: {reason}',
  noConfig: 'The folder of this page is incomplete: {reason}',
  tooLong: 'The question is too long for this model: {given} tokens, {most} at most.',
  forgotten: 'The earliest {n} messages no longer fit: the model does not see them.',
  conversationKept: 'The conversation is stored in this browser only. Whoever uses this device can read it.',
  conversationNot: 'This browser stores nothing: the conversation ends with the page.',
  newSure: 'Start a new conversation? The present one is deleted.',
  deleteConversation: 'Delete the conversation',
  deleteModel: 'Remove the model from this device ({size})',
  deleteModelSure: 'Remove the model? The page then needs a network once more to download it.',
  deletedConversation: 'Conversation deleted',
  license: 'llama.cpp by wllama (MIT)',
  threads: 'threads: {n}',
  speed: '{n} tokens a second',
} as const

type Words = Record<keyof typeof en, string>

const zh: Words = {
  welcome: '在本机运行的健康助手',
  about: '模型 {name} 直接在浏览器里运行，您的问题和回答都不会离开这台设备。',
  needsTitle: '使用条件',
  needsStorage: '{size} 存储空间，只需从本网站下载一次',
  needsMemory: '回答时约需 {size} 可用内存',
  needsTime: '耐心：手机每秒只能写出几个字，旧手机更慢',
  onlyRules: '模型回答之前，会按规则在您的描述中查找紧急情况的征兆，但规则会有遗漏。CareLlama 服务器上对回答和提问的其他检查，在这里不会运行。',
  download: '下载 {size} 并开始',
  resume: '继续下载',
  start: '启动模型',
  downloading: '正在下载模型',
  progress: '{done} / {all}',
  cancelDownload: '暂停',
  loading: '正在将模型载入内存',
  loadingLong: '手机上可能需要一分钟。',
  ready: '模型已就绪，没有网络也能使用。',
  offlineReady: '可在飞行模式下使用',
  onlineOnly: '正在保存页面，以便离线使用',
  noShell: '页面未能保存，无法离线使用：{reason}',
  wrongPlace: '请通过 https 或在 localhost 上打开本页面：其他地址的页面，浏览器不允许离线使用。',
  noWasm: '此浏览器无法运行模型：缺少支持 SIMD 的 WebAssembly。Chrome 91、Firefox 89、Safari 16.4 及更高版本均支持。',
  noCache: '此浏览器不允许页面保存文件，无痕窗口往往如此。',
  littleMemory: '这台设备的内存为 {given} GB，模型约需 {size}，可能无法载入。',
  littleStorage: '浏览器在这里可用的存储空间为 {given}，模型需要 {size}，请先清理空间。',
  storageFull: '存储空间已满：已保存 {done} / {all}。请清理空间后继续下载。',
  noNetwork: '下载中断：无法连接网站。已保存 {done} / {all}。',
  incomplete: '网站上的模型不完整：{file} 缺失，或内容与校验和不符。请重新导出，并上传整个文件夹。',
  noMemory: '内存不足，无法载入模型。请关闭其他标签页和应用后重试，或换用更小的模型。',
  loadFailed: '模型未能载入：{reason}',
  answerFailed: '回答中断：{reason}',
  noConfig: '本页面的文件夹不完整：{reason}',
  tooLong: '问题超出模型能处理的长度：共 {given} 个词元，最多 {most} 个。',
  forgotten: '最早的 {n} 条消息放不下，模型已看不到它们。',
  conversationKept: '对话只保存在这个浏览器里，使用本设备的人都能看到。',
  conversationNot: '此浏览器不保存任何内容：关闭页面后，对话即消失。',
  newSure: '确定开始新对话吗？当前对话将被删除。',
  deleteConversation: '删除对话',
  deleteModel: '从本机移除模型（{size}）',
  deleteModelSure: '确定移除模型吗？之后需要联网重新下载。',
  deletedConversation: '对话已删除',
  license: 'llama.cpp（由 wllama 编译，MIT 许可）',
  threads: '线程数：{n}',
  speed: '每秒 {n} 个词元',
}

const WORDS: Record<'en' | 'zh', Words> = { en, zh }

export type OfflineWord = keyof typeof en

/** The words for `name` in the language of the page. */
export function w(name: OfflineWord, values: Record<string, string | number> = {}): string {
  return fill(WORDS[language.current][name], values)
}

/** A size in words: 95 MB, 1.8 GB. */
export function sizeOf(bytes: number): string {
  return bytes < 1e9 ? `${Math.max(1, Math.round(bytes / 1e6))} MB` : `${(bytes / 1e9).toFixed(1)} GB`
}
