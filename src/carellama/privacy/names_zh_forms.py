"""Chinese forms of names that have no surname and given name: of other peoples, of children, 小李, 陈某, 石  磊.

    list(forms("我孩子朵朵咳嗽"))   # [("NAME", 3, 5, 0.5)]

Each is a form of its own; names of a surname and a given name are found in `names_zh_prose`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from carellama.privacy.kinds import Span
from carellama.privacy.medical_context import within_word
from carellama.privacy.names_zh_prose import around, dictionary, given_names, is_token
from carellama.privacy.word_lists import chinese, medical_terms
from carellama.text import HAN

# Parts of the names of Tibetans, Uyghurs, Kazakhs and Mongols: written without a surname.
_PEOPLES = (
    "多杰|巴雅尔|苏德|卓玛|央金|扎西|次仁|才让|才仁|丹增|旦增|达瓦|尼玛|巴桑|边巴|格桑|德吉|拉姆|白玛|顿珠|洛桑|平措|强巴|索朗|索南|多吉|仁增|"
    "旺堆|旺姆|桑珠|贡布|罗桑|益西|曲珍|卓嘎|普布|米玛|拉毛|措姆|仁青|加措|嘉措|坚赞|次旦|古丽|买买提|艾买提|阿卜杜|阿不都|阿布都|"
    "阿依|阿迪力|阿里木|艾力|艾合买提|吐尔逊|吐尔洪|图尔荪|帕提曼|帕提古|热依汗|热合曼|玛依拉|迪丽|热巴|努尔|麦麦提|木合塔尔|穆合塔尔|"
    "依布拉音|依不拉音|伊力|哈丽|再努尔|阿孜|海力力|卡德尔|克里木|库尔班|艾山|买合|巴哈尔|沙吾|阿曼|古力|米热|祖丽|苏比|麦尔|"
    "哈斯|其其格|乌云|巴特尔|苏日娜|娜仁|图雅|布和|乌兰|托娅|高娃|萨仁|格日勒|巴图|朝克|斯琴|乌日|娜布|阿拉坦|敖日|宝音|额尔敦|"
    "孟和|那日|塔娜|其木格|通拉嘎|牧仁|呼和|毕力格|苏和|朝鲁|必力|胡日|阿古拉|阿茹娜|萨日娜|哈森|别克|巴合提|叶尔|努尔兰|"
    "金花|提|江|汗|木|尔|娜|勒|别尔|买|拉|克|孜"
)
_STRONG_PEOPLES = _PEOPLES.partition("|金花")[0]
_PEOPLE = re.compile(rf"(?:{_STRONG_PEOPLES})(?:{_PEOPLES}){{0,4}}(?!花|麻|果|族|语|自治|浩特|木齐|藏布)")
_CALLED = (
    r"(?:小名|乳名|大名|昵称|网名|全名|名叫|取名|起名|名字[叫是]?|[我他她]叫|就叫|叫做|(?:孩子|宝宝|儿子|女儿|闺女|宝贝|"
    r"患儿|孙子|孙女|外孙女?|弟弟|妹妹|小孩|娃娃?|[大小]宝)(?:叫)?)"
)
_PET = re.compile(  # 我孩子朵朵, 小名豆豆, 小雨妈妈
    rf"{_CALLED}[\s\"':是叫]{{0,2}}(?P<one>(?P<twice>[{HAN}])(?P=twice)|[小阿][{HAN}]|[{HAN}]{{1,2}}(?:宝|仔|儿|哥|姐))"
    rf"(?=$|[^{HAN}]|[今昨前最这从在的有发咳出现一二两三四五六七八九])|"
    rf"(?:^|[^{HAN}]|[跟和给找与向对请由让是])(?P<two>(?P<again>[{HAN}])(?P=again)|[小阿][{HAN}])"
    rf"(?=的?(?:妈妈|爸爸|家长|奶奶|爷爷|外婆|姥姥|妈(?!妈)|爸(?!爸)))|"
    rf"(?:^|[^{HAN}])(?P<three>(?P<alike>[{HAN}])(?P=alike))"
    rf"(?=今天|昨天|昨晚|前天|最近|已经?|现在|从|又|还|这几天|这两天|[晚早]上|的?(?:体温|疫苗|检查|报告|妈|爸))"
)
_NO_PET = frozenset(
    "宝宝 孩子 妈妈 爸爸 爷爷 奶奶 哥哥 姐姐 弟弟 妹妹 叔叔 婆婆 公公 小孩 小儿 小便 小腿 小时 小学 小声 "
    "小心 小区 小二 小三 小米 小宝 姥姥 姑姑 舅舅 太太 伯伯 娃娃 阿姨 阿公 阿婆 小伙 小朋 小的 小肠 小脑 "
    "小指 小麦 阿胶 宝贝 常常 刚刚 天天 渐渐 慢慢 往往 偏偏 仅仅 ".split()
)
_VERBS = frozenset("用吃喝打给开有是在和的不没要想能会可做看买说把被让抱带生")  # 给孩子用小儿七星茶
_PETS = frozenset("豆糖果团圆妞蛋点米饼虎牛猫兔熊鱼鹿桃橙柚梨枣核壳毛丫妹囡仔崽壮嘟咚嘻哈闹奇当丁铛咪卡布")


def _is_pet(character: str) -> bool:
    """Whether a character is doubled to call a child: 朵朵, 豆豆, but not 吃吃, 便便."""
    return character in _PETS or given_names().get(character, -99.0) >= -8.0


_THEN = (
    rf"$|[^{HAN}\-—·]|今|昨|说|来|已|最近|的|你|您|这|那|是|和|家|从|在|又|也|去|打|问|帮|给|把|让|跟|吗|吧|呢|啊|呀"
)
_OLD = re.compile(  # 老马, 小李
    rf"(?:(?<![{HAN}])|(?<=[床的和跟找给让请叫是号])|(?<=同事|邻居|朋友|病友|护士|护工|医生|大夫|老师|司机|"
    rf"同学))(?P<size>[老小])(?P<one>[{HAN}])(?={_THEN})"
)
_NOT_OLD = frozenset("白高金黄方于石平安常万花毛公师家板婆乡年娘鸡鼠谢")
_SOMEBODY = re.compile(rf"(?P<one>[{HAN}])某(?![些种个一天日月年人处地时])")
_FOREIGN = re.compile(
    rf"(?:[{chinese().transliteration}]{{1,7}}|[{HAN}]{{2,3}})(?:·(?:[{chinese().transliteration}]{{1,8}}|[{HAN}]{{2,3}})){{1,3}}(?!综合|病|征|氏|医院)"
)
_BOOKS = frozenset("素问 灵枢 难经 诗经 论语 史记 内经".split())
_LINKS = "由给找请让和跟与向是叫写的为对在"
_KATAKANA = re.compile("[ァ-ヺー]{2,12}(?:[・·＝ ][ァ-ヺー]{2,12})+")
_APART = re.compile(rf"(?P<one>[{HAN}]) {{2,3}}(?P<two>[{HAN}])(?=$|[^{HAN} ]| {{2,}}|[男女])")  # 石  磊


def forms(plain: str) -> Iterator[Span]:
    """Yield the names of these forms in a folded text: (kind, start, end, score)."""
    words = dictionary().words
    for match in _PEOPLE.finditer(plain):
        parts = len(match[0])
        if parts > 3 or (parts > 1 and around(plain, *match.span()) >= 3.0):
            yield "NAME", *match.span(), 0.5
    for match in _PET.finditer(plain):
        group = next(name for name in ("one", "two", "three") if match[name])
        pet, single = match[group], words.get(match[group], -20.0) >= -12.5
        if pet[0] in _VERBS or (len(pet) > 2 and pet[-2:] in words) or pet in _NO_PET:
            continue
        if (group == "three" and single) or (pet[:1] == pet[1:2] and not _is_pet(pet[0])):
            continue
        if not within_word(plain, *match.span(group)) and pet not in medical_terms().words:
            yield "NAME", *match.span(group), 0.5
    if "老" in plain or "小" in plain:
        yield from _old(plain)
    for match in _SOMEBODY.finditer(plain) if "某" in plain else ():
        if match["one"] in chinese().surnames and match["one"] not in chinese().rare_surnames:
            yield "NAME", *match.span("one"), 0.5
    for match in _FOREIGN.finditer(plain) if "·" in plain else ():
        first = match[0].partition("·")[0]  # 收据抬头写艾琳·彼得罗娃: words before it are none of it
        if first[-2:] not in _BOOKS and not _listed(match[0]):
            cut = max((at for at in range(len(first)) if _worded(first[:at])), default=0)
            yield "NAME", match.start() + cut, match.end(), 0.5
    for match in _KATAKANA.finditer(plain):
        yield "NAME", *match.span(), 0.5
    for match in _APART.finditer(plain) if "  " in plain else ():
        start = match.start()
        if match["one"] in chinese().surnames and match["two"] in given_names() and is_token(plain, start, start + 1):
            yield "NAME", match.start(), match.end(), 0.5


def _listed(text: str) -> bool:
    """Whether a dot parts words and not a foreign name: 并发症·白癜风."""
    known = dictionary()
    return any(
        part not in known.people
        and (part in known.words or part in medical_terms().words)
        and not all(character in chinese().transliteration for character in part)
        for word in text.split("·")
        for part in {word, word[-2:], word[:2]}
        if len(part) > 1
    )


def _old(plain: str) -> Iterator[Span]:
    words = dictionary().words
    for match in _OLD.finditer(plain):
        surname, size = match["one"], match["size"]
        if (
            surname in chinese().surnames
            and surname not in chinese().rare_surnames
            and surname not in _NOT_OLD
            and words.get(size + surname, -20.0) < (-9.0 if size == "老" else -12.0)
            and not (len(whole := plain[match.start("size") : match.end() + 1]) > 2 and whole in words)  # 小苏打
            and size + surname not in medical_terms().words  # 小叶, 小梁
        ):
            yield "NAME", *match.span("one"), 0.5


def _worded(text: str) -> bool:
    """Whether characters before a foreign name are words by themselves."""
    words = dictionary().words
    if text in words and (len(text) > 1 or text in _LINKS):
        return True
    return any(
        text[at:] in words and (len(text) - at > 1 or text[at:] in _LINKS) and _worded(text[:at])
        for at in range(1, len(text))
    )
