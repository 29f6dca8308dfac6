"""Checks of the rules for Chinese names behind a label (姓名：) or a role (患者), and names before a title (医生).

    is_chinese_name("王小明")   # True: a surname, and characters that given names are made of

The patterns are in `rules/names_zh.yaml`; names in running text are detected in `names_zh_prose`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from carellama.privacy.kinds import Span
from carellama.privacy.medical_context import evidence, within_word
from carellama.privacy.names_zh_prose import context_score, given_names, is_token, likelihood, load_word_frequencies
from carellama.privacy.rules import Candidate, Checks, fragment_pattern
from carellama.privacy.word_lists import chinese, medical_terms
from carellama.text import HAN

HAN_RUN = re.compile(rf"[{HAN}]+$")
_TITLES = frozenset(
    "先生 女士 小姐 太太 医生 医师 大夫 主任 教授 阿姨 叔叔 老师 护士 同志 师傅 大爷 大妈 姓名 性别".split()
)
_CLINICAL = frozenset("医生 医师 大夫 主任 副主任 教授 副教授 护士 护士长 院长".split())
_NO_SINGLE = frozenset("向和同那时应从有别都过如经当由且但能后所求单再是帮问来公计全还让叫查支因只请位名要信国门强权班")
_NO_GIVEN = "不吗呢吧啊了过着没什怎很太就也的是我你他她您这哪被把让给及或与药片汤丸散炎症癌病痛痒"
_SURE_GIVEN = "峰平红伟芳娜敏静丽强磊军勇艳杰娟涛超霞刚辉玲鹏飞斌婷浩琳欣怡倩莉萍波梅丹琴颖蕾薇"  # behind 水, 高
_FIRST_OF_PEOPLES = frozenset("阿艾买古热吐库哈依帕努巴萨扎洛格拉旦次多桑达丹才尼白玛央")


def title_pattern() -> re.Pattern[str]:
    """Return the pattern of titles: 医生, 女士, 主任."""
    return fragment_pattern("names_zh", "TITLE")


def surname_of(name: str) -> str:
    """Return the surname that Chinese characters begin with, "" if they begin with none."""
    names = chinese()
    return name[: 2 if name[:2] in names.compound_surnames else int(name[:1] in names.surnames)]


def is_chinese_name(name: str, *, strict: bool = True) -> bool:
    """Whether Chinese characters are a surname and a given name of one or two; not `strict`: any given name will do."""
    names, surname = chinese(), surname_of(name)
    given = name[len(surname) :]
    if not surname or not 1 <= len(given) <= 2 or (name[:2] in names.not_names and len(surname) == 1):
        return False
    if given in _TITLES or "某" in given or any(character in _NO_GIVEN for character in given):
        return False
    if not strict:
        return True
    if name[0] in names.rare_surnames and len(given) == 1:
        return given in _SURE_GIVEN
    return all(character in names.given for character in given)


# Behind a label or a role


def trim_labelled_name(found: Candidate) -> bool:
    """Cut what stands behind a label to a name; without a colon its characters must be likelier a name than words."""
    plain, start = found.plain, found.start
    trusted = found.match["colon"] is not None or plain[start - 1] in "是为 "
    found.end = start + _name_after_label(plain, start, found.text, trusted=trusted)
    return found.end > start and (trusted or _is_plausible(plain, start, found.end))


def trim_likely_name(found: Candidate) -> bool:
    """Cut what stands behind a role to a name that its characters and what follows make likely."""
    found.end = found.start + _likely_name_length(found.plain, found.start, found.text)
    return found.end > found.start and _is_plausible(found.plain, found.start, found.end)


def is_surname(found: Candidate) -> bool:
    """Whether it is a surname of one or two characters."""
    return _is_surname(found.text)


def has_stated_surname(found: Candidate) -> bool:
    """Whether the characters before a given name are a surname."""
    return _is_surname(found.match["surname"])


def _is_surname(text: str) -> bool:
    return text in chinese().surnames or text in chinese().compound_surnames


def _is_plausible(plain: str, start: int, end: int) -> bool:
    """Whether a name of a surname and a given name is not words by all odds: 孩子暴露, 患者应行; nor a medicine."""
    if not HAN_RUN.match(plain[start:end]) or plain[start : start + 2] in chinese().compound_surnames:
        return True
    said = context_score(plain, start, end)
    if evidence(plain, start, end, named=said >= 12.0) <= -7.0:
        return False
    return said >= 12.0 or likelihood(plain, start, end) > -9.5


def _name_after_label(plain: str, start: int, value: str, *, trusted: bool) -> int:
    """The length of the name in `value`, which stands behind a label; 0 when it is none."""
    if value.isascii():  # name: Zhang Wei; the rules for English know more of them
        return 0 if not trusted or not value[:1].isupper() else len(value.rstrip(" ,."))
    if "·" in value:
        return len(value)
    if " " in value:
        first = value.split(" ")[0]
        return _spaced_name_length(value) or _name_after_label(plain, start, first, trusted=trusted)
    for length in range(min(4, len(value)), 1, -1):
        name = value[:length]
        if not _may_end(plain, start + length) or name[:2] in chinese().not_names:
            continue
        surname = surname_of(name)
        if is_chinese_name(name, strict=not trusted) or (trusted and length <= 3 and surname):
            return length
        if trusted and length == len(value) and not surname and name[0] not in "见略无不同如待已未空请由其":
            label = re.search(r"名\s{0,3}[:=]|name", plain[max(0, start - 8) : start], re.IGNORECASE)
            return length if label else 0
    if not trusted:
        return 0
    # no end in sight: the shortest that is surely a name
    if length := next((size for size in (3, 2) if len(value) > size and is_chinese_name(value[:size])), 0):
        return length
    return int(len(value) == 1 and value in chinese().surnames - chinese().rare_surnames)


def _may_end(plain: str, end: int) -> bool:
    """Whether what stands behind may stand behind a name."""
    return bool(fragment_pattern("names_zh", "END").match(plain, end))


def _spaced_name_length(value: str) -> int:
    """The length of a name with spaces between its characters, 曹 磊 年 龄 being a name of two and the next label."""
    parts = list(re.finditer(r"[^ ]+", value))
    for count in (3, 2):
        rest = "".join(part[0] for part in parts[count - 1 :])
        if len(parts) < count or re.match("年龄|性别|电话|出生|民族|职业|科室|[男女]$", rest):
            continue
        if is_chinese_name("".join(part[0] for part in parts[:count]), strict=False):
            return parts[count - 1].end()
    return 0


def _likely_name_length(plain: str, start: int, value: str) -> int:
    """The length of a name that its characters and what follows make likely; 0 otherwise."""
    if "·" in value or "." in value:
        return len(value) if value[0] in chinese().surnames | _FIRST_OF_PEOPLES else 0
    if " " in value:
        if is_chinese_name(value.replace(" ", "")) and all(len(part) == 1 for part in value.split()):
            return len(value)
        value = value.split(" ")[0]
    lengths = (size for size in (4, 3, 2) if size <= len(value) and is_chinese_name(value[:size]))
    return next((size for size in lengths if _may_end(plain, start + size)), 0)


# Before a title


def detect_names_before_titles(plain: str) -> Iterator[Span]:
    """Yield the names before a title in a normalized text: a whole name, or a surname alone."""
    for title in title_pattern().finditer(plain):
        at = title.start()
        spaced = fragment_pattern("names_zh", "SPACED_BEFORE").search(plain, max(0, at - 7), at)
        choices = [spaced[0].rstrip()] if spaced else []
        choices += [plain[at - size : at] for size in (4, 3, 2, 1) if size <= at and " " not in plain[at - size : at]]
        for name in choices:
            start = plain.rindex(name, 0, at)
            if score := _titled_name_score(plain, start, name, title, spaced=bool(spaced)):
                yield "NAME", start, start + len(name), score
                break


def _titled_name_score(plain: str, start: int, name: str, title: re.Match[str], *, spaced: bool) -> float:
    """The score of characters before a title as a whole name or a surname; 0 where they are none."""
    joined, before, names = name.replace(" ", ""), plain[max(0, start - 4) : start], chinese()
    if not HAN_RUN.match(joined) or (before and before[-1] in names.words_before.get(joined[0], "")):
        return 0.0  # 谢谢周医生: the name begins behind the word
    if joined in names.compound_surnames:
        return 0.65
    if len(joined) > 1:
        may_begin = len(joined) > 2 or joined[0] not in names.rare_surnames or _can_start_here(before)
        whole = is_chinese_name(joined) and may_begin and (spaced or _is_plausible(plain, start, title.start()))
        return 0.7 if whole else 0.0
    single = _is_single_surname(joined, before, title["title"], plain[title.end() : title.end() + 1])
    alone = single and (spaced or _can_start_here(before) or is_token(plain, start, title.end()))
    return 0.65 if alone else 0.0


def _can_start_here(before: str) -> bool:
    """Whether a name may begin here: nothing, a mark, or a word like 找 stands before."""
    if not before or not re.match(f"[{HAN}]", before[-1]) or before[-1] in "老小":
        return True
    return bool(fragment_pattern("names_zh", "BEFORE_NAME").search(before))


def _is_single_surname(surname: str, before: str, title: str, after: str) -> bool:
    rare = surname in chinese().rare_surnames
    if surname not in chinese().surnames or surname in _NO_SINGLE:
        return False
    if rare and fragment_pattern("names_zh", "USED").search(before):
        return False  # 用皮护士
    if surname == "于" and (after in ("处", "那") or fragment_pattern("names_zh", "BEFORE_YU").search(before)):
        return False
    if title in ("总", "主治", "专家", "经理", "科长", "所长"):
        return not rare and _can_start_here(before)
    return not rare or title in _CLINICAL or _can_start_here(before)


# Other forms


_NO_NICKNAMES = frozenset(
    "宝宝 孩子 妈妈 爸爸 爷爷 奶奶 哥哥 姐姐 弟弟 妹妹 叔叔 婆婆 公公 小孩 小儿 小便 小腿 小时 小学 小声 "
    "小心 小区 小二 小三 小米 小宝 姥姥 姑姑 舅舅 太太 伯伯 娃娃 阿姨 阿公 阿婆 小伙 小朋 小的 小肠 小脑 "
    "小指 小麦 阿胶 宝贝 常常 刚刚 天天 渐渐 慢慢 往往 偏偏 仅仅 ".split()
)
_VERBS = frozenset("用吃喝打给开有是在和的不没要想能会可做看买说把被让抱带生")  # 给孩子用小儿七星茶
_CALLED_TWICE = frozenset("豆糖果团圆妞蛋点米饼虎牛猫兔熊鱼鹿桃橙柚梨枣核壳毛丫妹囡仔崽壮嘟咚嘻哈闹奇当丁铛咪卡布")
_NOT_OLD = frozenset("白高金黄方于石平安常万花毛公师家板婆乡年娘鸡鼠谢")
_BOOKS = frozenset("素问 灵枢 难经 诗经 论语 史记 内经".split())
_LINKS = "由给找请让和跟与向是叫写的为对在"


def is_name_of_a_people(found: Candidate) -> bool:
    """Whether parts of names of Tibetans, Uyghurs or Mongols are long enough, or stand where a name does."""
    parts = len(found.text)
    return parts > 3 or (parts > 1 and context_score(found.plain, found.start, found.end) >= 3.0)


def is_nickname(found: Candidate) -> bool:
    """Whether it is a child's name (朵朵, 小雨, 豆宝) and no word."""
    name = found.text
    if name[0] in _VERBS or (len(name) > 2 and name[-2:] in load_word_frequencies().words) or name in _NO_NICKNAMES:
        return False
    doubled = name[:1] == name[1:2]  # 朵朵, 豆豆, but not 吃吃, 便便
    if doubled and name[0] not in _CALLED_TWICE and given_names().get(name[0], -99.0) < -8.0:
        return False
    return not within_word(found.plain, found.start, found.end) and name not in medical_terms().words


