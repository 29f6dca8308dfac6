"""Numbers of persons: identity cards, phones, bank cards, record and insurance numbers, in folded text.

    list(numbers(fold("住院号：ZY-203 345")))   # [("RECORD_NUMBER", 4, 14, 0.9)]

A number is known by its check digit or plan, or by the word before it. Lab values, doses and codes of drugs stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from carellama.privacy.checksums import is_date, is_id_card, is_luhn, is_nhs
from carellama.privacy.normalize import pattern

Found = tuple[str, int, int, float]  # kind, start, end, score

SEP = r"[ .\-·_/]{0,3}"
# Between a marker and its value: "MRN: 1", "MRN is 1", "MRN (no.) #1", "身份证号码是1", "'mrn': '1'".
IS = (
    r"""["']?\s{0,3}(?:\((?!\d)[^()\n]{0,12}\))?\s{0,3}(?:[:=#>|,/]|no\.?\s*[:.#]?|number|num\.?|is|was|are|"""
    r"""ending in|№|号码?|编号|是|为|系|写的|填的|留的|如下|后面是|上是|上写的是|上面是|尾号是"""
    r"""|应该是|我记得是)?\s{0,3}(?:[:=#]|是|为)?"""
    r"""(?:\s{0,2}(?:on (?:file|record)|is|was|confirmed|as|listed|shown|please|use|to|reads?|should be|now|"""
    r"""to be|given|full)(?=[ ,:])[,:]?){0,5}\s{0,2}["'(\[]?\s?"""
)
# The value of a marked number: letters, digits and single marks between, at least three digits.
VALUE = (
    r"(?P<value>(?=(?:[\u4e00-\u9fff]{1,3}字?第\s?)?[A-Z\-/ "
    r".]{0,6}[\d*])(?=(?:[\u4e00-\u9fff]{1,3}字?第\s?)?(?:[A-Z\-/]{0,6}[ .]?)?(?:[ "
    r".\-/_]{0,3}[0-9A-Z*]){4})"
    r"(?:[\u4e00-\u9fff]{1,3}字?第\s?)?[A-Z]{0,6}(?:[ .\-/_]{0,3}[0-9A-Z*]){0,30}(?:\s?号)?)"
)

