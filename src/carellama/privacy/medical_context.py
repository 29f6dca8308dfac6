"""Evidence that Chinese characters which look like a name are a medicine or a finding: 服用易坦静, 赫赛汀、来曲唑.

    evidence("服用易坦静口服液", 2, 5)   # -18.0: a verb of taking before it, a form of medicine behind it

Positive evidence (姓名, 医生, 男) is in `names_zh_prose`. Values are differences of log probabilities.
"""

from __future__ import annotations

import re
from functools import lru_cache

from carellama.privacy.word_lists import medical_terms

_TAKE = re.compile(  # what people do with medicines, points and creams
    r"(?:服用?|口服|吃|喝|含服|泡水|煎服?|外用|外涂|涂抹?|抹|外擦|擦|敷|喷|滴|注射|输液?|静滴|静点|静推|泵入|"
    r"换成?|改用|改成|改为|加用|加服|"
    r"停用|停服|联合|配合|搭配|使用|应用|选用|改服|停|用|开|买|购买|配|备|商品名|药名|通用名|化学名|品名|别名|"
    r"又名|又称|又叫|也叫|也称|俗称|学名|[\W_]一名|^一名|药|药物|药品|"
    r"药是|药有|针[刺灸]|艾灸|灸|取穴|配穴|主穴|穴位|成分|组成|复方|注射用|盐酸|硫酸|磷酸|醋酸|枸橼酸|马来酸|"
    r"富马酸|酒石酸|甲磺酸|苯磺酸|琥珀酸|乳酸|牌子?|品牌)"
    r"(?:了|过|着|点|些|的|的是|是|为|有|一点|一些|一种|个|几[片粒天盒]|[一二两三四五六\d]+(?:片|粒|袋|支|包|盒|"
    r"瓶|天|周)(?:的)?){0,2}"
    r"(?:进口|国产|小儿|儿童|复方)?[:\s\"'(\[《,]*$"
)
ALIASES = re.compile(r"(?:别名|商品名|又名|药品名称|常用药物?|药物(?:有|包括|治疗))[:：是为]?[^\n。]{0,150}$")
_NO_TAKE = re.compile(r"(?:作|信|费|学|雇|聘|启|录|任|重|请|离|展|打|公|召|推|切|张|睁|分|让|散)(?:用|开)$|[^服]用药$")
_FORM = re.compile(  # what stands behind the name of a medicine, a sign, a point, a test
    r"(?:[(\[][^()\[\]]{0,12}[)\]])?(?:缓释|控释|肠溶|分散|口服|咀嚼|泡腾|滴[眼鼻耳剂丸管液]|注射|混悬|干混悬|"
    r"软胶|胶囊|颗粒|冲剂|糖浆|合剂|洗剂|搽剂|喷[雾剂鼻]|凝胶|"
    r"乳[膏剂]|软膏|眼膏|药膏|气雾|吸入|粉针|疫苗|奶粉|含片|片|丸(?!子)|散(?!步|发|心)|膏|栓剂?|贴(?:片|剂|"
    r"膏)?(?!心|身)|酊|糊剂|溶液|洗液|滴剂|针剂|"
    r" ?[\d.]+\s?(?:mg|g|ml|毫克|克|毫升|片|粒|支|袋|包|丸|瓶|盒|贴|万?单位|u?ug|iu|万u|u)(?![A-Za-z])|"
    r"(?:[一二两三四半几]|1/\d)\s?(?:片|粒|支|袋|包|丸|瓶|盒|贴)|每[天日次晚早][一二两三\d]|[AB]?[DEK]\d?(?![A-Za-z])|"
    r"是(?:一种|属于|什么|治)[^,。]{0,6}药|这[个种]?药|的?(?:用法|用量|剂量|副作用|药效|说明书|疗程)|"
    r"[\-—][一-鿿]|[征症](?![状候求])|氏|综合征|试验|染色|评分|量表|指数|分型|分期|分级|定律|小体|结节|憩室|穴|病毒|杆菌|球菌|原虫|制药|药业|公司|牌)",
    re.IGNORECASE,
)
_MACHINE = re.compile(  # 我是小康，一个AI助手
    r"[^。！？!?\n]{0,6}(?:助手|大?模型|机器人|人工智能|智能|小助理|平台|软件|系统|程序|APP|app|AI)|"
    r"[,，]?\s?(?:是)?(?:一个|一款|一名|由)[^。！？\n]{0,14}"
    r"(?:AI|人工智能|智能|模型|助手|机器人|开发|研发|训练)"
)
_INTRODUCED = re.compile(r"(?:我是|我叫|名字[是叫为]|作为|您好|你好|[,，。]是)\s?[\"'“「]?$")
_JOINT = re.compile(r"[、,，/+和及与或跟]\s?$")
_JOINED = re.compile(r"\s?[、/+和及与或跟]\s?")
_FORM_BEFORE = re.compile(
    r"(?:片|胶囊|颗粒|丸|口服液|注射液|糖浆|软膏|乳膏|滴剂|合剂|散|汤|冲剂)(?:\d+\w{0,3})?[、,，/+和及与或跟]\s?$"
)