def is_frequent_word(found: Candidate) -> bool:
    """Whether the characters are a word that is not rare."""
    return load_word_frequencies().words.get(found.text, -20.0) >= -12.5


def is_surname_behind_size(found: Candidate) -> bool:
    """Whether it is a surname behind 老 or 小 that is no word with it: 老陈, but not 小苏打."""
    words, surname, size = load_word_frequencies().words, found.text, found.match["size"]
    whole = found.plain[found.match.start("size") : found.end + 1]
    return (
        is_common_surname(found)
        and surname not in _NOT_OLD
        and words.get(size + surname, -20.0) < (-9.0 if size == "老" else -12.0)
        and not (len(whole) > 2 and whole in words)
        and size + surname not in medical_terms().words  # 小叶, 小梁
    )


def is_common_surname(found: Candidate) -> bool:
    """Whether it is a surname that is no everyday word first."""
    return found.text in chinese().surnames and found.text not in chinese().rare_surnames


def trim_foreign_name(found: Candidate) -> bool:
    """Cut words before a foreign name: 收据抬头写艾琳·彼得罗娃."""
    first = found.text.partition("·")[0]
    if first[-2:] in _BOOKS or _joins_words(found.text):
        return False
    found.start += max((at for at in range(len(first)) if _are_ordinary_words(first[:at])), default=0)
    return True