_RECORD_ZH = (
    r"(?:病历|病案|住院|门诊|急诊|就诊|挂号|诊疗卡?|检查|检验|化验|放射|影像|病理|标本|样本|超声|B超|"
    r"心电图?|内镜|胃镜|"
    r"登记|处方|医嘱|档案|健康档案|条码|申请单?|报告单?|病人|患者|就诊卡|诊疗卡|体检|体检卡|手术|CT|"
    r"MRI?|DR|X[光线]片?|"
    r"PACS|HIS|LIS|随访|受试者|筛选|入组|出院|入院|预约|订单|流水|手环|腕带|病床卡|一卡通|就医卡|健康卡|磁卡)"
    r"\s?(?:号码|编号|ID号?|号|条码|卡号|单号|序号|流水号)|"
    r"(?:就诊|诊疗|就医|健康|门诊|住院|病历|体检)卡(?=[:：是为 ]{0,2}[A-Z]{0,4}\d)|(?:住\s院|病\s[历案]|门\s诊)\s号"
)
_RECORD_EN = (
    r"\b(?:MRN|MR(?=\s?(?:#|no))|med(?:ical)?\.? rec(?:ord)?s?|patient|pt\.?|hosp(?:ital)?\.?|chart|record|"
    r"case|file|accession|"
    r"specimen|sample|encounter|visit|admission|episode|report|requisition|order|registration|unit|lab|study|imaging|"
    r"appointment|prescription|rx|referral|claim|CHI|NRIC|UHID|subject|participant|study|"
    r"wristband|bed card|exam|cytology|histology|path(?:ology)?|biopsy)\b\.?"
    r"(?:\s?(?:#|no\b\.?|nr\b\.?|num(?:ber)?\b|numbers\b|id\b\.?|identifier|code|ref(?:erence)?))?"
)
# (kind, marker, fewest digits, the marker must be followed by a word or mark that says "number")
MARKED: tuple[tuple[str, str, int], ...] = (
    (
        "ID_CARD",
        r"身\s?份\s?证(?:件)?\s?(?:号码|号|编号)?|身份号码?|证件(?:号码|号)|居民证号?|身分证(?:号码|号|字号)?|"
        r"身分證(?:號碼|號)?|"
        r"身份證(?:號碼|號)?|"
        r"\b(?:(?:national |resident )?id(?:entity)?[ -]?card(?: no\b\.?| number)?|national id|citizen id|"
        r"id no\b\.?|id number)",
        6,
    ),
    (
        "PASSPORT",
        r"护照(?:号码?|编号)?|護照號?碼?|(?:港澳|台湾|往来)[^\s:,，]{0,8}?(?:通行证|证)(?:号码?)?|"
        r"通行证(?:号码?)?|"
        r"台胞证(?:号码?)?|回乡证(?:号码?)?|(?:军官|士兵|警官|军人|学生|居留|居住|教师|残疾)证(?:号码|编号|号)?|"
        r"\bpassport(?: no\b\.?| number| #)?|green card(?: no\b\.?| number)|alien (?:registration "
        r")?(?:no\b\.?|number)|alien registration|visa no\b\.?",
        5,
    ),
    (
        "SSN",
        r"\b(?:SSN|social(?= (?:is|was|no|num|#))|social security(?: no\b\.?| number)?|soc\.? sec\.?|"
        r"ss ?#|NINO|national insurance(?: "
        r"no\b\.?| number)?|"
        r"NI (?:no\b\.?|number)|SIN|ITIN|TFN|tax file(?: no\b\.?| number)?|EIN|aadhaar(?: no\b\.?| "
        r"number)?|PAN (?:no|card)|tax id)",
        6,
    ),
    (
        "LICENCE",
        r"驾(?:驶证|证|照)(?:号码|号)?|行驶证号?|\b(?:driver'?s?'?|driving)[ -]licen[cs]e(?: no\b\.?| number)?|\bDL ?"
        r"(?:#|no\b\.?)|"
        r"\bDEA(?: no\b\.?| number| #)|\bNPI(?: no\b\.?| number| #)?|\blicen[cs]e (?:no\b\.?|number|#)|"
        r"执业证号|资格证号",
        4,
    ),
    (
        "INSURANCE_NUMBER",
        r"(?:社保|医保|社会保障|社会保险|医疗保险|城镇医保|职工医保|居民医保|新农合|农合|参保人?员?|保险|保单|"
        r"商保|"
        r"医疗证|公费医疗|公医证?|低保|合作医疗)(?:个人|电脑)?\s?(?:卡号码?|卡|证号|证|单号|号码|编号|号|"
        r"账号|登记号|ID)|医保\s?(?=\d)|"
        r"\b(?:NHS(?: no\b\.?| number| #)?|health ?(?:card|plan)(?: no\b\.?| number| id)?|medicare|"
        r"medicaid|MBI|HICN|insurance|"
        r"policy|member(?:ship)?|subscriber|beneficiary|group|plan|payer|insured|coverage|certificate)"
        r"(?:\s(?:card|policy|member|subscriber|beneficiary|claim))?\b(?:\s?(?:#|no\b\.?|number|num|id\b|code))?",
        4,
    ),
    (
        "BANK_CARD",
        r"(?:银行|信用|储蓄|借记|工资|工行|农行|建行|中行|交行|招行|邮储|工商银行|建设银行|农业银行|"
        r"招商银行|中国银行)[^\d\s]{0,6}?卡"
        r"(?:号码?|帐号|账号)?|(?:银行|对公|收款|汇款|退款|开户)(?:账|帐|賬)(?:号|户)|"
        r"(?<![诊疗康保社医检磁门记员])卡号|"
        r"\b(?:credit|debit|bank) ?(?:card|account)(?: no\b\.?| number)?|\bcard (?:no\b\.?|number)|"
        r"\bIBAN|\bsort code|"
        r"\brouting (?:no\b\.?|number)|\baccount (?:no\b\.?|number|#)|\bacct\.?(?: no\b\.?| number| ?#)?|"
        r"\ba/c(?: no\b\.?)?",
        6,
    ),
    (
        "VEHICLE",
        r"车牌(?:号码?)?|车架号|发动机号|\b(?:(?:licen[cs]e|number|registration) )?(?:plates?|tags?)(?: no\b\.?| "
        r"number)?|\bVIN|\breg(?:istration)? mark",
        3,
    ),
    ("ACCOUNT", r"(?<![A-Z])(?:QQ|扣扣|企鹅号)\s?(?:号码?|群)?|(?<![A-Z])Q号", 5),
    ("RECORD_NUMBER", _RECORD_ZH, 3),
    ("RECORD_NUMBER", _RECORD_EN, 4),
)
_NEEDS_WORD = pattern(  # markers that are everyday words: a word or mark for "number" must stand behind
    r"^(?:patient|pt\.?|hosp(?:ital)?\.?|chart|record|case|file|specimen|sample|encounter|visit|admission|"
    r"episode|report|order|"
    r"registration|unit|lab|study|imaging|appointment|prescription|rx|referral|claim|subject|"
    r"participant|insurance|policy|"
    r"member|membership|subscriber|group|plan|payer|insured|coverage|certificate|beneficiary|medical "
    r"records?|medicare|"
    r"medicaid|accession|requisition|chi|ein|sin|bed card|med(?:ical)?\.? rec(?:ord)?s?)$",
    re.IGNORECASE,
)
_MARKED = [
    (kind, pattern(f"(?P<marker>{marker})(?P<is>{IS}){VALUE}", re.IGNORECASE), fewest)
    for kind, marker, fewest in MARKED
]
UNIT = pattern(
    r"\s?(?:mg|ml|mmol|umol|μmol|μg|ug|ng|g/|iu|u/|mm|cm|kg|kcal|bpm|%|℃|°|×|x10|元|块|次|步|岁|天|日|"
    r"月|周|年|小时|分钟|毫升|毫克|克|"
    r"人|例|例数|个|米|公斤|斤|片|粒|支|盒|years?|months?|days?|weeks?|hours?|patients|cells|copies|"
    r"dollars|steps|times|pounds)",
    re.IGNORECASE,
)

