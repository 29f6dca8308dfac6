"""Who is ill: a relative that a message names is the patient, or only came along, saw something, or has it as well.

    is_bystander("i've had a cold for three days. my son is with me", 33, 39)     # True: he came along
    is_bystander("my husband has chest pain", 0, 10)                              # False: it is he who is ill

What stands around the relative decides: with me, drove me, says I snore, 陪我来, 说我打呼噜. An illness that runs in a
family is a relative's only where the person has told of a trouble of their own. Linear in the sentence.
"""

from __future__ import annotations

import re

REACH = 60  # characters of the sentence behind a relative that are looked at
_SENTENCE = re.compile(r"[.!?;。！？；\n]")
_CLAUSE = re.compile(r"[,，.!?;:。！？；：\n]")
# Behind the relative, in the same clause
_DOES = re.compile(
    r"^(?:'s|s)?(?:,? \(?(?:aged? )?\d{1,3}\)?,?)?(?:,? who)?(?: [a-z']+){0,2}?\s*,?\s*(?:"
    r"(?:(?:is|was|'s|are|were|came|come|comes|sits|sitting|sat|stands|standing|waits|waiting|stayed"
    r"|stays)(?: (?:right|just|also|all|"
    r"sitting|standing|waiting))? )?(?:here(?: with me)?|along|with me|next to me|beside me|by my side|outside"
    r"|in the (?:car|room|"
    r"waiting room)|on the (?:phone|other line))(?![a-z])"
    r"|(?:drove|drives|driving|took|takes|taking|brought|brings|bringing|carried|accompanied|accompanies"
    r"|accompanying|drags|dragged"
    r"|made|makes|makes|sent|sends|asked|asks|told|tells|begged|nags|urged|persuaded|wants|wanted|keeps telling"
    r"|helps|helped|held"
    r"|found|finds|saw|sees|noticed|notices|heard|hears|caught|watched|woke|wakes|calls|called|left|leaves"
    r"|joins|gave|gives) (?:me|us)(?![a-z])"
    r"|(?:says?|said|saying|thinks?|thought|reckons?|believes?|suggests?|suggested|insists?|insisted|complains?"
    r"|complained|worries|worried"
    r"|is worried|was worried|laughs?|jokes?|joked|noticed|notices|noticing|read|googled|looked it up"
    r"|swears)(?![a-z])"
    r"|(?:is|was|'s) (?:a|an) (?:nurse|doctor|gp|paramedic|pharmacist|midwife|carer|physio)"
    r"|(?:had|has|have|got|gets|caught|has had) (?:it|the same|one|them|this|these|that)(?![a-z])"
    r"|(?:has|had|is|was|got)[a-z' ]{0,12}? (?:too|as well|first|also)(?![a-z])"
    r"|(?:died|passed away|was diagnosed|was operated)|and (?:i|me)(?![a-z])"
    r")"
)
_DOES_ZH = re.compile(
    r"^(?:妈|爸|亲|子|女|媳妇|朋友|婆|公|们)?(?:现在|刚才|今天|昨天|昨晚|当时|正|就|也|老|总|总是|一直|经常|都|非|非要|还|她|他|晚上|半夜|开车){0,3}"
    r"(?:陪|送我|带我|拉我|扶我|扶着我|开车(?:送|带|载|陪|来)|载我|背我|抱我|叫我|让我|劝我|催我|逼我|喊我|说|讲|觉得|认为|以为|担心|怕|怀疑"
    r"|发现我|看见我|看到我|看我|瞧见|听见我|听到我|听我|告诉|嫌我|骂我|笑我|帮我|给我|推荐|建议|提醒|嘱咐"
    r"|在旁边|在身边|在边上|在这|在外面|在门口|在场|在家|坐旁边|坐在旁边|和我一起|跟我一起|和我都|跟我都"
    r"|也(?:有|得|是|打|这样|感冒|发烧|咳|拉|吐|疼|痒|中|犯|没|不)|是(?:医生|护士|大夫|药师|教师)|去世|走得早|没了)"
)
# Before the relative, in the same clause
_BEFORE = re.compile(
    r"(?:(?<![a-z])(?:with|by|like|than|beside|from|without|unlike|and|behind|(?:look|looking|looked|care|cares"
    r"|caring|cared) (?:after|for)"
    r"|live with|lives with|living with|argued with|sex with|see|visit|visited|visiting|nursing|lost|buried"
    r"|told|asked|tell|ask|let|made"
    r"|thanks to|because of) "
    r"|(?:和|跟|与|像|随|随了|被|由|让|叫|除了|不像|遗传|照顾|伺候|陪着?|因为|想着?|为了|带着?|抱着?|问|听|告诉)(?:了)?)$"
)
# An illness of a relative: of the family where the person has a trouble
_HAS_ILLNESS = re.compile(
    r"^(?:'s|s)?(?: [a-z]+ly| also| always| both)? (?:has|had|have|has had|suffers from|suffered from|is on"
    r"|takes|got) (?:[a-z0-9]+ ){0,3}?"
    r"(?:diabet\w*|cancer|asthma|epilepsy|migraines?|eczema|psoriasis|glaucoma|arthritis|gout|lupus|dementia"
    r"|hay ?fever|allerg\w+"
    r"|(?:heart|kidney|liver|lung|thyroid|coeliac|crohn'?s) (?:disease|failure|attacks?|trouble|cancer)"
    r"|strokes?|(?:high )?blood pressure"
    r"|cholesterol|depression|thyroid|clots?|stones?|polyps?|tb|hepatitis|an? (?:heart|stroke|clot)\w*)(?![a-z])"
    r"|^(?:妈|爸|亲|子|女)?(?:和我?[^，。,.]{1,3})?(?:以前|年轻时|年轻的时候|早年|都|也|生前|就){0,2}(?:有|得过|得了|患有?|是|查出过?|死于|因为)"
    r"[^，。,.!?！？]{0,6}?(?:病|癌|瘤|症|高血压|中风|脑梗|心梗|痛风|哮喘|过敏|结石|甲亢|甲减|结核|肝炎|乙肝|偏头痛|贫血)"
)
_RELATIVE = (
    r"wife|husband|mother|mum|mom|father|dad|son|daughter|brother|sister|gran|grandma|grandmother|grandfather"
    r"|grandad|grandpa|nan|aunt"
    r"|uncle|partner|boyfriend|girlfriend|baby|child|kid|kids|toddler|friend|boss|gp|doctor|nurse|neighbour"
    r"|neighbor|colleague|flatmate"
)
_SELF = re.compile(
    r"(?<![a-z])(?:i|i'm|im|i've|ive|i'd|i'll|me|myself)(?![a-z])"
    rf"|(?<![a-z])my (?!(?:own |little |old |dear |poor )?(?:{_RELATIVE})(?![a-z]))"
    r"|我(?!们?家?[那]?(?:妈|爸|母|父|老公|丈夫|老婆|媳妇|爱人|儿|女|闺女|爷|奶|外婆|外公|姥|婆婆|公公|妹|姐|弟|哥|孩|宝|娃|孙|家老人))"
)
# Words of a person about the ill one that are none about the person: "I'm worried about my husband"
_NO_TROUBLE = re.compile(
    r"(?<![a-z])(?:i'm|i am|im|i was)(?: really| very| so| just| a bit| quite)? (?:worried|scared|asking"
    r"|writing|calling|ringing|afraid|here|concerned|alone|a carer"
    r"|not sure|wondering|sorry)(?![a-z])|(?<![a-z])(?:can|could|should|shall|do|what do|what can|what should"
    r"|how do|how can|may|must) i(?![a-z])"
    r"|(?<![a-z])i (?:think|want|wanted|need|wonder|don't know|dont know|would|gave|give|found|noticed|saw"
    r"|heard|told|took|just|checked|am)(?![a-z])"
    r"|(?:help|tell|advise|for) me(?![a-z])|我(?:很|好|非常|有点|特别|实在|真)?(?:担心|着急|害怕|怕|想问|想咨询"
    r"|问|咨询|不放心|该怎么|应该|能不能|可以|要不要|给|看|发现|听|觉得他|觉得她|在照顾)"
)


def is_bystander(plain: str, begin: int, end: int) -> bool:
    """Return whether the relative at these offsets of a text of `normalize` is not the one who is ill."""
    behind = plain[end : end + REACH]
    if stop := _SENTENCE.search(behind):
        behind = behind[: stop.start()]
    before = _CLAUSE.split(plain[max(0, begin - REACH) : begin])[-1]
    if _BEFORE.search(before) or _DOES.search(behind) or _DOES_ZH.search(behind):
        return True
    illness = _HAS_ILLNESS.search(behind)
    return illness is not None and has_own_trouble(f"{plain[:begin]} {plain[end + illness.end() :]}")


def has_own_trouble(plain: str) -> bool:
    """Return whether somebody speaks of themselves: not only of being worried, or what to do."""
    return bool(_SELF.search(_NO_TROUBLE.sub(" ", plain)))
