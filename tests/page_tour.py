"""The states of the page, one after the other, over a scripted conversation: for tests of layout and for pictures.

    engine = scripted()
    with site(engine, WebOptions(profile="researcher")) as server:
        one = visit(server)
        for state in tour(one, engine, "en"):
            ...                        # the page is in that state: "empty", "notice", "dialog of settings", ...

The words are written for this project. Not a test module itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from carellama.engine.scripted import ScriptedEngine

SLOW = 0.03  # seconds a token, while a state is looked at
DIALOGS = ("settings", "transfer", "research")


@dataclass(frozen=True)
class Words:
    """What the page calls its parts in a language, and what is said in the conversation."""

    question: str
    settings: str
    transfer: str
    research: str
    stop: str
    again: str
    close: str
    menu: str
    more: str
    new: str
    understood: str
    cold: str
    cold_answer: str
    emergency: str
    emergency_answer: str
    index: str
    index_answer: str
    broken: str

    @property
    def answers(self) -> dict[str, str]:
        """By question."""
        return {self.cold: self.cold_answer, self.emergency: self.emergency_answer, self.index: self.index_answer}


ENGLISH = Words(
    question="Your question", settings="Settings", transfer="Export and import", research="Model and sampling",
    stop="Stop", again="Ask again", close="Close", menu="Show conversations", more="More", new="New conversation",
    understood="I have read this",
    cold="What can I do about a cold, and when should I see a doctor?",
    cold_answer="""A cold usually gets better by itself within 7 to 10 days. These things make it easier:

| What bothers you | What helps |
| --- | --- |
| Blocked nose | Salt water spray or rinse, raised head at night |
| Sore throat | Warm drinks, gargling with salt water |
| Cough | Honey in a warm drink (**not** for children under 1 year) |
| Fever | Rest, plenty to drink, light clothes |

**See a doctor if**

1. the fever lasts for more than 3 days or comes back,
2. you get worse after you had been better,
3. you have a lung disease, a weak immune system or are pregnant.

Call the emergency number at once if breathing is hard, or if somebody is confused or hard to wake.
""",
    emergency="My chest hurts and my left arm is numb.",
    emergency_answer="""Please call first and read on afterwards.

While you wait for help:

- Sit down and keep still. Do not drive yourself.
- Unlock the door, so that the helpers can come in.
- Lay out the list of your medicines.
- Tell the person on the phone when it began, and whether you have had heart trouble before.

If you are with somebody, ask them to stay with you.
""",
    index="How is the body mass index worked out?",
    index_answer=r"""The body mass index compares weight with height:

$$\text{BMI} = \frac{\text{weight in kg}}{(\text{height in m})^2}$$

For 70 kg and 1.75 m that is $70 / 1.75^2 \approx 22.9$. The World Health Organization calls the ranges for adults:

| BMI | Range | What may come with it | What to talk about with a doctor |
| --- | --- | --- | --- |
| below 18.5 | underweight | too little of some nutrients | causes of a loss of weight |
| 18.5 to 24.9 | normal | | |
| 25 to 29.9 | overweight | higher blood pressure | food, movement, sleep |
| 30 and above | obesity | diabetes, heart disease | what helps in the long run |

As a program:

```python
def body_mass_index(weight_kg: float, height_m: float) -> float:
    "Weight divided by the square of the height."
    return weight_kg / height_m**2  # 70 kg and 1.75 m: 22.857142857142858, which is rounded to 22.9 in tables
```

It says little about children, pregnant women and people with a lot of muscle: https://www.who.int/news-room/fact-sheets/detail/obesity-and-overweight
""",
    broken="This question breaks the model.",
)  # fmt: skip

CHINESE = Words(
    question="您的问题", settings="设置", transfer="导出与导入", research="模型与采样", stop="停止", again="重新回答",
    close="关闭", menu="打开对话列表", more="更多操作", new="新对话", understood="我已阅读",
    cold="感冒了怎么办？什么情况要去看医生？",
    cold_answer="""普通感冒一般 7 到 10 天会自行好转，下面的办法可以让您舒服一些：

| 不适 | 可以这样做 |
| --- | --- |
| 鼻塞 | 生理盐水喷鼻或冲洗，睡觉时把头垫高 |
| 咽痛 | 喝温水，用淡盐水漱口 |
| 咳嗽 | 温水加一点蜂蜜（**1 岁以下不可**） |
| 发热 | 休息，多喝水，衣物宽松 |

**有下列情况请去看医生：**

1. 发热超过 3 天，或退热后又烧起来；
2. 好转之后又加重；
3. 有慢性肺病、免疫力低下，或正在怀孕。