_ID = pattern(rf"(?<![0-9A-Za-z])[1-9](?:{SEP}\d){{14}}(?:(?:{SEP}\d){{2}}{SEP}[0-9Xx])?(?![0-9A-Za-z])")
_MOBILE = pattern(
    r"(?<![0-9A-Za-z.+])(?:[+(]{0,2}(?:00)?86\)?[ .\-·]{0,3})?(?P<local>1[ .\-·]{0,3}[3-9](?:(?:[ "
    r".\-·]{0,3}|-\n)\d){9})(?!\d|[.]\d|[A-Za-z])"
)
_LANDLINE = pattern(
    r"(?<![0-9A-Za-z.+])(?:[+(]{0,2}(?:00)?86\)?[ .\-]{0,3})?[(]?0?(?:10|2\d|[3-9]\d{2})[)]?(?P<gap>[ "
    r".\-_]{0,3})[2-8]\d{2,3}[ .\-]{0,3}\d{4}"
    r"(?:\s?[,(]?(?:转|轉|分机号?|ext\.?|x|-|#)\s?:?\d{1,6}\)?)?(?![0-9A-Za-z]|\.\d)"
)
_EXTENSION = r"(?:\s?[,(;]?\s?(?:转|轉|分机号?|extension|ext\.?|x|#)\s?:?\.?\s?\d{1,6}\)?)?"
_NANP = pattern(
    r"(?<![0-9A-Za-z.+/\-])(?:\+?1[ .\-]{0,3})?(?:\([2-9]\d{2}\)[ .\-]{0,3}|[2-9]\d{2}[ "
    r".\-/]{1,3})\d{3}[ .\-]{1,3}\d{4}" + _EXTENSION + r"(?![0-9A-Za-z]|[.\-]\d)",
    re.IGNORECASE,
)
_UK = pattern(
    r"(?<![0-9A-Za-z.+/\-])(?:(?:\+|00)44[ .\-]{0,2}(?:\(0\))?[ .\-]{0,2}|\(?0)(?:7\d{3}|2\d|1\d{2,3}|"
    r"1\d{3,4}|3\d{2})\)?(?:[ .\-]{0,2}\d){6,8}" + _EXTENSION + r"(?![0-9A-Za-z])",
    re.IGNORECASE,
)
_PLUS = pattern(r"(?<![0-9A-Za-z+])\+[1-9]\d{0,2}(?:[ .\-]{0,2}\(?\d\)?){6,13}" + _EXTENSION + r"(?!\d)", re.I)
_PHONE_MARKED = pattern(
    r"(?P<marker>(?:电话|手机|联系方式|座机|固话|传真|电\s话|手\s机|電話|手機|号码|小灵通|总机|分机|"
    r"前台|护士站|值班室|办公室|打给|拨打?|"
    r"致电|短信|来电|呼机|寻呼|移动电话|机主|热线)"
    r"(?:号码?|號碼?|机号|联系)?|\b(?:(?:tele)?phone|tel|ph|mob(?:ile)?|cell(?:ular)?(?:phone)?|fax|"
    r"contact|call(?:ed|ing)?|text(?:ed)?|"
    r"reach(?:ed)?(?: (?:me|him|her|us))?(?: (?:at|on|by))?|ring|whatsapp|pager?|beeper|fon|landline|"
    r"direct line|line|(?:home|work)(?! ?(?:ph|tel|mob|cell))|"
    r"number|no)\b\.?(?: (?:me|us|him|her|back))?(?: (?:at|on))?)"
    r"[^\d\n。;+(]{0,14}?(?P<value>[+(]{0,2}\d(?:(?:[ .\-()/·*]{0,3}|, ?(?=\d{3}))\d){6,14}"
    + _EXTENSION
    + r")(?![0-9A-Za-z])",
    re.IGNORECASE,
)
_PAGER = pattern(
    r"\b(?:pager|beeper|bleep|extension|ext)\b\.?(?: (?:no\.?|number|is))?[:#]? ?#?(?P<value>\d{4,7})(?!\d)",
    re.IGNORECASE,
)
_SINGLE = pattern(r"(?<![0-9A-Za-z.,])(?:[+0]|00)?[0-9](?P<gap>[ .\-])(?:\d(?P=gap)){7,12}\d(?![0-9A-Za-z]|[ .\-]\d)")
_WORDS = "zero|oh|one|two|three|four|five|six|seven|eight|nine|double|triple"
_SPOKEN = pattern(rf"\b(?:{_WORDS})(?:[\s,\-.]{{1,3}}(?:{_WORDS})){{5,}}\b", re.IGNORECASE)
_CARD = pattern(r"(?<![0-9A-Za-z.])[3-6]\d{3}(?:[ \-]{0,2}\d){9,15}(?![0-9A-Za-z]|\.\d)")
_SSN = pattern(
    r"(?<![0-9A-Za-z\-])(?!000|666)[0-8]\d{2}(?P<gap>[ \-.]{1,3})(?!00)\d{2}(?P=gap)(?!0000)\d{4}(?![0-9A-Za-z\-])"
)
_MEDICARE_AU = pattern(r"(?<![0-9])\d{4} \d{5} \d(?![0-9])")
_SSN_WORD = pattern(r"social|ssn|\bss\b|tax", re.IGNORECASE)
_NHS = pattern(r"(?<![0-9A-Za-z.\-+(])\d{3}[ \-]\d{3}[ \-]\d{4}(?![0-9A-Za-z]|[.\-]\d)")
_PLATE = pattern(
    r"[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼][A-Z][ "
    r"·\-]?(?=[A-Z0-9]*\d)[A-Z0-9]{5,6}(?![0-9A-Za-z])"
)
_PLATE_UK = pattern(r"(?<![A-Za-z0-9])[A-HJ-PR-Y][A-HJ-PR-Y][0-9]{2} ?[A-HJ-PR-Z]{3}(?![A-Za-z0-9])")
_HMT = pattern(
    r"(?<![0-9A-Za-z])[A-Z][12]\d{8}(?![0-9A-Za-z])|(?<![0-9A-Za-z])[A-Z]{1,2}\d{6}\([0-9A]\)(?![0-9A-Za-z])"
)  # identity card of Hong Kong

