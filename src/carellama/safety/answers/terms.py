"""What an answer names: diseases, medicines, amounts; and which of them the person named first.

    found = find_terms("take ibuprofen 400 mg twice a day.")
    found["medicine"], found["dose"], found["frequency"]        # [Mention(...)], ...

Names are those of `drugs.yaml` and of the conditions of `contraindications.yaml`, and words that are built like such
names (-itis, -pril, 炎, 沙坦). The text is one of `normalize`. A disease or an amount that the person stated is no
claim of the model (`Stated`).
"""

from __future__ import annotations

import re
from functools import cache

from ahocorasick_rs import AhoCorasick

from carellama.rules import Mention, Mentions, normalize
from carellama.safety.medication.rules import CONDITION, DRUG, MedicationRules, load_medication

_NUMBER = (
    r"(?:(?<![\d.])\d{1,5}(?:[.,]\d{1,3})?(?: ?(?:-|to|or|~|至|到|或) ?\d{1,5}(?:\.\d{1,3})?)?|"
    r"[一二两三四五六七八九十半]{1,3}|"
    r"(?<![a-z])(?:an?|one|two|three|four|five|six|half an?|half))"
)
_UNITS = (
    "milligrams? micrograms? millilit(?:er|re)s? grams? mg mcg µg μg ug g ml cc iu units? 毫克 微克 克 毫升 "
    "国际单位 个?单位 片 粒 颗 丸 滴 支 包 袋 贴 揿 喷 枚 喷?下(?=[一-鿿]) tablets? capsules? caplets? "
    "softgels? gummies pills? drops? puffs? sprays? times·in·each·nostril inhalations? teaspoons? tablespoons? "
    "teaspoonfuls? tsp tbsp sachets? lozenges? patch(?:es)? ampoules? vials? pessar(?:y|ies) "
    "suppositor(?:y|ies)"
)
_FREQUENCIES = (
    "once twice thrice (?:\\d|two|three|four|five)·times "
    "every·(?:\\d+|two|three|four|six|eight|twelve|other)·?(?:hours?|days?|weeks?|months?) (?:once·)?daily "
    "nightly every·(?:day|night|morning|evening) each·(?:day|night|morning) a·day per·day at·bedtime before·bed "
    "bid tid qid"
)
_FREQUENCIES_HAN = (
    "每天 每日 每晚 每周 每次 每早 一天 一日 一晚 一周 一次 一早 早晚 睡前 饭[前后] 每隔 顿服 \\d小时一次"
)
_NO_DISEASE = (
    "the an? is are your you has have had of this that it its any with from by for and or in to what called "
    "means? confirms? got named as my his her causing caused because some other many no not"
)
_DISEASES = (
    "headaches? syndrome disease disorder cancer infection ulcers? deficiency fracture allergy intolerance "
    "apn(?:o?)ea tumou?r stones? hernia failure dysfunction tear poisoning"
)
_DISEASE_ENDS = (
    "itis osis a?emia oma neuropathy myopathy algia iasis thyroidism (?:hyper|hypo)tension plasia penia rrhoids "
    "sclerosis phrenia phrenic philia phobia"
)
_DISEASE_ENDS_HAN = (
    "综合征 (?<!疾)(?<!毛)(?<!看)(?<!生)病(?![人因房史毒理情例程]) 炎(?!热) "
    "(?<!急)(?<!重)(?<!并发)(?<!适应)(?<!忌)症(?!状) 癌 瘤 溃疡 结石 骨折 梗死 脱垂 疱疹 急疹 麻疹 皮疹 哮喘 "
    "贫血 囊肿 息肉 增生 障碍 衰竭 硬化 癣 痔 疝 疮 虱 囊尾蚴 痛风 癫痫 狼疮 过敏 感染 突出 不全 亢进 减退 "
    "功能减退 积水"
)
_MEDICINE_ENDS = (
    "pril sartan olol statin azole cillin mycin micin floxacin cycline dipine tidine gliptin gliflozin glutide "
    "triptan setron lukast parin xaban gatran zepam zolam azine idone apine oxetine opram traline profen fenac "
    "coxib asone isone olone onide terol tropium ivir ovir cavir mab inib thiazide semide codone morphone "
    "chemotherapy chemo eye·drops prescribed·cream caine dronate formin glitazone pezil thyroxine fibrate "
    "phylline tadine rizine zoline epam barbital giline triptyline faxine metholone dazole nafine gabalin "
    "bapentin phenidate retrovirals? steroids? purinol ofloxacin cetam razole"
)
_MEDICINES_HAN = (
    "哌甲酯 多巴 丙戊酸钠 普利 沙坦 洛尔 他汀 西林 霉素 沙星 环素 地平 拉唑 替丁 列汀 列净 鲁肽 曲普坦 司琼 "
    "鲁司特 肝素 沙班 西泮 唑仑 西汀 普兰 曲林 洛芬 芬酸 昔布 泼尼松 米松 卡松 可的松 尼龙 奈德 特罗 洛韦 替韦 "
    "卡韦 他韦 单抗 替尼 噻嗪 呋塞米 双胍 列酮 哌齐 甲状腺素 优甲乐 贝特 茶碱 他定 利嗪 那敏 嘌醇 康唑 硝唑 "
    "达唑 氮平 哌酮 法辛 加巴喷丁 普瑞巴林 卡马西平 丙戊酸 氯吡格雷 华法林 阿司匹林 胰岛素 激素 避孕药 维生素 "
    "胶囊 颗粒 口服液 乳膏 软膏 凝胶 滴眼液 注射液 栓剂 混悬液 糖浆 冲剂 降[压糖脂]药 "
    "抗[生病结癫抑凝过]\\S{0,3}[素药] 化疗 药水 药(?![店房师学物])"
)