_NEAR = 12  # characters
_FORM_NEAR = re.compile("胶囊|颗粒|冲剂|口服液|注射液|糖浆|软膏|乳膏|[汤片丸散膏](?=[,，、;；。和或])")
_SUCH_AS = re.compile(r"(?:如|像|包括|含有?|或|补充)[,，:]?$|比如说?[,，]?$")
_DOES = re.compile(r"等|改善|治疗|缓解|调理|联合|配合|预防|清热|退热|检查")


@lru_cache(maxsize=64)
def _terms(plain: str) -> tuple[tuple[int, int], ...]:
    return tuple(medical_terms().spans(plain))


def evidence(plain: str, start: int, end: int, *, named: bool = False) -> float:
    """Return by how much what stands in and around these characters speaks for a thing, a negative number or 0.

    `named`: something says that they are a name (患者丁香，女), so that the word itself does not count.
    """
    worth = _word(plain, start, end)
    if named and worth > -12.0:
        worth = 0.0
    before = plain[max(0, start - 14) : start]
    if _TAKE.search(before) and not _NO_TAKE.search(before):
        worth -= 8.0
    if _FORM.match(plain, end):
        worth -= 10.0
    if ALIASES.search(plain, max(0, start - 160), start):
        worth -= 8.0
    if _INTRODUCED.search(before) and _MACHINE.match(plain, end):
        worth -= 14.0
    return worth - _company(plain, start, end)


def remedies(plain: str, start: int, end: int) -> float:
    """Return by how much medicines that stand near, or what is said of them, speak against a name no word tells."""
    near = sum(
        left < end + _NEAR and right > start - _NEAR for left, right in _terms(plain) if right <= start or left >= end
    )
    worth = 3.0 * min(near + len(_FORM_NEAR.findall(plain, max(0, start - _NEAR), end + _NEAR)), 3)
    worth += 4.0 if _SUCH_AS.search(plain, max(0, start - 8), start) else 0.0
    return worth + (4.0 if _DOES.match(plain, end) else 0.0)


def _word(plain: str, start: int, end: int) -> float:
    """Whether a medical word is the same characters (丁香), goes beyond them (利可|君), or overlaps (双[黄连]翘)."""
    worth = 0.0
    for left, right in _terms(plain):
        if left >= end:
            break
        if right <= start or (start <= left and right <= end and (left, right) != (start, end)):
            continue
        if (left, right) == (start, end):
            worth = min(worth, -7.0)
        elif left <= start and end <= right:
            worth = min(worth, -30.0)
        else:
            worth = min(worth, -12.0 if left < start else -3.0)
    return worth


def _company(plain: str, start: int, end: int) -> float:
    """How much a list speaks for a medicine: the item before or behind it is one."""
    before, worth = plain[max(0, start - 12) : start], 0.0
    if _FORM_BEFORE.search(before):
        worth = 6.0
    joint, joined = _JOINT.search(before), _JOINED.match(plain, end)
    if joint or joined:
        left = start - len(joint[0]) if joint else -1
        right = joined.end() if joined else -1
        if any(span[1] == left or span[0] == right for span in _terms(plain) if span[1] - span[0] > 1):
            worth = max(worth, 6.0)
    return worth


def within_word(plain: str, start: int, end: int) -> bool:
    """Whether these characters are part of a longer medical word: 利可 in 利可君."""
    return _word(plain, start, end) <= -12.0
