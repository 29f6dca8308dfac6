"""Fields of forms, tables, JSON and logs: a key, a mark and a value, as in `name=...;tel=...` and `姓名|...|性别`.

    list(fields('{"pt_name": "Jane Doe"}'))   # [("NAME", 13, 21, 0.9)]

Only keys that name an identifier are read; what stands in a sentence is found by the other modules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from carellama.privacy.kinds import Span
from carellama.privacy.names_zh import is_name
from carellama.privacy.word_lists import english
from carellama.text import HAN

_KEYS: dict[str, str] = {
    "NAME": "patient pt name ptname patientname fullname firstname lastname "
    "surname givenname familyname forename "
    "customername username_cn realname relativename contactname doctorname physician physicianname nok nextofkin "
    "guardian carer caregiver kin mother father spouse attending surgeon consultant registrar reg referrer "
    "referredby requestedby author signedby signed signature emergencycontact xm xingming "
    "患者 病人 姓名 患者姓名 病人姓名 联系人 监护人 家属 家属姓名 医生 医师 主治医师 主治医生 经治医师 签名 签字 "
    "医师签名 医生签名 家属签字 患者签字 就诊人 开单医生 收件人 护士 责任护士 记录者 参保人 参保人姓名 持卡人",
    "ID_CARD": "idno idcard idcardno idnumber idnum idcode sfz sfzh identity identityno certno certificateno "
    "身份证 身份证号 身份证号码 证件号 证件号码 公民身份号码 身份号码",
    "PHONE": "tel telephone phone phoneno phonenumber mobile mobileno cell cellphone fax contactno contactnumber "
    "homephone workphone dh sjh lxdh 电话 手机 手机号 手机号码 联系电话 电话号码 联系方式 家庭电话 传真",
    "RECORD_NUMBER": "mrn mrno medrec recordno recordnumber recordid chartno patientid patientno patientnumber ptid "
    "pid visitno visitid admissionno hospno hospitalno hospitalnumber caseno caseid accessionno encounterid "
    "zyh blh jzkh 住院号 病案号 病历号 门诊号 就诊卡 就诊卡号 就诊号 检查号 登记号 患者编号 患者id 病人id 病案编号",
    "INSURANCE_NUMBER": "insuranceno insuranceid insurancenumber policyno policynumber policy memberid memberno "
    "subscriberid insuranceid ins insid medicareno medicaidno nhs nhsno nhsnumber ybh "
    "医保号 医保卡号 医保编号 医保卡 社保号 社保卡号 "
    "社保卡 参保号 参保人编号 保单号 参保编号 个人编号",
    "ADDRESS": "postcode postalcode zip zipcode 邮编 邮政编码",
    "ACCOUNT": "wechat weixin wx qq 微信 微信号 qq号 account acct accountid loginid",
    "EMAIL": "email mail 邮箱",
}
_SPEAKERS = frozenset("患者 病人 医生 医师 护士 家属".split())  # 医生：焦虑，熬夜 is what the physician says
_KIND = {key: kind for kind, keys in _KEYS.items() for key in keys.split()}
_MARK = re.compile(r"[:=|]|/(?=[A-Z]{0,4}\d{5})")
_KEY = re.compile(  # read from its end, in the text turned round
    r"\s{0,3}[\"']?(?P<key>[.#]{0,12}[A-Za-z](?:[A-Za-z]|(?<=[A-Za-z#])[_ .\-]){0,24}(?![A-Za-z])|"
    rf"[{HAN} ]{{2,12}})"
)
_VALUE = re.compile(r"[=|]?\s{0,3}[\"'(]?(?P<value>[^\n,;|\"'&{}<>\[\]()…。、=:]{1,48})(?P<after>[:=]?)")
_HAN_NAME = re.compile(rf"[{HAN}]{{2,4}}(?:·[{HAN}]{{1,8}}){{0,3}}$")
_CAPITALS = re.compile(r"\s{0,3}[\"']?(?P<value>[A-Z][A-Z'\-]+, ?[A-Z][A-Z'\-]+(?: [A-Z]\.?)?)(?![A-Za-z])")
_TAG = re.compile(r"<(?P<key>[A-Za-z_:\-]{2,24})>\s?(?P<value>[^<>\n]{2,60}?)\s?</")  # <given>Hiroto</given>
_CARET = re.compile(
    r"(?<![A-Za-z^])[A-Z][A-Za-z'\-]+\^[A-Z][A-Za-z'\-]+(?:\^[A-Za-z.]+)*"
)  # DOE^JANE^Q of HL7 and DICOM
_HL7 = re.compile(r"\|(?P<id>[A-Z]{0,4}\d{4,})(?=\^\^)|\|(?P<day>(?:19|20)\d{6})(?=\|[MFOU]\b)")
_WORD = r"[A-Za-zÀ-ÿĀ-ſẠ-ỹ][A-Za-zÀ-ÿĀ-ſẠ-ỹ'\-]*\.?"
_LATIN_NAME = re.compile(rf"{_WORD}(?:[ +]{_WORD}){{1,3}}$")
_NUMBER = re.compile(r"[A-Za-z]{0,6}[\-_ ]?[0-9*][0-9A-Za-z*.\-/_ ()+]{3,40}$")


def fields(plain: str) -> Iterator[Span]:
    """Yield the values of fields that hold an identifier: (kind, start, end, score)."""
    yield from _marked_up(plain)
    turned = plain[::-1]
    for mark in _MARK.finditer(plain):
        key = _KEY.match(turned, len(plain) - mark.start())
        if not key:
            continue
        word = key["key"][::-1].strip()
        kind = _kind(word)
        if kind == "NAME" and (capitals := _CAPITALS.match(plain, mark.end())):
            yield kind, *capitals.span("value"), 0.72
            continue
        value = _VALUE.match(plain, mark.end()) if kind else None
        if kind and value:
            end = _end(kind, value["value"].rstrip(" ."), keyed=bool(value["after"]), sure=word not in _SPEAKERS)
            if end:
                yield kind, value.start("value"), value.start("value") + end, 0.72


def kind_of(key: str) -> str | None:
    """The kind of identifier that a key names, written together in lower case (patientname, 患者姓名)."""
    return _KIND.get(key)


def _marked_up(plain: str) -> Iterator[Span]:
    """Yield the values of XML, HL7 and DICOM."""
    for match in _TAG.finditer(plain) if "</" in plain else ():
        key = match["key"].rpartition(":")[2]
        kind = "NAME" if key in ("given", "family", "first", "last") else _kind(key)
        end = _end(kind, match["value"], keyed=False, sure=True) if kind else 0
        if kind == "NAME" and not end and re.fullmatch(rf"{_WORD}", match["value"]):
            end = len(match["value"])
        if kind and end:
            yield kind, match.start("value"), match.start("value") + end, 0.72
    if "^" in plain:
        for match in _CARET.finditer(plain):
            yield "NAME", *match.span(), 0.7
        for match in _HL7.finditer(plain):
            kind, group = ("RECORD_NUMBER", "id") if match["id"] else ("BIRTH_DATE", "day")
            yield kind, *match.span(group), 0.7


def _kind(key: str) -> str | None:
    """What a key says: all of it, or its last words."""
    words = re.findall(r"[a-z#]+", key.lower())
    if not words:
        return _KIND.get(re.sub(r"[\"' ]", "", key))
    return next((_KIND[one] for at in range(len(words)) if (one := "".join(words[at:]).rstrip("#")) in _KIND), None)


def _end(kind: str, value: str, *, keyed: bool, sure: bool) -> int:
    """How much of a value is the identifier; 0 when it has not the form of one. `keyed`: it is a key itself.

    `sure`: the key is none of a speaker in a dialogue.
    """
    if kind == "NAME":
        if keyed:
            return 0
        if _HAN_NAME.match(value):
            return len(value) if "·" in value or is_name(value, sure=sure) else 0
        value = re.split(r" / |  ", value)[0]
        words = re.split("[ +]+", value.lower().replace(".", ""))
        if not _LATIN_NAME.match(value) or any(
            word in english().not_names or word in english().ordinary for word in words
        ):
            return 0
        particle = r"(?:al|el)-[A-Z]|(?:de|la|van|von|der|bin|del|da)$"
        return (
            len(value) if all(word[0].isupper() or re.match(particle, word) for word in re.split("[ +]", value)) else 0
        )
    if kind == "EMAIL":
        return 0
    if kind == "ADDRESS":
        return len(value) if re.fullmatch(r"\d{5,6}(?:-\d{4})?", value) else 0
    digits = sum(character.isdigit() for character in value)
    fewest = {"PHONE": 7, "ID_CARD": 8, "ACCOUNT": 6}.get(kind, 4)
    return len(value) if digits >= fewest and _NUMBER.match(value) else 0