# Public helplines and toll-free numbers: they are no one's, and advice without them is worse.
_TOLL_FREE = pattern(
    r"^(?:0086|86)?(?:400|800)\d{7}$|^1?8(?:00|88|77|66|55|44|33)\d{7}$|^(?:0044|44|0)80[08]\d{6,7}$|^1[38]00\d{6}$"
)
HELPLINES = frozenset(
    # suicide prevention and mental health: Beijing, Shanghai, Taiwan, Hong Kong; Samaritans, Lifeline, Lifeline UK
    "01082951332 8008101117 4001619995 02112320 1995 1925 23892222 116123 131114 08457909090 "
    "4001680800 02161 02134289888"
    " 05187102 18002738255 18006624357 18002221222 18007997233".split()
)


def numbers(plain: str) -> Iterator[Found]:
    """Yield what is found in a folded text that has digits: (kind, start, end, score)."""
    for match in _ID.finditer(plain):
        if is_id_card(re.sub(r"[^0-9Xx]", "", match[0])) and _usual_id(match[0]):
            yield "ID_CARD", *match.span(), 1.0
    for match in _HMT.finditer(plain):
        yield "ID_CARD", *match.span(), 0.8
    yield from _marked(plain)
    yield from _phones(plain)
    for match in _CARD.finditer(plain):
        digits = re.sub(r"\D", "", match[0])
        groups = [len(group) for group in re.findall(r"\d+", match[0])]
        if (
            (is_luhn(digits) or (digits.startswith("62") and len(digits) >= 16))
            and (len(groups) == 1 or groups[0] == 4)
            and len(set(digits)) > 1
        ):
            yield "BANK_CARD", *match.span(), 0.8
    for match in _SSN.finditer(plain):
        if match["gap"].strip() or (
            match["gap"] == " " and _SSN_WORD.search(plain, max(0, match.start() - 40), match.start())
        ):
            yield "SSN", *match.span(), 0.75
    for match in _NHS.finditer(plain):
        if is_nhs(re.sub(r"\D", "", match[0])):
            yield "INSURANCE_NUMBER", *match.span(), 0.55
    for match in _MEDICARE_AU.finditer(plain):
        yield "INSURANCE_NUMBER", *match.span(), 0.6
    for form in (_PLATE, _PLATE_UK):
        for match in form.finditer(plain):
            if not _VALUE_BEHIND.match(plain, match.end()):  # EF89 GLU:5.6 are two lab values
                yield "VEHICLE", *match.span(), 0.7


