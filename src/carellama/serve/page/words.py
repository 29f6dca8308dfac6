"""What the web page says, in English and Chinese, errors included.

    WORDS["zh"]["ask"]
    told(PromptTooLong(900, 512), "zh")

The disclaimer is in `carellama.safety.notices`.
"""

from __future__ import annotations

from carellama.engine.base import PromptTooLong, Unavailable, Unsupported
from carellama.errors import UserError
from carellama.safety.notices import Language

WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "conversation": "Conversation",
        "question": "Your question",
        "placeholder": "Describe what you want to know. Enter sends, Shift+Enter begins a new line.",
        "ask": "Ask",
        "stop": "Stop",
        "retry": "Answer again",
        "undo": "Take back",
        "clear": "Clear",
        "settings": "Settings",
        "system": "System message",
        "system_info": "Goes before the conversation, from the next answer on. Empty: the one that was set up.",
        "adapter": "Model",
        "temperature": "Temperature (0: always the likeliest token)",
        "top_p": "Top-p",
        "top_k": "Top-k (0: from all tokens)",
        "max_new_tokens": "Most tokens of an answer",
        "repetition_penalty": "Repetition penalty (1: none)",
        "stopped": "Stopped.",
        "cut": "Cut after {tokens} tokens; the settings have the limit.",
        "dropped": "The model no longer sees the oldest turns ({turns}): they do not fit.",
        "no answer": "The model gave no answer.",
        "other language": "This model was not trained on the language of the question: do not rely on its answer.",
        "busy": "An answer is still being made; stop it first.",
        "full": "Too many questions are waiting. Try again in a moment.",
        "long": "The question has {given:,} characters; at most {most:,} are taken.",
        "nothing": "There is no question yet.",
        "wait": "One moment ...",
        "prompt too long": "The conversation has {prompt:,} tokens and the model takes {context:,} in all. "
        "Shorten the question or clear the conversation.",
        "unsupported": "This model cannot do that",
        "unavailable": "What runs the model does not answer. Try again in a moment.",
        "refused": "That did not work",
        "broken": "Something went wrong on the server. The administrator finds it in the log.",
    },
    "zh": {
        "conversation": "对话",
        "question": "您的问题",
        "placeholder": "请描述您想了解的内容。按 Enter 发送，Shift+Enter 换行。",
        "ask": "提问",
        "stop": "停止",
        "retry": "重新回答",
        "undo": "撤回",
        "clear": "清空",
        "settings": "设置",
        "system": "系统提示",
        "system_info": "放在对话之前，从下一个回答起生效。留空则使用预设的系统提示。",
        "adapter": "模型",
        "temperature": "温度（0：总是取最可能的词元）",
        "top_p": "Top-p",
        "top_k": "Top-k（0：不限）",
        "max_new_tokens": "回答的最大词元数",
        "repetition_penalty": "重复惩罚（1：无）",
        "stopped": "已停止。",
        "cut": "回答在 {tokens} 个词元处截断，上限可在设置中修改。",
        "dropped": "最早的 {turns} 轮对话放不下，模型已看不到它们。",
        "no answer": "模型没有回答。",
        "other language": "这个模型没有学过提问所用的语言，请不要采信它的回答。",
        "busy": "正在回答，请先停止。",
        "full": "排队的问题太多，请稍后再试。",
        "long": "问题有 {given:,} 个字符，最多 {most:,} 个。",
        "nothing": "还没有提过问题。",
        "wait": "请稍候……",
        "prompt too long": "对话共有 {prompt:,} 个词元，而模型总共只能容纳 {context:,} 个。请缩短问题或清空对话。",
        "unsupported": "该模型不支持此操作",
        "unavailable": "模型服务没有响应，请稍后再试。",
        "refused": "操作未成功",
        "broken": "服务器出错，管理员可在日志中查看。",
    },
}


def told(error: Exception, language: Language) -> str:
    """Return what a visitor is told of an error. Where it happened, and of which kind it was, is for the log."""
    words = WORDS[language]
    if isinstance(error, PromptTooLong):
        return words["prompt too long"].format(prompt=error.prompt_tokens, context=error.context_tokens)
    if isinstance(error, Unavailable):
        return words["unavailable"]
    if isinstance(error, UserError):
        return f"{words['unsupported' if isinstance(error, Unsupported) else 'refused']} ({error})"
    return words["broken"]