def _any(words: str) -> str:
    """Words apart by spaces as alternatives of a pattern; · is a space."""
    return words.replace(" ", "|").replace("·", " ")


DOSE = re.compile(rf"{_NUMBER}[ -]?(?:(?:[a-z]{{4,20}}|of the|\d+ ?-?mg) ){{0,2}}(?:{_any(_UNITS)})(?![a-z])(?! ?/)")
FREQUENCY = re.compile(rf"(?<![a-z])(?:{_any(_FREQUENCIES)})(?![a-z])|{_any(_FREQUENCIES_HAN)}")
DISEASE = re.compile(
    rf"(?<![a-z])(?:(?:(?!(?:{_any(_NO_DISEASE)})\b)[a-z'-]{{1,30}} ){{0,2}}(?:{_any(_DISEASES)})|"
    r"(?!(?:diagnosis|prognosis|aroma|coma|diploma|sympathy|empathy|osmosis|hypnosis|dosis)\b)"
    rf"[a-z-]{{0,40}}[a-z](?:{_any(_DISEASE_ENDS)}))(?![a-z])|"
    r"(?<!消)(?<!发)(?:(?![是的了得患有叫为你您我他她这那个们说明确诊断成和与或被就会能可要对因把到及由看生疾"
    rf"毛治在引发])[\u4e00-\u9fff]){{1,6}}?(?:{_any(_DISEASE_ENDS_HAN)})"
)
MEDICINE = re.compile(rf"(?<![a-z])[a-z]{{0,40}}(?:{_any(_MEDICINE_ENDS)})s?(?![a-z])|(?:{_any(_MEDICINES_HAN)})")
_PATTERNS = {"dose": DOSE, "frequency": FREQUENCY, "disease": DISEASE, "medicine": MEDICINE}
# A pattern is tried where the text has a key of one of its words: most sentences have none, and keys are found at once.
_WORDS = {
    "dose": _UNITS,
    "frequency": f"{_FREQUENCIES} {_FREQUENCIES_HAN}",
    "disease": f"{_DISEASES} {_DISEASE_ENDS} {_DISEASE_ENDS_HAN}",
    "medicine": f"{_MEDICINE_ENDS} {_MEDICINES_HAN}",
}
_GROUP = re.compile(r"(?:\([^()]*\)|\[[^\]]*\]|\\[dS])(?:[?*+]|\{[^}]*\})?")
_SURE = re.compile(r"[^|?*+]+(?![?*+])")
_NOT_MEDICINE = frozenset(
    f"{DRUG}{id}"
    for id in ("alcohol", "grapefruit", "dairy", "aged_cheese", "caffeine", "vitamin_k_food", "honey", "fava_bean")
)
_PARTS = re.compile(r"[^。！？!?；;,，\n]*[。！？!?；;,，\n]?")
_ASKS = re.compile(
    r"[?？]|吗|是不是|会不会|是否|能否|有没有|什么|怎么|(?:^| )(?:do|does|is|are|am|can|could|should|will|did|"
    r"has|have) "
    r"(?:i|it|he|she|they|this|that|my|we|you)\b|^ ?(?:what|which|how|why|when) "
)


def find_terms(plain: str, rules: MedicationRules | None = None) -> Mentions:
    """Return the mentions of `disease`, `medicine`, `dose` and `frequency` in a text of `normalize`, each in order.

    `rules`: those whose names count; None: of CareLlama's own.
    """
    found = {name: _matches(_PATTERNS[name], plain) for name in _may_match(plain)}
    if (named := (rules or load_medication()).named(plain)) is not None:
        for name in named:
            if name.startswith(CONDITION):
                found.setdefault("disease", []).extend(named.get(name, ()))
            elif name.startswith(DRUG) and name not in _NOT_MEDICINE:
                found.setdefault("medicine", []).extend(named.get(name, ()))
    return {name: sorted(ones, key=lambda one: (one.start, -one.end)) for name, ones in found.items() if ones}


def _may_match(plain: str) -> set[str]:
    """The patterns of which a text has a key."""
    keys, pairs = _keys()
    return {name for index, _, _ in keys.find_matches_as_indexes(plain, overlapping=True) for name in pairs[index]}


@cache
def _keys() -> tuple[AhoCorasick, list[tuple[str, ...]]]:
    """The search for keys, and the patterns that each is one of."""
    names: dict[str, tuple[str, ...]] = {}
    for name, words in _WORDS.items():
        for word in words.split():
            key = _key(word)
            names[key] = (*names.get(key, ()), name)
    return AhoCorasick(list(names)), list(names.values())


def _key(word: str) -> str:
    """The longest part of an alternative of a pattern that no text lacks which it matches."""
    sure = _GROUP.sub("|", _GROUP.sub("|", word)).replace("·", " ")
    parts: list[str] = _SURE.findall(sure)
    return max(parts, key=len)


def _matches(pattern: re.Pattern[str], plain: str) -> list[Mention]:
    return [Mention(one.start(), one.end(), (one.span(),)) for one in pattern.finditer(plain)]


class Stated:
    """What the person stated, and did not only ask about."""

    def __init__(self, said: str) -> None:
        plain = normalize(said)
        self._all = _compact(plain)
        self._stated = "".join(_compact(one) for one in _PARTS.findall(plain) if not _ASKS.search(one))

    def __contains__(self, term: str) -> bool:
        """Return whether the person stated a term, a text of `normalize`; "my gout" states it in a question too."""
        term = _compact(term)
        if any(own + term in self._all for own in ("my", "我的")):
            return True
        return term in self._stated


def _compact(text: str) -> str:
    return text.replace(" ", "").replace("-", "")
