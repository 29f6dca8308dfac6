"""Postal addresses, Chinese and English, in folded text.

    list(addresses(fold("家住北京市朝阳区建国路88号3栋502室")))   # [("ADDRESS", 2, 21, 0.9)]

An address without a marker needs a road, village or building with a number; the name of a town alone stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from carellama.privacy.normalize import pattern
from carellama.text import HAN

Found = tuple[str, int, int, float]

_N = r"(?:\d{1,5}|[一二三四五六七八九十百零〇两]{1,5}|[A-Za-z]\d{0,3}|[甲乙丙丁东西南北]\d{0,4})"
_PROVINCES = (
    "北京|天津|上海|重庆|河北|山西|辽宁|吉林|黑龙江|江苏|浙江|安徽|福建|江西|山东|河南|湖北|湖南|广东|海南|"
    "四川|贵州|云南|陕西|甘肃|青海|台湾|内蒙古|广西|西藏|宁夏|新疆|香港|澳门"
)
_CITIES = (
    "石家庄|唐山|邯郸|保定|太原|大同|沈阳|大连|鞍山|长春|吉林|哈尔滨|齐齐哈尔|大庆|南京|无锡|徐州|常州|"
    "苏州|南通|扬州|镇江|杭州|宁波|温州|嘉兴|绍兴|金华|台州|合肥|芜湖|蚌埠|"
    "福州|厦门|泉州|漳州|南昌|赣州|九江|济南|青岛|淄博|烟台|潍坊|临沂|济宁|郑州|洛阳|开封|新乡|南阳|"
    "武汉|黄石|宜昌|襄阳|荆州|长沙|株洲|湘潭|衡阳|岳阳|广州|深圳|珠海|汕头|佛山|"
    "东莞|中山|惠州|江门|湛江|梅州|南宁|柳州|桂林|海口|三亚|成都|绵阳|德阳|宜宾|贵阳|遵义|昆明|大理|"
    "拉萨|西安|咸阳|宝鸡|兰州|西宁|银川|乌鲁木齐|呼和浩特|包头"
)
_SPACE = r"[ ,]{0,2}"
_ADMIN = (
    rf"(?:[{HAN}]{{1,10}}?(?:特别行政区|自治[区州县]|地区|开发区|新区|高新区|街道|"
    rf"[省市区县旗镇乡盟州])(?![长级民政委别域间场人医第]){_SPACE})"
)
_ROAD = (
    rf"(?:[{HAN}\d]{{1,10}}?(?:大道|大街|胡同|马路|公路|国道|"
    rf"[路街巷弄道里])(?:[东西南北中]?[段侧口]?){_SPACE}|[{HAN}]{{1,8}}?(?:村|屯|庄|寨|村委会|居委会|社区|小区|新村|"
    rf"花园|家园|公寓|大厦|广场|苑|府|庭|园|城|坊|里|湾|居|营|楼|宿舍|家属院|大院|校区){_SPACE})"
)
_UNIT = (
    rf"(?:[第附]?{_N}\s?(?:-\s?{_N}\s?)*(?:号楼|号院|号|栋|幢|座|楼|单元|门栋|门|室|层|组|户|弄|队|房|社|院|"
    rf"支弄|期|区|村民组|#)(?:附{_N}号)?(?:之{_N})?{_SPACE})"
)
_TAIL = r"(?:\d{1,4}(?:-\d{1,4}){1,3}|\d{3,4}(?![\d.岁年月日%元块度]))"
_STARTS = rf"(?:中国)?(?:(?:{_PROVINCES})(?:省|市|(?:壮族|回族|维吾尔)?自治区|特别行政区)?|(?:{_CITIES})市?){_SPACE}"
_BODY = rf"(?:{_ADMIN}|{_ROAD}|{_UNIT})"
_FREE = pattern(  # from a known province or town on, or a district, to a number of a house
    rf"(?:{_STARTS}{_BODY}{{0,6}}?|{_ADMIN}{{1,4}}){_ROAD}{{0,3}}{_UNIT}(?:{_UNIT}|{_ROAD}(?={_UNIT}|"
    rf"\d)){{0,6}}{_TAIL}?"
    rf"|{_STARTS}{_BODY}{{0,5}}?{_ROAD}{{1,3}}{_TAIL}"
)
_VILLAGE = pattern(  # 新疆伊犁州霍城县清水河镇二宫村
    rf"(?:{_STARTS}{_ADMIN}{{1,4}}|{_ADMIN}{{2,4}})[{HAN}]{{1,6}}?(?:村|社区|街道|屯|庄)(?![卫医民])(?:{_UNIT})?"
)
_ROAD_ONLY = pattern(
    rf"[{HAN}]{{2,6}}?(?<![通思尿线电气管旁胆回出网半一走马同上了])(?:路|街|大道|巷|胡同|弄|里|村|"
    rf"小区|花园|苑|公寓|大厦|新村|家园){_SPACE}(?:[东西南北中]段)?{_N}\s?(?:号|弄|栋|幢|座|号楼|单元|"
    rf"组){_SPACE}(?:{_UNIT}){{0,5}}{_TAIL}?"
)
_HOUSE_ONLY = pattern(
    rf"[{HAN}]{{2,8}}(?:[一二三四五六七八九十\d]期|[东西南北]区|花园|家园|小区|公寓|苑){_SPACE}\d{{1,3}}(?:栋|幢|座|号楼|"
    rf"-)\d{{1,4}}(?:-\d{{1,4}})?室?|(?:[{HAN}]{{2,8}}(?:小区|花园|苑|公寓|家园|大厦|新村|城|府|"
    rf"园)){_SPACE}(?:{_UNIT}){{1,5}}{_TAIL}?"
)
_MARKER_ZH = (
    r"(?:(?:家庭|现|居住|户籍|户口|通讯|通信|联系|邮寄|收货|收件|寄件|寄送|送货|单位|工作|常住|详细|"
    r"本人|现居|身份证|快递|出生|公司|学校|租房|暂住)?\s?"
    r"(?:住\s?址|地\s?址|所在地|居住地|户籍地|住所|籍\s?贯|出生地|祖籍|收件地)(?:及邮编)?|住址|现居地|"
    r"户口(?:所在地|在)|户籍(?:所在地|在|为)?|工作单位|address)"
)
_MARKED_ZH = pattern(
    rf"{_MARKER_ZH}[\"']?\s{{0,3}}(?P<colon>[:=>]|是|为|在)?\s{{0,3}}[\"']?(?P<value>[^\n。;；:]{{2,80}})",
    re.IGNORECASE,
)
_LIVES = pattern(
    r"(?:家住在?|现?住在|现?居住[在于]|现住|住于|我住在?|租住在?|暂住在?|寄[到往给]|快递到|送到|搬到|居于|"
    r"现居|老家在?|家在|户籍是)\s?(?P<value>[^\n。;；:,]{3,60})"
)
_COUNTY = pattern(
    rf"{_STARTS}{_SPACE}(?:[{HAN}]{{1,4}}?市)?[{HAN}]{{1,4}}?(?:(?<![市城山农郊地病小社景校园厂])区|县|旗)(?![域长医人])"
)
_HOUSE_NUMBER = pattern(rf"{_N}\s?[号栋幢楼组室]|村")
_ADDRESS_WORD = pattern(
    rf"[省市区县旗镇乡村路街巷弄号楼栋幢座室组队屯庄寨]|大道|胡同|花园|小区|公寓|单元|大厦|自治|社区|"
    rf"苑|宿舍|之[一二三四五\d]|{_PROVINCES}|{_CITIES}|\d-\d|\d{{3}}"
)
_NEXT = pattern(
    r"[ ,，、()]{0,3}(?:电话|手机|联系|邮编|邮政|身份证|姓名|性别|年龄|职业|民族|婚姻|入院|住院|就诊|"
    r"主诉|因|患者|病人|医保|工作单位|QQ|微信|邮箱|收件人|收货人|\d{11}|1[3-9]\d|tel|phone|email|"
    r"e-mail|"
    r"出生|生于|现病|既往|病史|籍贯|文化|记录|病历|今年|有|距离|附近|最近|想|请问|离|[坐乘][高火汽飞动大客]|坐车|乘车|开车|回来|过来|来[到的]|返回|当天|打车)",
    re.IGNORECASE,
)
_POSTCODE_ZH = pattern(
    r"(?:邮\s?编|邮政编码|郵編|postcode|postal code|zip(?: code)?)[\"']?\s{0,2}(?:[:=]|是|为|"
    r"is)?\s{0,2}[\"']?(?P<value>\d(?: ?\d){5}|\d{5}(?:-\d{4})?)(?!\d)",
    re.IGNORECASE,
)
_PLACE = pattern("[省市区县旗镇乡路街巷弄里村道]")
_LEAD = pattern(
    r"^(?:.*?(?:住在|家住|位于|住址|地址|居住在|搬到|来自|送到|寄到|寄往|快递到|现住|户籍|住|在|到|是|"
    r"我|家|从|于|址|至|往|经|请|去|了|和|与|及|或|据|由|患者|病人))(?=.{2})"
)

_SUFFIX = (
    r"Street|St|Str|Road|Rd|Avenue|Ave|Av|Lane|Ln|Drive|Dr|Boulevard|Blvd|Court|Ct|Place|Pl|Way|"
    r"Terrace|Ter|Close|Crescent|Cres|Square|Sq|Highway|Hwy|"
    r"Parkway|Pkwy|Circle|Cir|Trail|Row|Grove|Gardens|Gdns|Mews|Walk|Hill|Loop|Pike|Broadway|Alley|"
    r"Path|Park|View|Rise|Green|Quay|Wharf|Plaza|Heights|Estate|Drv|Parade|Vale|Esplanade|Turnpike|"
    r"Expressway|Wynd|Brae|Crossing|Trace|Ridge|Cove|Landing|Causeway|Hollow|Croft|Meadows|Fields|"
    r"Mount|Vista|Passage|Embankment|"
    r"Expressway"
)
_STATES = (
    r"A[LKZR]|C[AOT]|D[CE]|FL|GA|HI|I[ADLN]|K[SY]|LA|M[ADEINOST]|N[CDEHJMVY]|O[HKR]|PA|RI|S[CD]|T[NX]|"
    r"UT|V[AT]|W[AIVY]|"
    r"Alabama|Alaska|Arizona|California|Colorado|Connecticut|Florida|Georgia|Illinois|Indiana|"
    r"Massachusetts|Michigan|Minnesota|Missouri|New York|New Jersey|North Carolina|Ohio|Oregon|"
    r"Pennsylvania|Texas|Virginia|Washington|Wisconsin|"
    r"NSW|VIC|QLD|ON|BC|QC|AB"
)
_UKPOST = r"(?:GIR ?0AA|[A-Z]{1,2}\d[A-Z\d]? {0,2}\d[ABD-HJLNP-UW-Z]{2})(?![A-Za-z0-9])"
_ZIP = r"\d{5}(?: ?- ?\d{4})?(?!\d)"
_CAPOST = r"[ABCEGHJ-NPRSTVXY]\d[A-Z][ \-]?\d[A-Z]\d(?![A-Za-z0-9])"
_TOWN = r"(?:[A-Z][a-z]{0,2}\. ?)?[A-Z][A-Za-z'’\-]+"  # a dot ends a sentence, but not in St. Louis
_CITY = rf"{_TOWN}(?: (?:{_TOWN}|upon|on|of|the|le|de|under)){{0,3}}"
# behind a street in small letters: a town with a capital letter, or up to two words before a postcode
_TOWNS = rf"(?:, ?(?-i:{_CITY})(?![A-Za-z])){{0,3}}"
_TOWNS_LOWER = r"(?:, ?[a-z'’\-]+(?: [a-z'’\-]+){0,2}){1,3}"
_APT = (
    r"(?:(?:Apartment|Apt|Unit|Suite|Ste|Flat|Floor|Fl|Room|Rm|Bldg|Building|Lot|No)(?![a-z])\.? "
    r"?#?\s?\d{0,4}[A-Za-z]?\d{0,3}|# ?\d{1,5}[A-Za-z]?|\d{1,2}(?:st|nd|rd|th) (?:Floor|Fl))"
)
_REST = (
    rf"(?:[,. \n]{{1,3}}{_APT})?(?:(?:,\s{{0,2}}|"
    rf"\s)(?!(?:{_STATES})\b)(?:{_CITY}))?(?:,\s?{_CITY}){{0,2}}(?:[,. "
    rf"]{{1,3}}(?:{_STATES})(?![A-Za-z])(?:[,. ]{{1,3}}(?:{_ZIP}|{_CAPOST}|\d{{4}}(?!\d)))?|[,. "
    rf"]{{1,3}}{_UKPOST}|[,. ]{{1,3}}(?:{_ZIP}|\d{{4}}(?!\d))|(?<=[a-z]) \d{{1,2}}(?=$|[.,;\n]))?"
    rf"(?:, ?(?:USA?|United States|UK|United "
    rf"Kingdom|England|Canada|"
    rf"Australia|Ireland))?"
)
_STREET = pattern(
    rf"(?<![A-Za-z0-9.\-/])(?:{_APT},? (?:(?:The )?[A-Z][a-z]+(?: [A-Z][a-z]+)?,? "
    rf")?)?(?:(?:[A-Z][A-Za-z'.\-]+ ){{1,2}}(?:House|Court|Building|"
    rf"Lodge|Towers?|Mansions|Hall|Cottage|Apartments|Villas?|Manor|Farm|Center|Centre),? "
    rf")?(?:\d{{1,5}}[A-Za-z]?(?: ?[-/] ?\d{{1,5}})?),? "
    rf"{{1,2}}(?:(?:[NSEW]|NE|NW|SE|SW|North|South|East|West)\.? )?(?:(?:[A-Z][\w'’.\-]*|"
    rf"\d{{1,3}}(?:st|nd|rd|th)|of|the|la|de) ){{1,4}}?(?:{_SUFFIX})(?![A-Za-z])(?: (?:NE|NW|SE|SW|"
    rf"North|South|East|West|[NSEW])(?![A-Za-z]))?\.?{_REST}"
)
_STREET_LOWER = pattern(
    rf"(?:address|lives? (?:at|on|in)|living (?:at|on)|resid(?:es?|ing) (?:at|on|in)|residence|"
    rf"stay(?:s|ing)? at|located at|mail(?:ed)? (?:it |this |them )?to|send (?:it |this |them )?to|"
    rf"deliver(?:ed)? to|ship(?:ped)? to|home is(?: at)?|moved to|visit at|house (?:at|is)|live at|"
    rf"picked up (?:at|from)|lived at)(?:\s?\([^)\n]{{0,12}}\))?[\"']?(?:\s?[:=]| -| is| "
    rf"was)?\s{{0,2}}[\"']?"
    rf"(?P<value>(?:{_APT},? )?(?:[a-z'.\-]+ (?:house|court|building|lodge|towers?|mansions|hall|"
    rf"cottage|apartments),? )?\d{{1,5}}[A-Za-z]?,? (?:[A-Za-z0-9'’.\-]+ "
    rf"){{1,5}}?(?:{_SUFFIX})\b(?: (?:{_SUFFIX})\b)?\.?(?:,? {_APT})?(?:{_TOWNS_LOWER}(?:,? "
    rf"(?:{_STATES})\b)?,? (?:{_ZIP}|{_UKPOST}|{_CAPOST})|{_TOWNS}(?:,? "
    rf"(?-i:{_STATES})\b)?(?:,? (?:{_ZIP}|{_UKPOST}|{_CAPOST}))?))",
    re.IGNORECASE,
)
_NAMED_HOUSE = pattern(
    rf"(?i:address|lives? at|living at|resid(?:es|ing) at|resident of|home)[\"']?(?:\s?[:=]| "
    rf"is)?\s{{0,2}}[\"']?(?P<value>(?:[A-Z][A-Za-z'’.\-]+|\d+[A-Za-z]?)(?:,? (?:[A-Z][A-Za-z'’.\-]+|"
    rf"\d+[A-Za-z]?|of|the|on|upon)){{0,5}}(?:, ?(?:{_TOWN}|\d+)(?: "
    rf"{_TOWN}){{0,3}}){{1,4}}(?:,? {_UKPOST}|,? {_ZIP})?)"
)
_BOX = pattern(
    rf"\bP\.? ?O\.? ?Box (?:No\.? ?)?#?\d{{1,7}}(?:,\s?{_CITY}(?:,? (?:{_STATES})(?![A-Za-z]))?(?:,? "
    rf"(?:{_ZIP}|{_UKPOST}|\d{{4}}(?!\d)))?)?",
    re.IGNORECASE,
)
_CITY_ZIP = pattern(rf"(?<![A-Za-z])(?:(?:{_CITY}),? )?(?:{_STATES})[,.]? {{1,2}}{_ZIP}")
_UK_ALONE = pattern(
    r"(?<![A-Za-z0-9])(?:[AC-FHKNPRTV-Y]\d[\dW] [0-9AC-FHKNPRTV-Y]{4}(?![A-Za-z0-9])|(?:(?:London|"
    r"Manchester|Leeds|Bristol|Birmingham|Oxford|Cambridge|Edinburgh|"
    r"Glasgow|Cardiff|Belfast|Liverpool|Sheffield),? )?(?:[A-Z]{1,2}\d[A-Z\d]? "
    r"\d[ABD-HJLNP-UW-Z]{2}))(?![A-Za-z0-9])"
)
_ABROAD = pattern(  # 9 Rue de la Paix, 75002 Paris; Hauptstrasse 5, 10115 Berlin
    r"(?<![A-Za-z0-9])\d{1,4}(?: ?bis)?,? (?:[Rr]ue|[Aa]venue|[Bb]oulevard|[Pp]lace|[Qq]uai|"
    r"[Aa]ll[ée]e|[Cc]hemin)(?: (?:de|du|des|la|le|l'|d'|[A-ZÀ-Þ][\w'\-]+)){1,6}"
    r"(?:,? \d{4,5} [A-ZÀ-Þ][\w\-]+)?|"
    r"(?<![A-Za-z])(?:Calle|Via|Viale|Piazza|Plaza|Avenida|Av\.|Rua|Carrer|Paseo|Corso|Carretera|"
    r"Ulica|ul\.) (?:(?:de|del|della|da|do|di|la|las|los|el|[A-ZÀ-Þ][\w'\-]+) ?){1,5},? "
    r"?(?:n[º°o.]{0,2} ?)?\d{1,4}"
    r"(?:[,-]? ?\d{1,2}[ºª°]?)?(?:,? \d{4,5} [A-ZÀ-Þ][\w\-]+)?|"
    r"(?<![A-Za-z])[A-ZÀ-Þ][\w\-]*(?:stra(?:ß|ss)e|str\.|weg|gasse|platz|allee|gatan|gata|vej|"
    r"gade|laan|straat|plein|gracht|katu) \d{1,4}[a-z]?"
    r"(?:,? (?:[A-Z]{1,2}-)?\d{4,5}(?: ?[A-Z]{2})? [A-ZÀ-Þ][\w\-]+)?"
)
_UK_FLAT = pattern(rf"(?<![A-Za-z0-9]){_APT},? (?:[A-Z0-9][A-Za-z0-9'’.\-]*,? ){{1,7}}{_UKPOST}")
_UK_HOUSE = pattern(rf"(?<![A-Za-z0-9.\-/])\d{{1,4}}[a-zA-Z]? (?:[A-Z][A-Za-z'’.\-]+,? ){{1,6}}{_UKPOST}")
_HOUSE = pattern(  # Glenmore Cottage, Ballynoe Lane, Co. Cork, P51 X4K2
    rf"(?<![A-Za-z])(?:[A-Z][a-z'\-]+ ){{1,2}}(?:House|Cottage|Lodge|Farm|Manor|Barn|Court|Villa|"
    rf"Mansions|Lodge|Croft|Mill|Rectory|Vicarage|Bungalow),? "
    rf"(?:[A-Z0-9][A-Za-z0-9'.\-]*(?: [A-Z][A-Za-z'.\-]*){{0,3}},? ){{1,4}}(?:{_UKPOST}|"
    rf"[A-Z]\d[\dW] ?[A-Z0-9]{{4}}|Co\.? [A-Z][a-z]+)"
)
_NO_SUFFIX = pattern(  # 4410 W Elm, Apt 2, Tulsa OK 74104; Rural Route 3, Box 118
    rf"(?<![A-Za-z0-9.\-/])\d{{1,5}} (?:(?:[NSEW]|NE|NW|SE|SW)\.? )?(?:[A-Z][A-Za-z'.\-]+ ?){{1,3}},? {_APT}{_REST}|"
    rf"(?:Rural Route|R\.?R\.?|HC|Route|Rte)\.? ?#?\d+,? Box \d+{_REST}"
)
_CA_ALONE = pattern(r"(?<![A-Za-z0-9])[ABCEGHJ-NPRSTVXY]\d[A-Z] \d[A-Z]\d(?![A-Za-z0-9])")


def addresses(plain: str) -> Iterator[Found]:
    """Yield the addresses in a folded text: (kind, start, end, score)."""
    if not plain.isascii():
        yield from _chinese(plain)
    for form, score in (
        (_STREET, 0.8),
        (_BOX, 0.8),
        (_CITY_ZIP, 0.7),
        (_UK_HOUSE, 0.8),
        (_UK_FLAT, 0.8),
        (_ABROAD, 0.8),
        (_UK_ALONE, 0.6),
        (_CA_ALONE, 0.6),
        (_HOUSE, 0.6),
        (_NO_SUFFIX, 0.6),
    ):
        for match in form.finditer(plain):
            yield "ADDRESS", match.start(), match.start() + len(match[0].rstrip(" ,.\n")), score
    for form in (_STREET_LOWER, _NAMED_HOUSE):
        for match in form.finditer(plain):
            start = match.start("value")
            yield "ADDRESS", start, start + len(match["value"].rstrip(" ,.")), 0.75
    for match in _POSTCODE_ZH.finditer(plain):
        yield "ADDRESS", *match.span("value"), 0.8


def _chinese(plain: str) -> Iterator[Found]:
    if not any(character in plain for character in "号路街村区室栋幢楼组苑弄镇址住园寓城县州市期"):
        return
    for match in _MARKED_ZH.finditer(plain):
        length = _address_length(match["value"])
        words = len(set(_ADDRESS_WORD.findall(match["value"][:length])))
        if length and (match["colon"] in tuple(":=>") or words >= 2 or _HOUSE_NUMBER.search(match["value"][:length])):
            yield "ADDRESS", match.start("value"), match.start("value") + length, 0.9
    for match in _LIVES.finditer(plain):
        length = _address_length(match["value"])
        value = match["value"][:length]
        if (
            re.search(r"[镇乡村屯路街巷弄号栋幢]|小区|花园|大道|公寓", value)
            and not re.search("院|病房|科|床|[城山农乡郊]区|郊外|农村|乡村|城市|乡下|城镇|一[座栋个片]|[的很]", value)
            and len(value) > 3
        ):
            yield "ADDRESS", match.start("value"), match.start("value") + length, 0.8
        elif "住" in match[0][:4] and (county := _COUNTY.match(plain, match.start("value"))):
            yield "ADDRESS", *county.span(), 0.8
    for form, score in ((_FREE, 0.8), (_VILLAGE, 0.7), (_ROAD_ONLY, 0.6), (_HOUSE_ONLY, 0.6)):
        for match in form.finditer(plain):
            text = match[0]
            start = match.start()
            first = _PLACE.search(plain, start + 1, match.end())  # 望京花家地: 家 is a lead only before the first place
            while (lead := _LEAD.match(plain[start : first.end() if first else match.end()])) and not re.match(
                _STARTS, plain[start:]
            ):
                start += lead.end()
            end = match.start() + len(text.rstrip(" ,"))
            rest = plain[start:end]
            if re.search(
                r"[路街巷弄道里村屯庄镇乡区县]|期\d|小区|花园|苑|公寓|大厦|家园|胡同|城|园|府", rest
            ) and not re.search(
                "病区|医院|居民|[名例]|的|城市|农村|乡村|普及|道路|政府|病房|床|[内外儿妇]科|门诊|诊室|病室|公式|单元格|区域",
                rest,
            ):
                yield "ADDRESS", start, end, score


def _address_length(value: str) -> int:
    """How much of what stands behind a marker is an address: up to the next marker or a part without a word of it."""
    if stop := _NEXT.search(value):
        value = value[: stop.start()]
    if stop := re.search("的|政府|部门|居民|医院|人民政府|单位|报告", value):
        value = value[: stop.start()] if stop[0] == "的" else ""
    end = 0
    for part in re.finditer(r"[^ ,，、()]+|\([^)]*\)", value):
        if not _ADDRESS_WORD.search(part[0]) and not (part[0].isdigit() and end):
            break
        end = part.end()
    return end
