"""Chinese names of persons that something says to be one: a marker (姓名：), a title (医生), a role, in folded text.

    list(names(fold("患者王小明，男，45岁")))   # [("NAME", 2, 5, 0.8)]

Names that stand in a sentence are found in `names_zh_prose`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from carellama.privacy.kinds import Span
from carellama.privacy.medical_context import evidence
from carellama.privacy.names_zh_prose import around, is_token, likelihood
from carellama.privacy.word_lists import chinese
from carellama.text import HAN

_COMPOUND = "|".join(sorted(chinese().compound_surnames))
_SPACED = rf"[{HAN}](?: {{1,2}}[{HAN}]){{1,3}}(?![{HAN}])"  # 王 小 明
_PARTS = rf"[{HAN}]{{1,10}}(?:·[{HAN}]{{1,10}}){{1,3}}"  # 阿依古丽·买买提
_LATIN = r"[A-Z][A-Za-z'\-]+(?:[ ,·]{1,2}[A-Z][A-Za-z'\-.]*){0,3}|[a-z]{2,12}(?: [a-z]{2,12}){1,2}"
# What may stand behind a name. Han words here end it: 王小明男45岁.
_END = (
    r"(?=$|[\s,.。;:、!?\"'()\[\]<>/|+~_…，；]|性别|男|女|年龄|今年|现年|现住|出生|生于|电话|手机|联系|"
    r"身份证|证件|住院|住址|地址|病历|门诊|"
    r"就诊|来院|来诊|入院|出院|因|诉|自诉|主诉|主任|医生|医师|大夫|护士|教授|先生|女士|的|是|在|于|已|"
    r"以|由|患|查房|看过|到|来|去|说|把|想|建议|认为|指示|表示|会诊|随访|评估|检查|诊断|予|嘱|告知|"
    r"上周|上个?月|昨天|前天|前几天|最近|刚刚|一直|老是|经常|突然|查出|查到|去年|前年|还是|没有|走路|这两|这几|"
    r"完成|签|主刀|操作|值班|负责|反映|要求|在|做|给|和|与|及|\d|X)"
)
# A marker that says by itself that a name follows, whatever its characters.
_STRONG = (
    r"(?:姓\s{0,4}名|名\s{0,2}字|病人名|患者名|曾用名|户主|收件人|寄件人|收货人|投保人|被保险人|受益人|"
    r"紧急联系人|紧急联络人|联系人|联络人|监护人|"
    r"法定代理人|委托人|受托人|授权人|户\s{0,2}名|开户人|持卡人|机主|车主|业主|房主|主诉人|报案人|"
    r"购药人|取药人|领药人|家长|责任人|负责人|主持人|讲者|指导老师|代理人|陪护人?|陪同人?|申请人|"
    r"经办人|主管医[师生]|床位医[师生]|分管医[师生]|主诊医[师生]|主治医[师生]|"
    r"经治医[师生]|管床医[师生]|责任医[师生]|接诊医[师生]|"
    r"首诊医[师生]|开单医[师生]|送检医[师生]|送检人|挂号人|就诊人|办卡人|订餐人|来访者|咨询者|咨询人|"
    r"提问者|求助者|被试|献血者|受检者|受检人|体检者|申请医[师生]|报告医[师生]|报告人|检查医[师生]|"
    r"审核医[师生]|审核者?|审核人|手术医[师生]|麻醉医[师生]|"
    r"住院医[师生]|上级医[师生]|值班医[师生]|会诊医[师生]|责任护士|主管护士|值班护士|主刀|术者|手术者|"
    r"一助|二助|麻醉师|记录者|记录人|记录医[师生]|"
    r"签\s{0,2}名|签\s{0,2}字|签署人?|检验者|检验师|检验员|复核者|复核人|采血者|医[师生]签[名字]|"
    r"患者签[名字]|家属签[名字]|病史陈述者|供史者|病史提供者|"
    r"转诊医[师生]|出诊医[师生]|预约医[师生]|坐诊医[师生]|就诊医[师生]|随访医[师生]|家庭医[师生]|"
    r"负责医[师生]|联系人姓名|患者姓名|病人姓名|母亲姓名|父亲姓名|家属姓名|patient_?name|name)"
)
_RELATIVE = (
    r"(?:[我他她][爸妈爷奶哥姐弟妹](?![爸妈爷奶哥姐弟妹])|母亲|父亲|妈妈|爸爸|配偶|丈夫|妻子|爱人|老公|"
    r"老婆|老伴|先生|"
    r"太太|儿子|女儿|孩子|小孩|宝宝|闺女|丫头|娃|媳妇|儿媳妇?|大儿子|小儿子|"
    r"爷爷|奶奶|外公|外婆|姥姥|姥爷|哥哥|姐姐|弟弟|妹妹|"
    r"岳父|岳母|公公|婆婆|儿媳|女婿|孙子|孙女|外孙女?|侄子|侄女|舅舅|姑姑|姨妈|叔叔|伯父|男友|女友|"
    r"男朋友|女朋友|同事|朋友|患儿|产妇|孕妇|死者|伤者|病友|邻居)"
)
_WEAK = (
    rf"(?:患者|病人|病患|家属|患属|本人|受试者|护士长?|医[师生]|大夫|主任医师|副主任医师|主治医师|住院医师|"
    rf"主任|教授|护工|护师|药师|技师|营养师|治疗师|康复师|助理|助手|{_RELATIVE})"
)
_IS = r"[\"']?\s{0,3}(?:\([^()\n]{0,10}\)\s{0,2})?[:=>,|]?[\"']?\s{0,4}(?:是|为|叫做?|系)?\s{0,2}[\"']?"
_COLON = r"[\"']?\s{0,3}(?:\([^()\n]{0,10}\)\s{0,2})?[:=>|]\s{0,4}[\"']?"
_STRONG_NAME = re.compile(
    rf"{_STRONG}(?:(?:姓名|签名|签字)?{_COLON}(?P<colon>{_SPACED}|{_PARTS}|{_LATIN}|[{HAN}]{{1,4}})|"
    rf"(?:姓名)?{_IS}(?P<value>{_SPACED}|{_PARTS}|[{HAN}]{{2,4}}))",
    re.IGNORECASE,
)
_WEAK_NAME = re.compile(
    rf"{_WEAK}(?:姓名|名叫|叫)?(?P<mark>\s?[:(]?\s?)(?=(?P<value>{_SPACED}|{_PARTS}|[{HAN}]{{2,4}}))"
)
_SURNAMED = re.compile(
    rf"(?:我|本人|患者|免贵|先生|女士)?(?:免贵)?姓(?P<value>{_COMPOUND}|[{HAN}])(?=$|"
    rf"[\s,.。;!?，；、名的氏])(?:名(?P<given>[{HAN}]{{1,2}}))?"
)
TITLE = re.compile(
    r"(?P<title>(?:副?主任|副?教授|医[生师]|大夫|护士长?|护师|护长|先生|女士|小姐|太太|院长|所长|科长|专家|老师|阿姨|叔叔|大爷|大妈|大叔|"
    r"奶奶|爷爷|师傅|博士|同志|药师|技师|老先生|老太太|老人家|主治|经理|总(?=$|[^一-鿿]|[您你好说来让叫找]|今天|昨天|已经)|"
    r"主管|队长|班长|同学|师姐|师兄|老板|姐(?![姐妹])|哥(?!哥)|婶|嫂|叔(?!叔))+)"
    r"(?!治疗|职称|学会|建议书|办公|信箱|站|协会|团队的)"
)
_SPACED_BEFORE = re.compile(rf"(?<![{HAN}])[{HAN}](?: [{HAN}]){{1,2}} ?$")
HAN_ONLY = re.compile(rf"[{HAN}]+$")
_DEAR = re.compile(
    r"(?:尊敬的|亲爱的|请找|挂了?|找|联系|转交?|交给|咨询|感谢|谢谢|请问|请|致|您好|你好|由|经|和|跟|"
    r"与|向|被|让|给|我是|是|及|、|的|在|叫|去)$"
)
_TITLES = frozenset(
    "先生 女士 小姐 太太 医生 医师 大夫 主任 教授 阿姨 叔叔 老师 护士 同志 师傅 大爷 大妈 姓名 性别".split()
)
_CLINICAL = frozenset("医生 医师 大夫 主任 副主任 教授 副教授 护士 护士长 院长".split())
_NO_SINGLE = frozenset("向和同那时应从有别都过如经当由且但能后所求单再是帮问来公计全还让叫查支因只请位名要信国门强权班")
_USED = re.compile(r"[用买吃喝涂抹擦敷喷](?:了|过|着)?$")
_BEFORE_YU = re.compile(r"[由对关至位求属在处基归鉴便善等利介终过用大小高低多少源]$")


def names(plain: str) -> Iterator[Span]:
    """Yield the names in a folded text with Chinese characters: (kind, start, end, score)."""
    for match in _STRONG_NAME.finditer(plain):
        group = "colon" if match["colon"] else "value"
        sure = group == "colon" or plain[match.start(group) - 1] in "是为 "
        start = match.start(group)
        length = _after_marker(plain, start, match[group], sure=sure)
        if length and (sure or _plausible(plain, start, start + length)):
            yield "NAME", match.start(group), match.start(group) + length, 0.9
    for match in _WEAK_NAME.finditer(plain):
        start = match.start("value")
        length = _likely(plain, start, match["value"])
        if length and _plausible(plain, start, start + length):
            yield "NAME", start, start + length, 0.7
    for match in _SURNAMED.finditer(plain):
        if match["value"] in chinese().surnames or match["value"] in chinese().compound_surnames:
            yield "NAME", *match.span("value"), 0.8
            if match["given"]:
                yield "NAME", *match.span("given"), 0.8
    yield from _titled(plain)


def _plausible(plain: str, start: int, end: int) -> bool:
    """Whether a name of a surname and a given name is not words by all odds: 孩子暴露, 患者应行; nor a medicine."""
    if not HAN_ONLY.match(plain[start:end]) or plain[start : start + 2] in chinese().compound_surnames:
        return True
    said = around(plain, start, end)
    if evidence(plain, start, end, named=said >= 12.0) <= -7.0:
        return False
    return said >= 12.0 or likelihood(plain, start, end) > -9.5


def has_surname(name: str) -> str:
    """Return the surname that Chinese characters begin with, "" if they begin with none."""
    return name[: _surname_length(name)]


def _surname_length(name: str) -> int:
    if name[:2] in chinese().compound_surnames:
        return 2
    return 1 if name[:1] in chinese().surnames else 0


def is_name(name: str, *, sure: bool = False) -> bool:
    """Whether Chinese characters are a surname and a given name of one or two; `sure`: any given name will do."""
    surname = _surname_length(name)
    given = name[surname:]
    if not surname or not 1 <= len(given) <= 2 or (name[:2] in chinese().not_names and surname == 1):
        return False
    if (
        given in _TITLES
        or "某" in given
        or any(
            character in "不吗呢吧啊了过着没什怎很太就也的是我你他她您这哪被把让给及或与药片汤丸散炎症癌病痛痒"
            for character in given
        )
    ):
        return False
    if sure:
        return True
    if name[0] in chinese().rare_surnames and len(given) == 1:
        return given in "峰平红伟芳娜敏静丽强磊军勇艳杰娟涛超霞刚辉玲鹏飞斌婷浩琳欣怡倩莉萍波梅丹琴颖蕾薇"
    return all(character in chinese().given for character in given)


def _after_marker(plain: str, start: int, value: str, *, sure: bool) -> int:
    """The length of the name in `value`, which stands behind a marker; 0 when it is none."""
    if " " in value or "·" in value or value.isascii():
        if value.isascii():  # name: Zhang Wei; the English recogniser knows more of them
            return 0 if not sure or not value[:1].isupper() else len(value.rstrip(" ,."))
        if "·" in value:
            return len(value)
        return _spaced(value) or _after_marker(plain, start, value.split(" ")[0], sure=sure)
    for length in sorted({4, 3, 2} & set(range(len(value) + 1)), reverse=True):
        name = value[:length]
        if re.match(_END, plain[start + length :]) and name[:2] not in chinese().not_names:
            if is_name(name, sure=sure) or (sure and length <= 3 and _surname_length(name)):
                return length
            if (
                sure
                and 2 <= length <= 4
                and length == len(value)
                and not _surname_length(name)
                and name[0] not in "见略无不同如待已未空请由其"
            ):
                return (
                    length if re.search(r"名\s{0,3}[:=]|name", plain[max(0, start - 8) : start], re.IGNORECASE) else 0
                )
    # no end in sight: the shortest that is surely a name
    for length in (3, 2):
        if sure and len(value) > length and is_name(value[:length]):
            return length
    if sure and len(value) == 1 and value in chinese().surnames - chinese().rare_surnames:
        return 1
    return 0


def _spaced(value: str) -> int:
    """The length of a name with spaces between its characters, 曹 磊 年 龄 being a name of two and the next marker."""
    parts = list(re.finditer(r"[^ ]+", value))
    for count in (3, 2):
        rest = "".join(part[0] for part in parts[count - 1 :])
        if len(parts) < count or re.match("年龄|性别|电话|出生|民族|职业|科室|[男女]$", rest):
            continue
        if is_name("".join(part[0] for part in parts[:count]), sure=True):
            return parts[count - 1].end()
    return 0


def _likely(plain: str, start: int, value: str) -> int:
    """The length of a name that its characters and what follows make likely; 0 otherwise."""
    if "·" in value or "." in value:
        return (
            len(value)
            if value[0] in chinese().surnames | frozenset("阿艾买古热吐库哈依帕努巴萨扎洛格拉旦次多桑达丹才尼白玛央")
            else 0
        )
    if " " in value:
        joined = value.replace(" ", "")
        if is_name(joined) and all(len(part) == 1 for part in value.split()):
            return len(value)
        value = value.split(" ")[0]
    for length in (4, 3, 2):
        if length <= len(value) and is_name(value[:length]) and re.match(_END, plain[start + length :]):
            return length
    return 0


def _titled(plain: str) -> Iterator[Span]:
    """Names before a title: a whole name, or a surname alone."""
    for match in TITLE.finditer(plain):
        at = match.start()
        spaced = _SPACED_BEFORE.search(plain, max(0, at - 7), at)
        choices = [spaced[0].rstrip()] if spaced else []
        choices += [
            plain[at - length : at] for length in (4, 3, 2, 1) if length <= at and " " not in plain[at - length : at]
        ]
        for name in choices:
            start = plain.rindex(name, 0, at)
            joined = name.replace(" ", "")
            before = plain[max(0, start - 4) : start]
            if not HAN_ONLY.match(joined) or (
                joined[0] in chinese().words_before and before[-1:] and before[-1] in chinese().words_before[joined[0]]
            ):
                continue  # 谢谢周医生: the name begins behind the word
            if len(joined) >= 2 and joined not in chinese().compound_surnames:
                if (
                    is_name(joined)
                    and (len(joined) > 2 or joined[0] not in chinese().rare_surnames or _free(before))
                    and (spaced or _plausible(plain, start, at))
                ):
                    yield "NAME", start, start + len(name), 0.7
                    break
            elif joined in chinese().compound_surnames or (
                _is_single(joined, before, match["title"], plain[match.end() : match.end() + 2])
                and (spaced or _free(before) or is_token(plain, start, match.end()))
            ):
                yield "NAME", start, start + len(name), 0.65
                break


def _free(before: str) -> bool:
    """Whether a name may begin here: nothing, a mark, or a word like 找 stands before."""
    return not before or not re.match(f"[{HAN}]", before[-1]) or bool(_DEAR.search(before)) or before[-1] in "老小"


def _is_single(surname: str, before: str, title: str, after: str) -> bool:
    if surname not in chinese().surnames or surname in _NO_SINGLE:
        return False
    if before[-1:] and before[-1] in chinese().words_before.get(surname, ""):
        return False
    if surname in chinese().rare_surnames and _USED.search(before):
        return False  # 用皮护士
    if surname == "于" and after[:1] in ("处", "那"):
        return False
    if surname == "于" and _BEFORE_YU.search(before):
        return False
    if title in ("总", "主治", "专家", "经理", "科长", "所长"):
        return surname not in chinese().rare_surnames and _free(before)
    return surname not in chinese().rare_surnames or title in _CLINICAL or _free(before)
