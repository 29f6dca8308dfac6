"""What is denied, long past, only asked about or only supposed is not meant of now; everything else is."""

from __future__ import annotations

import pytest

from carellama.rules import normalize
from carellama.safety.rules.context import Context
from carellama.safety.triage.rules import load_red_flags

LEXICON = load_red_flags().lexicon
MEANT = [
    ("胸口很痛", "pain"),
    ("没有发烧，就是胸口疼", "pain"),
    ("no fever but my chest hurts", "pain"),
    ("She cannot breathe and is not responding", "unconscious"),
    ("He's not breathing", "not_breathing"),
    ("不止是头疼", "pain"),
    ("疼痛没有缓解", "pain"),
    ("去年做过手术，现在肚子疼", "pain"),
    ("I had surgery last year and now my belly hurts", "pain"),
    ("疼得不知道怎么办", "pain"),
    ("The pain is not getting better", "pain"),
    ("no idea why, but it hurts", "pain"),
    ("We watched a film and then my chest began to hurt", "pain"),
    ("我爸胸口疼，要去急诊吗", "pain"),
    ("看电视剧\n发错了，是我胸口疼", "pain"),
    ("my chest hurts\nI can wait until tomorrow", "pain"),
    ("is it normal\nwait, my chest hurts", "pain"),
]
NOT_MEANT = [
    ("没有胸痛", "pain", "denied"),
    ("否认胸痛、发热、呕吐", "vomiting", "denied"),
    ("胸痛(-)", "pain", "denied"),
    ("不疼", "pain", "denied"),
    ("No pain, fever or vomiting", "vomiting", "denied"),
    ("denies chest pain, vomiting", "vomiting", "denied"),
    ("my chest doesn't hurt", "pain", "denied"),
    ("chest pain: none", "pain", "denied"),
    ("三年前胸口疼过", "pain", "past"),
    ("years ago I had chest pain", "pain", "past"),
    ("我一九年胸口疼过，做了支架", "pain", "past"),
    ("2018年胸口疼过，做了支架", "pain", "past"),
    ("什么是胸痛", "pain", "question"),
    ("what does pain mean", "pain", "question"),
    ("如果胸口疼怎么办", "pain", "supposed"),
    ("what if I get chest pain", "pain", "supposed"),
    ("电影里主角胸口疼，倒在地上", "pain", "question"),
    ("In the movie he has chest pain", "pain", "question"),
    ("We saw a film where a man has chest pain", "pain", "question"),
    ("备课要讲胸口疼，怎么举例", "pain", "question"),
    ("In my coursework the man has chest pain", "pain", "question"),
    ("我爸胸口疼\n发错了，是手表没贴紧", "pain", "past"),
    ("My chest hurts!\nah no, it was the name of a song", "pain", "past"),
    ("throat pain: fine", "pain", "denied"),
]


def flags(text: str, concept: str) -> list[frozenset[str]]:
    plain = normalize(text)
    mentions = LEXICON.find(plain)
    context = Context(plain, mentions)
    return [context.flags(one) for one in mentions[concept]]


@pytest.mark.parametrize(("text", "concept"), MEANT)
def test_meant(text: str, concept: str) -> None:
    assert frozenset() in flags(text, concept)


@pytest.mark.parametrize(("text", "concept", "flag"), NOT_MEANT)
def test_not_meant(text: str, concept: str, flag: str) -> None:
    got = flags(text, concept)
    assert got
    assert all(flag in one for one in got)