def _usual_id(text: str) -> bool:
    """Spaces in a 15 digit number make it a table of values, unless they part region, birth and number."""
    digits = re.sub(r"[^0-9Xx]", "", text)
    return len(digits) == 18 or len(digits) == len(text) or bool(re.match(r"\d{6}\D\d{6}\D\d{3}$", text))


def _marked(plain: str) -> Iterator[Found]:
    for order, (kind, form, fewest) in enumerate(_MARKED):
        for match in form.finditer(plain):
            start, end = match.span("value")
            value = match["value"]
            # letters after a gap are the next word, not the number: "A12345 tel"
            while (
                tail := re.search(r"[ .]+(?:[A-Za-z]{2,}|[a-z])$|[\-/_]+[a-z]+$|[ .\-/_]+$", value)
            ) and tail.start():
                value = value[: tail.start()]
            value = _one_number(value)
            digits = sum(character.isdigit() or character == "*" for character in value)
            if digits < fewest or (digits < 8 and UNIT.match(plain, start + len(value))):
                continue
            if _NEEDS_WORD.match(match["marker"].strip()) and not (
                re.search(r"[#:=]|no|num|号", match["is"], re.IGNORECASE) or _coded(value)
            ):
                continue
            if kind == "RECORD_NUMBER" and DAY.fullmatch(value):
                continue  # the day of the visit stands behind its name
            if kind == "VEHICLE" and not re.search("[A-Z]", value):
                continue
            end = start + len(value)
            yield kind, start, end, 0.9 - order / 100  # of two markers the first in the table is the closer word