如果呼吸困难、意识模糊或叫不醒，请立即拨打急救电话。
""",
    emergency="胸口压着疼，左胳膊发麻，一身冷汗",
    emergency_answer="""请先打电话，再往下看。

等待救护人员时：

- 坐下或半躺，保持不动，不要自己开车去医院。
- 把家门打开，方便救护人员进来。
- 把正在吃的药拿出来备好。
- 告诉接线员什么时候开始的、以前有没有心脏病。

身边如果有人，请他一直陪着您。
""",
    index="体质指数怎么算？",
    index_answer=r"""体质指数（BMI）用体重和身高来计算：

$$\text{BMI} = \frac{\text{体重（kg）}}{\text{身高（m）}^2}$$

体重 70 kg、身高 1.75 m 时，$70 / 1.75^2 \approx 22.9$。我国成人的分级如下：

| BMI | 分级 | 可能伴随的问题 | 可以和医生谈什么 |
| --- | --- | --- | --- |
| 低于 18.5 | 体重过低 | 营养不足 | 体重下降的原因 |
| 18.5～23.9 | 体重正常 | | |
| 24.0～27.9 | 超重 | 血压偏高 | 饮食、运动、睡眠 |
| 28.0 及以上 | 肥胖 | 糖尿病、心脏病 | 长期有效的办法 |

写成程序：

```python
def body_mass_index(weight_kg: float, height_m: float) -> float:
    "体重除以身高的平方"
    return weight_kg / height_m**2  # 70 kg，1.75 m：22.857142857142858，表格里写作 22.9
```

儿童、孕妇和肌肉发达的人不适用。
""",
    broken="这个问题会让模型出错。",
)  # fmt: skip

WORDS = {"en": ENGLISH, "zh": CHINESE}
LOCALES = {"en": "en-US", "zh": "zh-CN"}


def scripted() -> ScriptedEngine:
    """An engine that knows the conversation; set its `token_seconds` to slow it down."""
    answers = ENGLISH.answers | CHINESE.answers

    def answer(messages: Any) -> str:
        question = messages[-1].content
        if question in (ENGLISH.broken, CHINESE.broken):
            raise RuntimeError("broken on purpose")
        return answers.get(question, f"I heard: {question}")

    return ScriptedEngine(answer)


def ask(one: Any, engine: ScriptedEngine, language: str, question: str, *, until_end: bool = True) -> None:
    """Ask, and wait for the first words of the answer or for its end."""
    page, words = one.page, WORDS[language]
    before = page.get_by_role("article").count()
    engine.token_seconds = 0.0 if until_end else SLOW
    one.ask(question)
    answer = page.get_by_role("article").nth(before + 1)
    answer.wait_for()
    if until_end:
        finish(one, engine, language)
    else:
        answer.locator(".markdown").get_by_text(words.answers[question][:6]).first.wait_for()


def finish(one: Any, engine: ScriptedEngine, language: str) -> None:
    """Let the answer that is being written come to its end."""
    engine.token_seconds = 0.0
    last = one.page.get_by_role("article").last
    last.get_by_role("button", name=re.compile(f"^{WORDS[language].again}")).wait_for()


def drawer(page: Any, words: Words) -> None:
    """Show the list of conversations where it is not always there."""
    button = page.get_by_role("button", name=words.menu)
    if button.is_visible():
        button.click()


def tour(one: Any, engine: ScriptedEngine, language: str = "en", dialogs: tuple[str, ...] = DIALOGS) -> Iterator[str]:
    """Bring the page into one state after the other; yield each one's name."""
    page, words = one.page, WORDS[language]
    yield "empty"
    ask(one, engine, language, words.emergency, until_end=False)
    yield "notice while the answer streams"
    finish(one, engine, language)
    yield "notice"
    ask(one, engine, language, words.index, until_end=False)
    yield "streaming"
    finish(one, engine, language)
    page.locator("math").first.wait_for()
    yield "finished"
    ask(one, engine, language, words.broken)
    yield "error"
    for dialog in dialogs:
        button = page.get_by_role("banner").get_by_role("button", name=getattr(words, dialog), exact=True)
        button.click()
        page.get_by_role("dialog").get_by_role("heading").first.wait_for()
        yield f"dialog of {dialog}"
        page.keyboard.press("Escape")
    drawer(page, words)
    page.get_by_role("navigation").get_by_role("button", name=re.compile(f"^{words.more}")).first.click()
    yield "menu"
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    one.context.set_offline(True)
    page.evaluate("dispatchEvent(new Event('offline'))")
    page.get_by_text(re.compile("You are offline|离线")).wait_for()
    yield "offline"
    one.context.set_offline(False)
