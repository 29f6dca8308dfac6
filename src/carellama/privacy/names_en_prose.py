"""English names that stand in a sentence: words that are known names, weighed with what stands around them.

    list(names("Please tell Maria that Bjorn Hallgren phoned"))   # Maria, and Bjorn Hallgren

Words with a capital that follow one another are a candidate; each adds to its weight by what it is (a given name, a
surname, unknown, an everyday word), and so do the words before and behind it. Given names in lower case need more of
their surroundings. A place, a drug or an eponym is told by the lists and by the word behind it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from carellama.privacy.normalize import pattern
from carellama.privacy.word_lists import english, scowl
from carellama.privacy.words import EPONYM_AFTER, FIRST_NAMES, LAST_NAMES, NOT_NAMES_EN, SOUNDS, WORLD_NAMES
from carellama.text import HAN

Found = tuple[str, int, int, float]

_NEEDED = 4.5
_THING = -3.0
_LETTER = "A-Za-zÀ-ÖØ-öø-ÿĀ-ſƠ-ưẠ-ỹ"
_WORD = re.compile(
    rf"(?<![{_LETTER}0-9_@.'])(?<![{_LETTER}0-9]-)(?<![^{_LETTER}]/)(?:[A-Z]\.(?:[A-Z]\.)*|"
    rf"[{_LETTER}][{_LETTER}'\-]*)(?![{_LETTER}0-9_@])"
)
_PARTICLES = frozenset("de del la da dos di van von der den bin bint ibn al el le ter ten du st st. abu ben".split())
_NO_WORD = re.compile(r"[a-z][A-Z]|[A-Z]{2}[a-z]|'(?:ll|ve|re|d|t|m)$", re.A)  # IgE, LVADs, We'll
_CAMEL = re.compile(r"(?:Mc|Mac|De|Di|Du|La|Le|Van|Fitz|O'|D'|Al|Von)[A-Z][a-z]")
_ENDINGS = re.compile(
    r"(?:ologists?|iatrists?|icians?|(?:rapist|tist|macist|alist)s?|itis|osis|emia|oma|itus|"
    r"ectomy|therapy|virus|tions?|sions?|"
    r"ments?|ness|ities|ances?|ences?|ical|ular|ous|able|ible|ing|ism|ology|graphy|scopy|plasty|"
    r"pathy|mycin|cillin|olol|pril|"
    r"sartan|statin|azole|idine|mab|nib|vir|parin|xaban|gliptin|formin|azepam|codone|profen|"
    r"coccus|bacter|amine|phylline|"
    r"terol|sone|olone|caine|ostomy|oid|ectin|afil|tidine|setron|dipine|zosin|oxacin|cycline|"
    r"thiazide|semide|triptan|lukast|illin|omycin|asone|olide|dronate|gliflozin|bactam|-pak|ians|eans|plasma|"
    r"bacillus|algia|dynia|guinity|sulfate|oleate|phosphate|nates|chloride|philus|varum|valgum)$"
)
_KIN = (
    r"dtr|dau|mother|father|mom|mum|mama|papa|dad|husband|wife|son|daughter|sister|brother|"
    r"partner|fianc[ée]e?|boyfriend|girlfriend|"
    r"uncle|aunt|auntie|cousin|nephew|niece|grand(?:mother|father|ma|pa|son|daughter)|nan|friend|neighbou?r|spouse|"
    r"roommate|colleague|twins?|baby(?: girl| boy)?|child|kid|toddler|infant|girl|boy|man|woman|lady|gentleman"
)
_ROLE = (
    rf"(?:(?:{_KIN})(?:-in-law)?|hubby|hubs|bf|gf|bro|sis|gran|granny|grandad|nana|stepson|"
    rf"stepdaughter|stepfather|stepmother|granddad|ref|patient|pt|client|resident|nurse|midwife|"
    rf"doctor|drs|dr|dr's|mr|messrs|mrs|ms|miss|mx|prof|professor|physician|surgeon|"
    r"consultant|registrar|therapist|physio|pharmacist|carer|caregiver|aide|driver|interpreter|"
    r"translator|guardian|witness|"
    r"informant|attending|resident|intern|fellow|assistant|secretary|receptionist|coordinator|"
    r"worker|manager|counsell?or|teacher|"
    r"officer|paramedic|technician|tech|trainee|donor|recipient|applicant|claimant|sender|author|user|member|customer|"
    r"student|next of kin|nok|kin|contact|proxy|name|signed|signature|attn|sincerely|regards|cheers|anaesthetist|"
    r"anesthetist|anesthesiologist|radiologist|pathologist|cardiologist|neurologist|oncologist|"
    r"psychiatrist|psychologist|"
    r"sgt|sergeant|capt|captain|lt|lieutenant|col|colonel|cpl|constable|detective|judge|cllr|atty|"
    r"attorney|pastor|deacon|dietitian|gp|pcp|endo|cards|neuro|onc|ortho|pulm|renal|gi|derm|psych|"
    r"ob|ent|uro|heme|rheum|surg|peds|crna|rn|np|hca|cna|lpn|sister|matron|brother|lead|chaplain|"
    r"rabbi|father|reverend|imam|sponsor|landlord|deceased|pp|scrub|circulating|widow|widower|"
    r"late)"
)
SPEAKER = re.compile(  # who says what follows: Assistant: Hm, I think
    r"(?:^|\n)\s{0,2}(?:Assistant|Human|User|Bot|AI|Agent|Customer|Patient|Doctor|Nurse|Mother|Father|Friend|Student|Teacher):\s{1,2}$"
)
_BEFORE: tuple[tuple[re.Pattern[str], float], ...] = (
    (SPEAKER, 0.5),
    (pattern(r"\bSt\.?\s$"), -5.0),
    (pattern(r"(?:^|\n|\()[A-H]\s?[:.)]\s?$"), -1.0),  # an option of a question
    (
        pattern(
            r"\b(?:given|taking|taken|takes?|took|prescribed|using|used|tried|dose of|course of|tablets? of|mg "
            r"of|allergic to|"
            r"called in|brand|drugs?|medications?|medicines?|antibiotics?|foods?|such as|products?|includ(?:ing|"
            r"es?)|contains?|"
            r"(?:to|from|in|at|near|around) (?=Cape|Port|New|Lake))[\s:,]{1,3}$",
            re.I,
        ),
        -3.0,
    ),
    (
        pattern(
            rf"[{HAN}](?:发作|征|病|综合征|试验|法|症|线|骨折|反射|瘤|体|管|腺|细胞|评分|量表|分期|分型|公司|"
            rf"品牌|牌|集团|药业|食管|颗粒|疗法|指数)"
            r"\s?[(（]$"
        ),
        -6.0,
    ),
    (pattern(r"(?:[药品商别学书英外文专曲剂通]名|成分|药物|制剂)[:=(]?\s?$"), -4.0),
    # 白术 (Bai Zhu): the same word in Latin letters; behind one that is written by its sound, it may be a name
    (pattern(rf"(?<![{HAN}])[{SOUNDS}]{{2,6}}\s?\($"), -4.0),
    (pattern(rf"(?![医生师士人者员友属])[{HAN}]\s?\((?:[A-Za-z]+,?\s?){{0,2}}$"), -12.0),
    (pattern(rf"(?<![a-z]){_ROLE}(?:'s)?(?: name)?(?: is| was)?\.?(?:\s?[:(=,]|\s?-)?\s{{0,2}}[\"'(]?$", re.I), 4.0),
    (
        pattern(
            r"(?:\bmy name is|\b(?:i am|i'm|im|it's|its|this is|here is)|\b(?:ask(?:ed)? for|spoke (?:to|"
            r"with|w/)|speak (?:to|with)|call me|"
            r"named? (?:him|her|it|them)|call(?:ed)? (?:him|her|me)|dear|hi|hey|hello|c/o|d/w|attn|re:|"
            r"cc:|thanks,?|thank you,?|love,?))[ ,:]\s?$",
            re.I,
        ),
        3.0,
    ),
    (
        pattern(
            r"(?:\b(?:by|with|w/|for|from|to|told|tell|tells|call|called|ask|asked|see|saw|seen|per|and|"
            r"that|when|but|because|remind|"
            r"let|if|contact|contacted|phoned|rang|texted|text|email|emailed|message|messaged|thank|met|"
            r"visit|visited|help|"
            r"informed|notified|paged|advised|updated|did|does|is|was|has|gave|give|show|regarding|about|"
            r"under|via|behalf of|"
            r"care of)|[(\"@:&])\s?$",
            re.I,
        ),
        1.5,
    ),
    (pattern(r"(?:[医师生士人者员友士家属]|(?<![药品商别学书英外文专曲剂通])名)[:=(]?\s?$"), 3.0),
    (pattern(r"(?:^|\n|\s)-{1,2}\s?$"), 2.5),
    (pattern(r"(?:\b[A-Za-z]{2,}|\)):\s{1,3}$"), 2.0),
    (pattern(r"(?:^|[\n.!?;,|\t>]|-- ?|\*)\s{0,3}$"), 0.5),
    (pattern(r"\b(?:parent|guardian|mother|father|relatives?|care|behalf)(?:/guardian)? of\s$", re.I), 4.0),
    (
        pattern(r"\b(?:the|an?|in|at|near|of the|using|on|st\.?|mount|port|lake|fort|new|san|santa|los|port)\s$", re.I),
        -3.0,
    ),
    (pattern(r"(?<![A-Za-z])[a-z]{3,}\s$"), 1.0),
)
_BODY = (
    r"\s(?:Hospital|Clinic|Infirmary|Street|St\b|Road|Rd|Avenue|Ave|Lane|Drive|Medical|Medicine|"
    r"University|College|School|House|Ward|Unit|"
    r"Cent(?:re|er)|Health|Healthcare|Pharma\w*|Foundation|Institute|Trust|Court|Building|Park|"
    r"County|City|Town|Island|Bay|River|"
    r"Valley|Beach|Hall|Church|Society|Association|Inc|Ltd|Company|Group|Study|Trial|Journal|et al|General|"
    r"Memorial|Falls?|"
    r"virus|fever|gland|duct|tube|method|test|sign|scale|score|index|stain|syndrome|disease)\b"
)
MACHINE = pattern(  # I am Clara, an AI assistant
    r"['’]?s?[,.]?\s(?:(?:and\s)?(?:I am|I'm|is)\s)?(?:an?|the|your|our)\s(?:[\w\-]+\s){0,4}"
    r"(?:AI|A\.I\.|artificial|assistant|chat ?bots?|bot|language model|LLM|machine|software|app)\b",
    re.IGNORECASE,
)
_BEHIND: tuple[tuple[re.Pattern[str], float], ...] = (
    (MACHINE, -9.0),
    (
        pattern(
            r"(?:'s)?,?\s\(?\d+(?:\.\d+)?\s?(?:mg|mcg|µg|μg|g|ml|units?|iu|%|tabs?|tablets?|caps?|puffs?|drops?)\b|"
            r"\s(?:tablets?|capsules?|pills?|cream|ointment|gel|drops|spray|inhaler|injections?|syrup|lotion|solution|"
            r"vaccine|patch|suppositor(?:y|ies)|brand|dose|formula|grade|class|bodies|body|cells?|granules|line|view|"
            r"agar|medium|plasty|suture|knife|blade|forceps|retractor|speculum|needle|reaction|effect|equation|pulse|"
            r"screws?|appliance|plates?|rods?|pins?|wires?|clamps?|splint|brace|stents?|implant|prosthesis|"
            r"valve|graft|shunt|repair|flap|"
            r"incision|approach|technique|diet|regimen|staging|model|theory|exercises?|tubes?|bag|mask|lamp|chart|table|products?|paint|store|shop|foods?|pharmacy|labs?|laborator(?:y|ies)|sauce|company)\b",
            re.IGNORECASE,
        ),
        -6.0,
    ),
    (pattern(rf"(?:{EPONYM_AFTER}|{_BODY})", re.I), -9.0),
    (
        pattern(
            rf" ?[{HAN}]{{0,8}}(?:炎|征|病(?![史人房历])|综合|瘤|颗粒|细胞|反应|试验|量表|评分|指数|现象|定律|"
            rf"公式|菌|膜|发作|骨折|反射|公司|品牌|疗法|液|平板|琼脂|线|抗原|方程|杂音|角|定理|固定)|"
            r" [A-D]期"
        ),
        -5.0,
    ),
    (pattern(rf" ?[{HAN}]{{0,4}}[级征病型期分法类]|[ -](?:[IVX]+|[0-9](?:[a-d]|\+)?)(?![A-Za-z0-9])"), -4.0),
    (pattern(r"\s(?:family|household|twins|residence|brothers|sisters)\b"), 7.0),
    (
        pattern(
            rf"(?:\"?,?\s?\(?(?:aged?\s)?\d{{1,3}}\s?(?:[,)]|[MFmf](?![A-Za-z])|yo|y/o|y\.o|yrs?|years)|"
            rf"\"?,\s?\"?(?:[MF]|male|female)\"?(?=[,\s);]|$)|"
            rf",?\s\(?(?:dob|d\.o\.b|born|aged|mrn|nhs|ssn|date of birth|she/her|he/him|they/them|uses "
            rf"(?:they|she|he)(?:/\w+)?)\b|(?:,\s|,?\s\()(?:his|her|my|the|their|pt's)?\s?(?:{_KIN})\b|"
            r",?\s(?:M\.?D\.?|R\.?N\.?|N\.?P|PA-?C|MBBS|D\.?O|FRC\w+|MRC\w+|Ph\.?D|DDS|DNP|LCSW|CRNA|"
            r"Pharm\.?D|LPN|MBChB|OT|PT|SLP|BSN|CNM)\b)",
            re.I,
        ),
        4.0,
    ),
    (
        pattern(
            r"(?: (?:in|from) (?:side |bed|room|bay|ward|cubicle|rm)|,? (?:said|says|called|is|was|has|"
            r"had|will|would|asked|asks|reports?|reported|states?|stated|denies|denied|came|comes|lives|"
            r"takes|took|wants|needs|phoned|rang|told|tells|presented|attended|arrived|refused|signed|"
            r"confirmed|consents?|consented|"
            r"speaking|here|again|who|thinks?|thought|keeps?|feels?|felt|went|goes|got|gets|did|does|"
            r"doesn't|didn't|can|can't|could|"
            r"agreed|agrees|requested|explained|mentioned|noticed|fell|slept|ate|stopped|started|brought|"
            r"gave|picked|drove|"
            r"helps?|helped|calls|emailed|texted|wrote|paid|left|woke|cried|complained|remains|lost|saw|"
            r"booked|cancelled|"
            r"completed|performed|reviewed|noted|accompanied|translated|interpreted|witnessed)\b|'s |'ll |'d )",
            re.I,
        ),
        1.5,
    ),
    (pattern(r"(?:$|[\n.,;!?)|\"])"), 0.5),
    (pattern(r" \d"), -2.0),
)


_FIELD = pattern(rf"(?:(?<![a-z]){_ROLE}(?:'s)?(?: name)?\s?[:=]|\||^|\bre:)\s{{0,3}}[\"'(]?$", re.I | re.M)


_FORMS = (
    ("ies", "y"),
    ("es", ""),
    ("s", ""),
    ("ied", "y"),
    ("ed", ""),
    ("ed", "e"),
    ("ing", ""),
    ("ing", "e"),
    ("ly", ""),
)


class Lists(NamedTuple):
    """What words are, in lower case."""

    first: frozenset[str]
    last: frozenset[str]
    words: frozenset[str]


@cache
def lists() -> Lists:
    """Read the lists: given names, surnames, everyday words."""
    groups: dict[str, set[str]] = {}
    for line in Path(__file__).with_name("lists").joinpath("names_en.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            group = groups.setdefault(line.strip("[]"), set())
        elif line and not line.startswith("#"):
            group.update(line.split())
    places = english().places
    first = (groups["first"] | groups["both"] | FIRST_NAMES | WORLD_NAMES) - places
    last = (groups["last"] | groups["both"] | LAST_NAMES) - places
    words = groups["words"] | english().ordinary | scowl()
    return Lists(frozenset(first), frozenset(last), frozenset(words))


def _is_form(bare: str) -> bool:
    """Whether a word in lower case is a form of an everyday word: leukocytes, dizzily."""
    words = lists().words
    return any(
        bare.endswith(ending) and len(bare) - len(ending) > 2 and bare[: len(bare) - len(ending)] + rest in words
        for ending, rest in _FORMS
    )


def _weight(word: str) -> float | None:
    """How much a capitalised word adds to a name; None for one that is none."""
    lists_ = lists()
    bare = word.lower().rstrip(".'")
    bare = bare[:-2] if bare.endswith("'s") else bare
    if len(bare.replace(".", "")) == 1 or re.fullmatch(r"(?:[A-Z]\.){2,}", word):
        return 0.5
    first, last = bare in lists_.first, bare in lists_.last
    capitals = word.isupper()
    if _NO_WORD.search(word) and not _CAMEL.match(word):
        return None
    words = english()
    if bare in words.places and bare in FIRST_NAMES and not capitals:
        return 1.5
    if bare in NOT_NAMES_EN or bare in words.places or bare in words.drugs:
        return None
    if bare in lists_.words:
        return 1.5 if first and bare in FIRST_NAMES and not capitals else None
    if first or last:
        if capitals and len(bare) < 4 and bare not in FIRST_NAMES and bare not in LAST_NAMES:
            return None
        worth = 4.0 if first else 3.0
        return worth - 1.5 if capitals else worth
    if _is_form(bare):
        return None
    if "-" in bare:
        if capitals:  # AL-RASHID, but not HTLV-II or NEO-FFI
            known = any(len(part) > 3 and part in lists_.first | lists_.last for part in bare.split("-"))
            return 2.5 if known else None
        parts = [_weight(part.capitalize()) for part in bare.split("-") if part]
        return None if None in parts or not parts else max(parts, default=0.0)  # type: ignore[type-var]
    if len(bare) == 2 and not capitals:
        return 0.5
    if _ENDINGS.search(bare) or len(bare) < 3 or (capitals and len(bare) < 4):
        return None
    return 1.0 if capitals else 1.5


def names(plain: str) -> Iterator[Found]:
    """Yield the names in a folded text with Latin letters: (kind, start, end, score)."""
    tokens = list(_WORD.finditer(plain))
    index, last = 0, -9
    while index < len(tokens):
        run = _run(plain, tokens, index)
        if not run:
            index += 1
            continue
        start, end = run[0].start(), run[-1].end()
        worth = _worth(run) + (1.0 if "," in plain[start:end] else 0.0) + _around(plain, start, end)
        if plain[last:start] in (" and ", " & ", "/", ", ", " or ", ", and ") and _worth(run) >= 2.0:
            worth += 2.5  # one of several: Drs. Feldman and Osei
        if _shouted(plain, start, end):
            worth -= 3.0
        if worth >= _NEEDED and plain[start:end].lower() not in english().phrases:
            last = end
            yield "NAME", start, end - (2 if plain[start:end].endswith("'s") else 0), 0.5
        index += len(run)
    yield from _lower(plain, tokens)


def _leads(token: re.Match[str]) -> bool:
    """Whether a word begins a line or sentence and a word in lower case follows: Keycare only covers ..."""
    before, behind = token.string[: token.start()].rstrip(" "), token.string[token.end() : token.end() + 3]
    return (not before or before[-1] in "\n.!?:") and bool(re.match(r" [a-z]{2}", behind))


def is_listed(word: str) -> bool:
    """Whether a word is in a list of names."""
    known, bare = lists(), re.sub(r"['’]s$|\.$", "", word.lower())
    return bare in known.first or bare in known.last or bare in FIRST_NAMES


def _shouted(plain: str, start: int, end: int) -> bool:
    """Whether all letters around are capitals, so that those of a word say nothing: THIS IS A MIRACLE DRUG."""
    around = plain[max(0, start - 24) : start] + plain[end : end + 24]
    letters = [character for character in around if character.isascii() and character.isalpha()]
    return len(letters) > 11 and all(map(str.isupper, letters))


def _run(plain: str, tokens: list[re.Match[str]], index: int) -> list[re.Match[str]]:
    """The words from one on that may be a name together."""
    run: list[re.Match[str]] = []
    for token in tokens[index : index + 6]:
        gap = plain[run[-1].end() : token.start()] if run else ""
        if (
            run
            and gap not in (" ", ". ", "  ")
            and not (
                gap == ", "
                and sum(one[0].lower() not in _PARTICLES for one in run) == 1
                and _surname_first(plain, run[0].start(), run[-1][0], token[0])
            )
        ):
            break
        if gap == ". " and len(run[-1][0]) > 1:
            break
        word = token[0]
        if (
            word.lower() in _PARTICLES
            and len(word) > 1
            and (run or word[0].islower() or word not in ("St", "Al", "Ben"))
        ):
            run.append(token)
            continue
        if not word[0].isupper() or (word.isupper() and len(word.rstrip(".")) > 1 and run and not run[-1][0].isupper()):
            break
        weight = _weight(word)
        if weight is None:
            if (
                run
                and (_weight(run[0][0]) or 0.0) > 1.0
                and word[1:].islower()
                and len(run) < 3
                and not _ENDINGS.search(word.lower())
            ):
                after = tokens[index + len(run) + 1 : index + len(run) + 2]
                if (
                    after
                    and after[0][0][0].isupper()
                    and plain[token.end() : after[0].start()] == " "
                    and (_weight(after[0][0]) or 0.0) >= 1.5
                ):
                    run += [token, after[0]]  # Mehmet Can Aksoy
                elif _family(word):
                    run.append(token)
            break
        run.append(token)
        if plain.startswith("'s", token.end() - 2):
            break
    while run and (run[-1][0].lower() in _PARTICLES or (len(run) == 1 and len(run[-1][0].rstrip(".")) == 1)):
        run.pop()
    return run if any(token[0][0].isupper() for token in run) else []


def _surname_first(plain: str, at: int, last: str, first: str) -> bool:
    """Whether two words with a comma between are a surname and a given name: known ones, or in a field or a row."""
    known, weights = lists(), (_weight(last.capitalize()), _weight(first.capitalize()))
    if None in weights or weights[0] == 0.5 or len(first.rstrip(".")) < 2:
        return False
    if last.lower() in known.last and (first.lower() in known.first or last.isupper()):
        return True
    return bool(_FIELD.search(plain, max(0, at - 28), at)) or (last.isupper() and len(last) > 2 and first[1:].islower())


def _family(word: str) -> bool:
    """Whether an everyday word may be a surname behind a given name: Emily Price."""
    bare = word.lower()
    if re.fullmatch(_BODY[2:-2], word, re.IGNORECASE) or bare in NOT_NAMES_EN:
        return False
    return bare in lists().last or bare in LAST_NAMES or (len(bare) > 3 and not _ENDINGS.search(bare))


def _worth(run: list[re.Match[str]]) -> float:
    words = [token[0] for token in run if token[0].lower() not in _PARTICLES]
    weights = [_weight(word) or 0.0 for word in words]
    if max(weights) <= 1.0 and any(len(word) > 1 and word.isupper() for word in words):
        return -9.0  # PCWP, RVSP: no name is known in these capitals
    if len(words) == 1 and (words[0].isupper() or len(words[0]) < 3):
        weights[0] -= 1.5 if words[0].isupper() else 3.0  # GERD, ANCA and ELISA are names as well
    if len(words) == 1 and not is_listed(words[0]):  # Rhineton, Observatn: what stands around has to say more
        weights[0] -= 1.0 if words[0].isupper() or not _leads(run[0]) else 3.0
    long = sum(weight > 0.5 for weight in weights)
    return sum(weights) + (1.5 if long > 1 else 0.5 if len(words) > 1 else 0.0)


def _around(plain: str, start: int, end: int) -> float:
    """What stands around says."""
    before, behind = plain[max(0, start - 28) : start], plain[end : end + 24]
    if plain[end - 2 : end] == "'s":
        behind = "'s" + behind
    left = next((worth for form, worth in _BEFORE if form.search(before)), 0.0)
    right = next((worth for form, worth in _BEHIND if form.match(behind)), 0.0)
    return left + right


def is_part_of_thing(plain: str, start: int, end: int) -> bool:
    """Whether what stands around says that it is a thing: Langerhans cells."""
    return _around(plain, start, end) <= _THING


def is_thing(name: str, plains: Iterable[str]) -> bool:
    """Whether half of the mentions of one word stand as a thing does: in the Sami language, the Sami."""
    if " " in name:
        return False
    form = re.compile(rf"(?<![{_LETTER}\-]){re.escape(name)}(?![{_LETTER}])")
    worths = [_around(plain, *match.span()) for plain in plains for match in form.finditer(plain)]
    return 2 * sum(worth < 0.0 for worth in worths) >= len(worths) > 0


def _lower(plain: str, tokens: list[re.Match[str]]) -> Iterator[Found]:
    """Given names in lower case, and a surname behind them."""
    known = lists()
    for index, token in enumerate(tokens):
        word = token[0]
        bare = word[:-2] if word.endswith("'s") else word
        if (
            not word.islower()
            or len(bare) < 4
            or not all(part in known.first for part in bare.split("-"))
            or bare in known.words
            or bare in NOT_NAMES_EN
        ):
            continue
        end = token.start() + len(bare)
        worth = 2.5
        if index + 1 < len(tokens) and plain[token.end() : tokens[index + 1].start()] == " ":
            after = tokens[index + 1][0]
            if (
                after.islower()
                and len(after) > 2
                and after not in known.words
                and after not in NOT_NAMES_EN
                and after in known.last
            ):
                worth, end = worth + 2.0, tokens[index + 1].end()
        if worth + _around(plain, token.start(), end) >= _NEEDED:
            yield "NAME", token.start(), end, 0.45
    for match in _TITLED.finditer(plain):
        bare = match["value"]
        if not (bare in known.words or bare in NOT_NAMES_EN or bare in english().drugs or _ENDINGS.search(bare)):
            yield "NAME", *match.span("value"), 0.45


_TITLED = pattern(r"(?i:\b(?:dr|mr|mrs|ms|miss|mx|prof|nurse|drs)\b)\.? (?P<value>[a-z][a-z'\-]{3,})(?![A-Za-z])")
