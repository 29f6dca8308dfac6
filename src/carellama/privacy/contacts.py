"""E-mail addresses however they are spelled, accounts in networks, and web pages of persons, in folded text.

    list(contacts(fold("mail：zhang.san(at)example(dot)com")))   # [("EMAIL", 5, 34, 0.9)]

Addresses of sources (doi.org, nih.gov) stay: only a page that names a person, or carries a token, is found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from carellama.privacy.names_en_prose import lists
from carellama.privacy.normalize import pattern
from carellama.text import HAN

Found = tuple[str, int, int, float]

_TLD = (
    r"(?:com|cn|net|org|edu|gov|co|uk|de|fr|io|info|me|in|ca|au|us|hk|tw|jp|eu|nhs|ac|qq|ch|it|es|nl|ru|"
    r"biz|email|health|hospital|test|example|invalid)"
)
_AT = (
    r"(?:\s{0,2}(?:@|\(\s?(?:at|a|@|艾特)\s?\)|\[\s?(?:at|a|@)\s?\]|\{at\}|<at>|_at_|艾特|小老鼠|"
    r"#(?=[a-z0-9\-]+\.(?:com|cn|"
    r"net|org)))\s{0,2}|\s(?:AT|at)\s|\s?-at-\s?)"
)
_DOT = (
    r"(?:\s{0,2}(?:\.|\(\s?(?:dot|点|\.)\s?\)|\[\s?(?:dot|点|\.)\s?\]|\{dot\}|<dot>|_dot_|。|点)\s{0,2}|\s(?:dot|"
    r"DOT)\s|\s?-dot-\s?)"
)
_LOCAL = (
    r"[A-Za-z0-9][A-Za-z0-9_%+\-]*(?:(?:\.|\s?(?:\(dot\)|\[dot\])\s?|\s(?:dot|underscore|"
    r"dash)\s)[A-Za-z0-9_%+\-]+){0,4}"
)
_EMAIL = pattern(
    rf"(?<![A-Za-z0-9._%+\-])(?P<local>{_LOCAL})(?P<at>{_AT})(?P<domain>[A-Za-z0-9][A-Za-z0-9\-]*(?:{_DOT}"
    rf"[A-Za-z0-9\-]+){{0,4}}?{_DOT}(?P<tld>{_TLD})(?:{_DOT}(?:cn|uk|au|in|hk|tw|jp|br|"
    rf"nz))?)(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_EMAIL_PLAIN = pattern(
    r"(?<![A-Za-z0-9._%+\-])[A-Za-z0-9._%+\-]+ ?@ ?[A-Za-z0-9\-]+(?:\.[A-Za-z0-9\-]+)*\.[A-Za-z]{2,}(?![A-Za-z0-9])"
)
_EMAIL_SPACED = pattern(
    r"(?<![A-Za-z0-9])(?:[A-Za-z0-9._\-] ){3,30}@ (?:[A-Za-z0-9\-] ?){2,20}\. ?(?:[A-Za-z] ?){2,3}(?![A-Za-z])"
)
_EMAIL_WORD = pattern(r"e-?mail|邮箱|邮件|mail|contact|reach|write|伊妹儿|send|发至|发到|寄到|邮", re.IGNORECASE)
_EMAIL_BROKEN = pattern(
    r"(?:e-?mail|邮箱|电子邮件|邮件地址)[^\n:]{0,6}[:是为]\s{0,2}(?P<value>[A-Za-z0-9._\-]{2,}(?: "
    r"?[A-Za-z0-9._\-]{1,20}){0,3} ?@ ?[A-Za-z0-9.\-]{2,}(?: ?\. ?[A-Za-z]{2,8}){0,3})",
    re.IGNORECASE,
)

_HANDLE = r"[A-Za-z0-9_][A-Za-z0-9_.\-]{3,30}"
_ACCOUNT = pattern(
    r"(?:微\s?信号?|微\s?信\s?(?:id|账号|帐号|号码)|薇信号?|威信号?|微x|V信号?|(?<![A-Za-z])(?:VX|WX|"
    r"wechat|weixin|wei ?xin)(?:号| ?id)?|支付宝(?:账号|帐号|号)?|抖音号?|微博(?:号|账号|ID|昵称)?|"
    r"小红书号?|快手号?|钉钉号?|陌陌号?|飞信号?|"
    r"QQ号?|Q号|扣扣号?|(?<![A-Za-z])(?:skype|telegram|whatsapp|line id|snapchat|instagram|insta|(?-i:IG|"
    r"ig)(?![A-Za-z])|"
    r"twitter|facebook|FB|tiktok|discord|zoom|linkedin|github|kik|viber|signal)(?: (?:id|handle|"
    r"username|account|name|user))?|"
    r"(?<![A-Za-z])(?:user ?name|user ?id|login(?: name| id)?|handle|screen name|account name)|"
    r"(?<![A-Za-z])account(?=\s?[:=])|用户名|"
    r"登录名|登录账号|账号|帐号|昵称)"
    r"[\"']?\s{0,2}(?:\([^()\n]{0,8}\)\s?)?(?P<is>[:=]|是|为|\bis\b|加我?|搜索?|"
    r"@)?\s{0,2}[\"']?(?P<value>(?:live:)?@?" + _HANDLE + r"|\d(?:[ \-]?\d){4,14})(?![A-Za-z0-9_])",
    re.IGNORECASE,
)
# words for an account, a few more, and a name that is no word: my handle on the forum is migraine_mama82
_LOOSE = pattern(
    r"(?:(?<![A-Za-z])(?:user(?:name)?|handle|login|account|screen name|wechat|weixin|skype|"
    r"telegram|instagram|insta|snap(?:chat)?|twitter|"
    r"tiktok|discord|facebook|fb|reddit|kik|signal|whatsapp|gamertag|nickname|nick|alias|posted "
    r"by|posts? as|logged in as|"
    r"signed in as|known as|find me|line)(?![A-Za-z])(?:\s(?:on|for|at|in|to|the|my|is|was|name|"
    r"handle|id|account|consult|forum|called|as|[a-z]{2,9})){0,4}"
    r"(?:\s?[:=(]\s?|\s)[\"'@]?|(?:用户名?|账户|账号|帐号|登录|登陆|工号|网名|昵称|(?<![A-Za-z])ID|微信|微博|"
    r"抖音|小红书|快手|(?<![A-Za-z])[QV]信)"
    r"[^\n.,;。，；A-Za-z0-9\"]{0,16})"
    r"(?P<value>(?:live:)?@?(?=[A-Za-z0-9_.\-]*[_\d])(?=[A-Za-z0-9_.\-]*[A-Za-z])[A-Za-z][A-Za-z0-9_.\-]{3,30})(?![A-Za-z0-9_@(])",
    re.IGNORECASE,
)
_HAN_HANDLE = pattern(  # 论坛账号 深夜查房侠_77
    rf"(?:账号|帐号|昵称|网名|用户名?|(?<![A-Za-z])ID(?![A-Za-z])|"
    rf"马甲)[:：是为叫]?\s?[\"'「“]?(?P<value>(?=[{HAN}A-Za-z0-9_]*[_0-9])(?=[{HAN}A-Za-z0-9_]*[{HAN}])[{HAN}A-Za-z][{HAN}A-Za-z0-9_]{{2,15}})(?![{HAN}A-Za-z0-9_])"
)
_NUMBERED = pattern(
    r"(?<![A-Za-z0-9_.@/\-#=&])(?P<word>[a-z]{4,16})(?P<more>[_.][a-z]+)?_?\d{2,4}(?![A-Za-z0-9@]|[.\-/]\w)"
)  # mgarrison44
_OWNER = pattern(
    r"(?:(?<![a-z])(?:by|user|id|name|handle|log[io]n|nick|author|operator|vx|wx|tester|reviewer|contact|me)|"
    r"微信|[VQ]信|账号|"
    r"用户|网名|昵称|[@:])\W{0,3}$",
    re.IGNORECASE,
)
_USER = pattern(
    r"(?:微信号?|QQ|抖音号?|小红书|微博|VX|wx|快手|钉钉|"
    r"企业微信)[:=是为]?\s?(?P<han>(?=[A-Za-z0-9\-_.]*[a-z])[A-Za-z][A-Za-z0-9\-_.]{5,30})(?![A-Za-z0-9_@])|"
    r"(?:用户名?|(?<![A-Za-z])user(?:name)?)[ "
    r":=]{0,2}(?P<value>[A-Za-z][A-Za-z0-9.\-]{0,20}_[A-Za-z0-9_.\-]{1,20})(?![A-Za-z0-9_@])",
    re.I,
)
_ADD_ME = pattern(
    r"(?:加我?(?:微信|薇信|VX|WX|V信|QQ|扣扣|V|Q)|(?:add me|find me|follow me|message me|dm me|DM(?= ?@))(?: "
    r"(?:on|at) [A-Za-z]+)?(?: (?:as|at|via))?)[:,]?\s{0,2}(?P<value>@?" + _HANDLE + r")(?![A-Za-z0-9_])",
    re.IGNORECASE,
)
_AT_HANDLE = pattern(
    r"(?<![A-Za-z0-9/])u/[A-Za-z0-9_\-]{3,30}(?![A-Za-z0-9_/])|"
    r"(?<![A-Za-z0-9._%+\-/@])@(?=[A-Za-z0-9_.]*[a-z_])[A-Za-z][A-Za-z0-9_.]{2,30}[A-Za-z0-9_](?![A-Za-z0-9_@(])"
)

_URL = pattern(
    r"(?<![A-Za-z0-9@])(?:https?\s?:\s?//|www\.)[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+|"
    r"(?<![A-Za-z0-9@./])(?:[a-z0-9\-]+\.)+(?:com|cn|net|org|me|io|uk|edu|"
    r"co)/[A-Za-z0-9\-._~:/?#@!$&'*+,;=%]+",
    re.IGNORECASE,
)
_PERSONAL = pattern(
    r"(?:^|[/.])(?:facebook|fb|twitter|instagram|linkedin|tiktok|t|x|weibo|github|gitlab|reddit|youtube|"
    r"pinterest|snapchat|medium|vk|zhihu|douyin|bilibili|flickr|orcid|patientslikeme|caringbridge|"
    r"gofundme|about|wa|telegram)\.(?:com|cn|org|me|net|co|tv)/"
    r"|/(?:~|@)[\w.\-]|/(?:users?|u|people|profiles?|members?|patients?|in|account|person|"
    r"drs?|doctors?|pt|mychart|records?)/[\w.\-%]{3,}"
    r"|[?&;](?:(?:user_?|nick_?|real_?|full_?|first_?|last_?|patient_?)?name=[^&\s]|(?:[a-z_]*(?:token|"
    r"mrn|email|mail|phone|mobile|patient|patient_?id|user|user_?id|uid|openid|"
    r"auth|session|ssn|dob|tel))=[^&\s])"
    r"|(?:portal|mychart|//my\.|patient|records?\b|/visit|chart|share|pan\.|drive|dropbox|docs\.|"
    r"(?<![a-z])forms|zoom|meet|teams|invite|//t\.|"
    r"/[rsdvjup]/)[^\s]*?(?:/\d{4,}(?:/|$)|(?<=[/=])(?=[\w\-]*\d)(?=[\w\-]*[a-z])[\w\-]{8,})|"
    r"[?&](?:pt|pid|code|key|k|sn|s|t|sid|cid|rid|share|invite|case|order|visit)=[\w\-]*\d"
    r"|//[\w.\-]+:[^@/\s]+@|\.(?:blogspot|wordpress|tumblr|github)\.(?:com|io)|/(?=[\w\-]*(?:patient|"
    r"mrn|name))[\w\-]+\d{3,}|\b1[3-9]\d{9}\b",
    re.IGNORECASE,
)
_SOURCE = pattern(  # what is cited, and belongs to nobody
    r"(?:https?\s?:\s?//)?(?:[\w\-]+\.)*(?:doi\.org|nih\.gov|who\.int|cdc\.gov|fda\.gov|"
    r"nice\.org\.uk|nhs\.uk|wikipedia\.org|arxiv\.org|"
    r"clinicaltrials\.gov|nejm\.org|thelancet\.com|bmj\.com|jamanetwork\.com|nature\.com|"
    r"sciencedirect\.com|springer\.com|wiley\.com|"
    r"biomedcentral\.com|plos\.org|frontiersin\.org|mdpi\.com|oup\.com|sagepub\.com|"
    r"cochranelibrary\.com|uptodate\.com|medscape\.com|"
    r"mayoclinic\.org|webmd\.com|drugs\.com|europa\.eu|gov\.uk|gov\.cn|cnki\.net|"
    r"wanfangdata\.com\.cn|baike\.baidu\.com|cma\.org\.cn)/",
    re.IGNORECASE,
)
_OWN = pattern(
    r"\b(?:my|her|his|patient's|pt's)\b[^.\n:]{0,16}[: ]{1,2}$|(?:blog|profile|homepage|"
    r"主页|博客|空间|网盘|个人网站|相册|店铺|分享)(?<![./]blog)\s?(?:[:是为]|is|at)?\s{0,2}$",
    re.IGNORECASE,
)
_PROGRAM = pattern(r"[{};]\s*\n|```|\b(?:import|class|SELECT|def|var|const) \w", re.ASCII)  # @Service, s2.student_id
_WORDS = ("handle", "login", "signal", "zoom", "账号", "帐号", "line id", "昵称")  # nothing but words without a colon
_NOT_HANDLES = frozenset(
    "is are was the and with for from that this your their group chat pay video call number account "
    "user username password login name handle after before when where public official message messages "
    "app page site website media support team http https www".split()
)


def contacts(plain: str) -> Iterator[Found]:
    """Yield what is found in a folded text: (kind, start, end, score)."""
    lower = plain.lower()
    if "@" in lower or "at" in lower or "艾特" in lower or "#" in lower or "老鼠" in lower:
        yield from _emails(plain)
    for form in (_ACCOUNT, _ADD_ME):
        for match in form.finditer(plain):
            value = match["value"].rstrip(".-")
            sure = form is _ACCOUNT and match["is"]
            if form is _ACCOUNT and not sure and match[0].lower().startswith(_WORDS):
                continue
            if (
                value.lower().lstrip("@") in _NOT_HANDLES
                or not (sure or re.search(r"[\d_@:.]", value))
                or len(value) < 4
            ):
                continue
            if sure and value.isalpha() and match["is"].lower() == "is":
                continue  # "Facebook is down"
            yield "ACCOUNT", match.start("value"), match.start("value") + len(value), 0.8
    if not _PROGRAM.search(plain):
        yield from _handles(plain)
    if "/" in plain or "www" in lower:
        for match in _URL.finditer(plain):
            url = match[0].rstrip(".,;:!?'\")]")
            if (
                _PERSONAL.search(url) or _OWN.search(plain, max(0, match.start() - 24), match.start())
            ) and not _SOURCE.match(url):
                yield "URL", match.start(), match.start() + len(url), 0.95


def _handles(plain: str) -> Iterator[Found]:
    """Yield names in networks that their form tells, not a word and a mark before them."""
    for form in (_LOOSE, _USER):
        for match in form.finditer(plain):
            group = "value" if match["value"] else "han"
            value = match[group].rstrip(".-")
            if group == "han":
                yield "ACCOUNT", match.start(group), match.start(group) + len(value), 0.55
            elif re.search(r"_|^@|[a-z].*\d", value) and not re.fullmatch(r"[A-Za-z]{1,4}\d{1,3}[A-Za-z]?", value):
                yield "ACCOUNT", match.start("value"), match.start("value") + len(value), 0.55
    for match in _HAN_HANDLE.finditer(plain):
        yield "ACCOUNT", *match.span("value"), 0.5
    for match in _NUMBERED.finditer(plain):
        if match["word"] not in lists().words and _OWNER.search(plain, max(0, match.start() - 16), match.start()):
            yield "ACCOUNT", *match.span(), 0.5
    if "@" in plain or "u/" in plain:
        for match in _AT_HANDLE.finditer(plain):
            yield "ACCOUNT", *match.span(), 0.5


def _emails(plain: str) -> Iterator[Found]:
    for match in _EMAIL.finditer(plain):
        at, domain = match["at"].strip().lower(), match["domain"]
        if (
            at == "at"
            or (at == "#" and not match["domain"].lower().startswith(("qq.", "163.", "126.", "gmail.", "sina.")))
            or ("@" not in at and not at.startswith(("(", "[", "{", "<", "_", "-", "艾", "小")))
        ):
            spelled = re.search(r"\s(?:dot)\s|[(\[{]dot|-dot-|点", domain, re.IGNORECASE)
            told = _EMAIL_WORD.search(plain, max(0, match.start() - 30), match.start()) or re.search(
                r"[\d_.]", match["local"]
            )
            if not (spelled or told):
                continue
        yield "EMAIL", *match.span(), 0.9
    for form in (_EMAIL_PLAIN, _EMAIL_SPACED):
        for match in form.finditer(plain):
            yield "EMAIL", match.start(), match.start() + len(match[0].rstrip(" .-")), 0.9
    for match in _EMAIL_BROKEN.finditer(plain):
        yield "EMAIL", *match.span("value"), 0.85