DAY = pattern(
    r"(?:19|20)\d\d[\-./ ](?:0?\d|1[0-2])[\-./ ][0-3]?\d|[0-3]?\d[\-./ ][0-3]?\d[\-./ ](?:19|20)?\d\d|"
    r"(?:19|20)\d\d-(?:19|20)?\d\d"
)


def _coded(value: str) -> bool:
    """Whether a value looks like a number by itself, as in "subject 0107-003": no space, and five digits or more."""
    return " " not in value and bool(re.search(r"\d-\d|^[A-Z]+-?\d|^0\d", value)) and len(re.findall(r"\d", value)) > 4


def _one_number(value: str) -> str:
    """Cut a value before a word, or before a second number of it: "ZY2031 2024-01-02"."""
    cut = re.search(
        r"(?<=\d)[ ]+(?=[A-Za-z]{2,}(?![A-Za-z0-9])|[A-Za-z]{1,2} (?!\d{3})|\d{4}[\-./]\d|\d+[./:]\d)", value
    )
    return value[: cut.start()] if cut else value


def _phones(plain: str) -> Iterator[Found]:
    for match in _MOBILE.finditer(plain):
        start = match.start("local")
        bare = match.start() == start
        if _grouped(match["local"]) or not bare or _called(plain, match.start()):
            yield "PHONE", *match.span(), 0.85
    for match in _PHONE_MARKED.finditer(plain):
        digits = re.sub(r"\D", "", match["value"])
        word = match["marker"].lower().strip()
        if (
            plain[match.start("value") - 1 : match.start("value")] == "/"
            or _PUBLIC.search(plain, max(0, match.start() - 20), match.end("marker"))
            or _HOTLINE.match(plain, match.end())
        ):
            continue
        if match["marker"].strip() == "pH" or _DECIMALS.search(match["value"]):
            continue
        short = word in ("no", "number", "home", "work", "号码", "contact") and len(digits) < 9
        if not is_public(digits) and not short and not UNIT.match(plain, match.end()) and not _dated(match["value"]):
            start = match.start("value")
            whole = _MOBILE.match(plain, start) or _NANP.match(plain, start)  # 13812345678 120/80: a value follows it
            yield "PHONE", start, min(whole.end(), match.end("value")) if whole else match.end("value"), 0.7
    for form, score in ((_LANDLINE, 0.8), (_NANP, 0.6), (_UK, 0.7), (_PLUS, 0.8)):
        for match in form.finditer(plain):
            digits = re.sub(r"\D", "", match[0])
            if is_helpline(plain, match.start(), match.end()) or UNIT.match(plain, match.end()) or _dated(match[0]):
                continue
            if form is _LANDLINE and not (match[0].startswith(("0", "(", "+")) or _called(plain, match.start())):
                continue
            yield "PHONE", *match.span(), score
    for match in _PAGER.finditer(plain):
        yield "PHONE", *match.span("value"), 0.6
    for match in _SINGLE.finditer(plain):
        if re.match(r"[01+]", match[0]) and re.sub(r"\D", "", match[0]) not in "01234567890":  # 1 2 3 4 5 6 7 8 9
            yield "PHONE", *match.span(), 0.6
    for match in _SPOKEN.finditer(plain):
        yield "PHONE", *match.span(), 0.7


