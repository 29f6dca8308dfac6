"""What stands before or behind a Chinese name, and by how much it makes one likelier.

    clue_before("昨天感谢")   # Clue(..., worth=3.0, telling=True): a word for a person, and not only a mark

Worths are differences of log probabilities. A clue is telling when it is a word that persons are spoken of with (患者,
转告, 女士); a mark, or the end of a word that may be a thing's (北方, 使用者), is none.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from carellama.text import HAN


class Clue(NamedTuple):
    """A pattern, by how much it makes a name likelier, and whether it is a word for a person."""

    form: re.Pattern[str]
    worth: float
    telling: bool = False


_ENDINGS = (  # of words for persons, and for other things
    r"(?:(?<![或再])者|[员师士友属]|(?<![增生成延身细])长|(?<![地配处药复])方|"
    r"(?<![多些有的每数国等让使成他别令个数类常])人)"
)
_OPENS = r"[\s\"'(\[]{0,2}$"
_BEFORE = (
    Clue(
        re.compile(
            r"(?:我是|我叫|我系|名叫|姓名|[他她]叫|全名|本名)[:是为叫]?\s?[\"']?$|"
            rf"姓名[:=]\s?[{HAN}] {{1,3}}$"  # 姓名:褚  卫东
        ),
        9.0,
        telling=True,
    ),
    Clue(
        re.compile(
            r"(?:配偶|原告|被告|产妇|孕妇|病员|病患|儿媳|女婿|儿媳妇|老伴|老公|老婆|媳妇|对象|户主|组长|班长|队长|院长|所长|法人|患者|"
            r"病人|家属|医生|医师|大夫|护士长?|主任|药师|技师|护工|教授|联系人|监护人|居民|职工|员工|学生|同学|"
            r"母亲|父亲|妻子|丈夫|爱人|儿子|女儿|其[子女妻夫父母]|之[子女妻夫父母]|[我他她你其][爸妈弟妹哥姐爷奶]|爸爸|妈妈|弟弟|妹妹|"
            r"哥哥|姐姐|爷爷|奶奶|孩子|宝宝|同事|朋友|周[一二三四五六日天]|经办|陪护|陪同|(?<![这那也都就又才不算])叫|"
            r"(?<![一二两三多几药商品别学文剂])名|@|一助|二助|麻醉|主刀|签名|姓名|签字|"
            rf"{_ENDINGS}(?=[:：]))[:：是为叫\-—]{{0,2}}{_OPENS}"
        ),
        8.0,
        telling=True,
    ),
    Clue(re.compile(rf"{_ENDINGS}[是为叫\-—]{{0,2}}{_OPENS}"), 6.5),
    Clue(
        re.compile(
            r"(?:那个|[由给找请让替]|联系|通知|告知|转告|感谢|谢谢|您好|你好|兹有|关于|代|\d\s?床|[)\d级夜白早晚中]班)\s?[\"']?$"
        ),
        3.0,
        telling=True,
    ),
    Clue(re.compile(r"[、/:和跟与向]\s?[\"']?$"), 3.0),
    Clue(re.compile(rf"[{HAN}]{{2,6}}[:：]\s?$"), 5.5),
    Clue(re.compile(r"(?:^|[\n,.。，;；!?！？()\[\]|\s\d\-])$"), 2.5),
)
_BEHIND = (
    Clue(
        re.compile(
            r"(?:[这那]孩子|小朋友|啊你|呀你|先生|女士|小姐|太太|同志|医生|医师|大夫|护士|主任|教授|老师|师傅|阿姨|叔叔|同学|经理|"
            r"[\s,，(]{0,2}(?:男|女)(?:性)?[\s,，;)、\d]|[\s,，(]{0,2}\d{1,3}\s?岁|之[子女妻夫父母]|本人|收$|[白夜早晚中]班)"
        ),
        5.0,
        telling=True,
    ),
    Clue(re.compile(r"(?:得了|患[上有的]|病了|病倒|去世|怀孕|受伤|头部)"), 3.0, telling=True),
    Clue(
        re.compile(
            r"(?:称|说|来|已|于|在|他|她|的(?:[他她]|报告|病历|电话|结果|家属|手机|检查|住院|主治|号|处方|药|片子|化验|身份|床|标本|血|体温|女儿|儿子|妈|爸)|"
            r"签|核对|打|问|反映|表示|主诉|自述|诉|因|今|昨|和|与|及|是|有|没|要|想|把|被|到|去|给|做|住|出院|入院|负责|预约)"
        ),
        2.0,
    ),
    Clue(re.compile(r"(?:$|[\n,.。，;；!?！？()\[\]|\s:/、])"), 2.5),
)
NO_CLUE = Clue(re.compile(""), 0.0)
_WINDOW = 8  # characters
_SPEAKER = re.compile(r"(?:^|[\n?!.。]\s?)(?:患者|病人|医生|大夫|医师|护士|家属|[问答医患护]):\s{0,2}$")
_UTTERED = re.compile(r"[.。!]?(?:\s|$)")  # nothing else is said
_EXAMPLE = re.compile("[赵钱孙李周吴郑王张刘陈][三四五六七八九]")  # 张三, 李四


def clue_before(before: str) -> Clue:
    """Return the first clue that the characters before a name end with."""
    return next((clue for clue in _BEFORE if clue.form.search(before)), NO_CLUE)


def clue_behind(behind: str) -> Clue:
    """Return the first clue that the characters behind a name begin with."""
    return next((clue for clue in _BEHIND if clue.form.match(behind)), NO_CLUE)


def clues(plain: str, start: int, end: int) -> tuple[Clue, Clue]:
    """Return what stands before and behind these characters.

    Who says what follows (医生：高峰就是……) is no clue to a name, unless nothing else is said (患：查良。).
    """
    behind = plain[end : end + _WINDOW]
    left, right = clue_before(plain[max(0, start - _WINDOW) : start]), clue_behind(behind)
    if _SPEAKER.search(plain, max(0, start - _WINDOW), start) and not right.telling:
        uttered = bool(_UTTERED.match(behind))
        left = Clue(left.form, left.worth if uttered else 2.5, uttered)
    if _EXAMPLE.fullmatch(plain, start, end):
        left = Clue(left.form, left.worth, telling=True)
    return left, right