def is_spaced_name(found: Candidate) -> bool:
    """Whether two characters with spaces between are a surname and a given name: 石  磊."""
    known = found.match["one"] in chinese().surnames and found.match["two"] in given_names()
    return known and is_token(found.plain, found.start, found.start + 1)


def _joins_words(text: str) -> bool:
    """Whether a dot parts words and not a foreign name: 并发症·白癜风."""
    known = load_word_frequencies()
    return any(
        part not in known.people
        and (part in known.words or part in medical_terms().words)
        and not all(character in chinese().transliteration for character in part)
        for word in text.split("·")
        for part in {word, word[-2:], word[:2]}
        if len(part) > 1
    )


def _are_ordinary_words(text: str) -> bool:
    """Whether characters before a foreign name are words by themselves."""
    words = load_word_frequencies().words
    if text in words and (len(text) > 1 or text in _LINKS):
        return True
    return any(
        text[at:] in words and (len(text) - at > 1 or text[at:] in _LINKS) and _are_ordinary_words(text[:at])
        for at in range(1, len(text))
    )


CHECKS: Checks = {
    check.__name__: check
    for check in (
        *(trim_labelled_name, trim_likely_name, is_surname, has_stated_surname),
        *(is_name_of_a_people, is_nickname, is_frequent_word, is_surname_behind_size, is_common_surname),
        *(trim_foreign_name, is_spaced_name),
    )
}