_HOTLINES = pattern(
    r"(?:hot|help|crisis) ?-?lines?\W{1,4}(?:\+?\d[\d ()\-]{5,17}\W{1,4})+$", re.IGNORECASE
)  # several numbers
_HOTLINE = pattern(  # 0600 123 456 (the department's hotline)
    r"\W{0,3}(?:\(?(?:this is |it is )?(?:the|a|our) )?(?:[\w-]+ ){0,3}(?:hot|help|info|crisis) ?-?line|\W{0,2}热线",
    re.IGNORECASE,
)
_VALUE_BEHIND = pattern(r"\s?(?:[:=]|为)?\s?\d")
_DECIMALS = pattern(r"(?<!\d)\d{1,3}\.\d{1,2}(?!\d)[^\d.]+\d{1,3}\.\d")  # pH 7.35, 7.41
_PUBLIC = pattern(
    r"hot[ -]?line|help[ -]?line|热线\W{0,3}[是为]?\W{0,2}(?=\d)|(?:热线|客服)(?:电话|"
    r"号码)?\W{0,3}[是为]?\W{0,2}$|hotlines|toll.free",
    re.IGNORECASE,
)


def is_public(digits: str) -> bool:
    """Whether a number is a helpline or free of charge, and so belongs to no patient."""
    return bool(_TOLL_FREE.match(digits)) or digits in HELPLINES


def is_helpline(plain: str, start: int, end: int) -> bool:
    """Whether the number from `start` to `end` is a helpline by itself or by the word before it."""
    if re.search("fax|传真", plain[max(0, start - 30) : start], re.IGNORECASE):
        return False
    return (
        is_public(re.sub(r"\D", "", plain[start:end]))
        or bool(_PUBLIC.search(plain, max(0, start - 16), start))
        or bool(_HOTLINES.search(plain, max(0, start - 100), start))
        or bool(_HOTLINE.match(plain, end))
    )


def _dated(text: str) -> bool:
    """Whether it begins with a day, as in "2020-03-27 1300"."""
    match = re.match(r"\D{0,2}((?:19|20)\d{2})[\-./ ]?(\d{1,2})[\-./ ]?(\d{1,2})(?!\d{4})", text)
    return bool(match) and is_date(match[1] + match[2].zfill(2) + match[3].zfill(2))  # type: ignore[index]


_CALLED = pattern(
    r"电话|手机|联系|tel|phone|mobile|cell|call|传真|拨|打|微信|短信|號碼|号码|whatsapp|fax", re.IGNORECASE
)
_GROUPS = ((11,), (3, 4, 4), (3, 8), (3, 3, 5), (4, 4, 3), (7, 4), (2, 3, 3, 3), (4, 3, 4), (5, 6), (3, 4, 2, 2))


def _called(plain: str, at: int) -> bool:
    """Whether a word for phone stands shortly before."""
    return bool(_CALLED.search(plain, max(0, at - 12), at))


def _grouped(local: str) -> bool:
    """Whether eleven digits are grouped as people group a phone number, or stand one by one; not a row of values."""
    ends, count = set(), 0
    for index, character in enumerate(local):
        if character.isdigit():
            count += 1
            if index + 1 == len(local) or not local[index + 1].isdigit():
                ends.add(count)
    for blocks in _GROUPS:
        at, fits = 0, True
        for size in blocks:
            inside = ends & set(range(at + 1, at + size))
            at += size
            fits &= at in ends and (not inside or len(inside) == size - 1)
        if fits:
            return True
    return False
