"""Texts as patients write them, which were written after the rules: the first look is told in docs/en/safety.md."""

from __future__ import annotations

import pytest

from carellama.records import Message
from carellama.safety.medication import conflicts, person_facts

# (what the person says, or the turns of a conversation; any of these drugs must be found, or nothing)
QUESTIONS: list[tuple[str | list[str], set[str]]] = [
    ("医生你好 我怀二胎14周了 昨晚牙疼得不行 家里只有芬必得 可以顶一下吗", {"ibuprofen"}),
    ("老公有痛风的毛病，医生给他开了氢氯噻嗪降压，这药他能吃不？", {"hydrochlorothiazide"}),
    ("我爷爷八十多了，长期吃华法林，这两天关节肿，隔壁给了两片双氯芬酸，要不要紧", {"diclofenac"}),
    ("打针做皮试青霉素阳性，现在扁桃体发炎，药店推荐阿莫西林胶囊", {"amoxicillin"}),
    ("吃着阿托伐他汀呢，感冒咳嗽医生又开了克拉霉素", {"atorvastatin", "clarithromycin"}),
    ("昨天晚上应酬喝了半斤白酒，今天发炎能打头孢吗", {"alcohol", "cefalosporin", "cephalosporin"}),
    ("娃三岁半，高烧39，有没有人给孩子用过尼美舒利", {"nimesulide"}),
    ("我有G6PD缺乏症，能吃磺胺吗", {"sulfonamide"}),
    ("前列腺肥大十年了，最近感冒鼻塞吃了白加黑，晚上尿不出来", {"baijiahei"}),
    ("胃出血刚出院两周，痛风又犯了，想吃点布洛芬", {"ibuprofen"}),
    ("抑郁症在吃帕罗西汀，偏头痛发作可以用舒马曲坦么", {"sumatriptan"}),
    ("喂奶的妈妈可以吃感冒药氨酚伪麻美芬吗", {"baijiahei"}),
    ("心脏放了两个支架，硝酸甘油随身带，朋友送了几粒万艾可", {"nitroglycerin", "sildenafil"}),
    ("孩子水痘发烧到39度，能不能用阿司匹林泡腾片", {"aspirin"}),
    ("妈妈75岁肾功能不全肌酐200多，腿疼能吃塞来昔布吗？", {"celecoxib"}),
    ("蚕豆病宝宝可以用珍珠粉吗", {"pearl"}),
    ("我有哮喘，心慌医生开了心得安，看说明书吓一跳", {"propranolol"}),
    ("优甲乐和钙片可以早上一块吃吗？", {"calcium", "levothyroxine"}),
    ("吃螺内酯的同时能补钾吗，家里换了低钠盐", {"potassium", "spironolactone"}),
    ("孕妇可以吃益母草吗", {"motherwort"}),
    ("hi im 6 months preggers and my back is killing me. hubby says just take 2 nurofen. safe??", {"ibuprofen"}),
    ("My mom's on Eliquis for a-fib, she threw her back out. Would Aleve be alright for her", {"naproxen"}),
    ("got strep, doc called in amoxicillin but I break out in hives w/ penicillin", {"amoxicillin"}),
    ("Been on Lexapro 2 yrs, ER gave me tramadol for kidney stone. Should I be worried?", {"escitalopram", "tramadol"}),
    ("bp runs 160/95, high blood pressure for years, so stuffed up. sudafed?", {"pseudoephedrine"}),
    ("can u drink on flagyl? its my birthday saturday", {"alcohol", "metronidazole"}),
    ("my toddler has the flu, ok to give baby aspirin", {"aspirin"}),
    ("I take Imdur for angina and want to try Cialis", {"isosorbide", "tadalafil"}),
    ("nursing a newborn, dentist prescribed Tylenol 3", {"co_codamol"}),
    ("Lamictal and birth control pills – do they mess with each other?", {"combined_contraceptive", "lamotrigine"}),
    ("I've got an ulcer. Is Excedrin ok for migraine?", {"excedrin"}),
    ("34F, migraine w/ aura, gyn wants to put me on Yaz", {"combined_contraceptive"}),
    ("My 13 yr old had tonsils out and they gave him codeine syrup", {"codeine"}),
    ("Grandma has dementia and can't sleep, is Benadryl fine for her?", {"diphenhydramine"}),
    ("I had a kidney transplant in 2019, started St John's wort for mood", {"st_johns_wort"}),
    ("我同事对青霉素过敏差点没了，我自己没事，能吃阿莫西林吧？", set()),
    ("怀孕之前一直吃布洛芬止痛经，现在没怀，还能吃吗", set()),
    ("我不喝酒不抽烟，吃头孢要注意什么", set()),
    ("宝宝发烧38.8可以吃美林还是泰诺林", set()),
    ("高血压能吃泰诺林退烧吗", set()),
    ("哺乳期可以吃布洛芬吗", set()),
    ("华法林停了半年了，现在腰疼能吃布洛芬吗", set()),
    ("阿莫西林和甲硝唑能一起吃吗", set()),
    ("没有胃病，偶尔头疼吃一片布洛芬行吗", set()),
    ("老妈有青光眼，我自己失眠，能吃苯海拉明吗", set()),
    ("Is it ok to take Tylenol while pregnant?", set()),
    ("No allergies, no meds. Can I have amoxicillin for a sinus infection?", set()),
    ("my roommate is pregnant and i gave her my water bottle. can i take advil", set()),
    ("I quit drinking 5 years ago. Is metronidazole ok?", set()),
    ("Took warfarin after surgery in 2015, not anymore. ibuprofen fine?", set()),
    ("Tested negative for pregnancy. Can I restart Accutane?", set()),
    ("Can ibuprofen and paracetamol be alternated?", set()),
    ("I'm 30, healthy, can I take cipro for traveler's diarrhea", set()),
    ("肾移植术后一直吃他克莫司，喉咙痛药房给了罗红霉素和布洛芬颗粒", {"ibuprofen"}),
    ("本人28岁，末次月经7周前，验孕棒两道杠，之前皮肤科给开的异维A酸胶囊还要继续吃吗", {"isotretinoin"}),
    ("血小板只有三十多，发烧了可以吃阿司匹林吗", {"aspirin"}),
    ("我对磺胺类药物严重过敏，尿道炎，朋友说吃复方新诺明好得快", {"cotrimoxazole"}),
    ("重症肌无力，社区医院给输左氧氟沙星可以吗", {"levofloxacin"}),
    ("父亲帕金森，吐得厉害，胃复安能打吗", {"metoclopramide"}),
    ("奶奶心力衰竭住过院，风湿痛得厉害，依托考昔能不能吃", {"etoricoxib"}),
    ("14岁女孩腹泻，家里有诺氟沙星胶囊，能给她吃吗", {"norfloxacin"}),
    ("正在吃甲氨蝶呤治类风湿，尿路感染开了复方磺胺甲噁唑", {"cotrimoxazole", "methotrexate"}),
    ("癫痫患者戒烟能用安非他酮缓释片吗", {"bupropion"}),
    ("吃氯吡格雷的时候胃不舒服吃奥美拉唑行不行", {"clopidogrel", "omeprazole"}),
    ("甲减吃左甲状腺素，早餐喝豆浆和咖啡有影响吗", {"caffeine", "levothyroxine"}),
    ("昨天刚喝完酒，现在想吃片艾司唑仑睡觉", {"alcohol", "estazolam"}),
    ("got a stent last fall on plavix n aspirin, can i pop an aleve for my back", {"naproxen"}),
    ("Breastfeeding mom here, doc wants me on lithium again", {"lithium"}),
    ("i have glaucoma (narrow angle) and allergies are killing me, benadryl?", {"diphenhydramine"}),
    ("Diabetic with one kidney, is ibuprofen a no no?", {"ibuprofen"}),
    ("Hep C with cirrhosis. How much tylenol is too much?", {"paracetamol"}),
    ("76 year old man, BPH, itching at night, considering hydroxyzine", {"hydroxyzine"}),
    ("Had anaphylaxis to ceftriaxone last year, now prescribed Keflex", {"cefalexin"}),
    ("my 9mo has a stuffy nose can i give her childrens sudafed", {"pseudoephedrine"}),
    ("I'm taking Accutane, derm added doxycycline", {"doxycycline", "isotretinoin"}),
    ("grapefruit diet and I'm on Zocor", {"grapefruit", "simvastatin"}),
    ("asthmatic, my eye doctor gave me timolol drops", {"timolol"}),
    (
        [
            "Hi, I'm 31 weeks along with twins.",
            "How can I help?",
            "I have terrible tooth pain, thinking of taking naproxen",
        ],
        {"naproxen"},
    ),
    (["我妈今年68，房颤，吃达比加群", "好的，请问有什么不舒服？", "她膝盖疼，我想给她买点美洛昔康"], {"meloxicam"}),
    ("刚生完孩子没喂奶，能吃布洛芬止痛吗", set()),
    ("孩子他爸痛风，我想问我自己能喝啤酒吗", set()),
    ("丹参和枸杞能一起泡水吗", set()),
    ("吃阿莫西林期间能喝牛奶吗", set()),
    ("my husband has high blood pressure so we bought a cuff. I have a cold, can I use sudafed", set()),
    ("allergic to cats and pollen, can I take amoxicillin", set()),
    ("What's the difference between Advil and Aleve?", set()),
    ("I'm done with breastfeeding, can I start the combined pill?", set()),
    ("Does warfarin interact with itself lol just curious how it works", set()),
    ("My GP ruled out asthma. Is propranolol ok for exam nerves?", set()),
    ("老婆现在五个月身孕，痔疮犯了想用麝香痔疮膏", {"musk"}),
    ("长期透析的病人腰疼吃洛索洛芬钠可以吗", {"loxoprofen"}),
    ("我女儿今年10岁，痘痘严重，能不能口服米诺环素", set()),
    ("服用雷沙吉兰期间感冒了想吃右美沙芬止咳", {"dextromethorphan"}),
    ("以前吃头孢拉定全身起疹子送过急诊，这次拔智齿医生让吃头孢呋辛", {"cefuroxime"}),
    ("高尿酸可以喝红酒么", {"alcohol"}),
    ("拉肚子拉的都是脓血，吃易蒙停能止住吗", {"loperamide"}),
    ("吃完甲硝唑第二天喝了瓶啤酒，脸通红心跳快", {"alcohol", "metronidazole"}),
    ("在吃胺碘酮的人能用莫西沙星吗", {"amiodarone", "moxifloxacin"}),
    ("I'm a type 1 diabetic with DKA history, can I go on Jardiance?", {"empagliflozin"}),
    ("Been taking phenelzine for years, is Sudafed off the table?", {"pseudoephedrine"}),
    ("I'm on tacrolimus after my liver transplant, MMR vaccine before travel?", {"live_vaccine"}),
    ("Severe gastroparesis here, endo suggested Ozempic", {"semaglutide"}),
    ("my kid is 3, strep throat, doc wants doxycycline??", {"doxycycline"}),
    ("Im 22 weeks, UTI, they gave me cipro", {"ciprofloxacin"}),
    ("Aspirin made my throat close up once. ok to try Aleve?", {"naproxen"}),
    ("hemophiliac with a toothache, advil?", {"ibuprofen"}),
    ("On clozapine and feeling down, thinking about a few beers", {"alcohol", "clozapine"}),
    ("爸爸有慢阻肺，失眠开了佐匹克隆", {"zopiclone"}),
    ("我弟癫痫，流感发烧能吃布洛芬吗", set()),
    ("我对花生过敏，能吃布洛芬吗", set()),
    ("我娘低血压，我高血压，我能吃缬沙坦吗", set()),
    ("my ex was allergic to penicillin lol. anyway can i take amox with food", set()),
    ("Can I take Claritin with high blood pressure", set()),
    ("is it safe to take Zofran for nausea, no other meds", set()),
    ("Planning a pregnancy next year, taking folic acid. Ibuprofen for cramps now?", set()),
    ("I have hypothyroidism, can I take Tylenol", set()),
]
# (what the person said, a sentence of an answer, drugs)
ANSWERS = [
    ("孕20周发烧39度怎么办", "体温超过38.5℃时，可以口服布洛芬混悬液降温。", {"ibuprofen"}),
    ("孕20周发烧39度怎么办", "首选对乙酰氨基酚，布洛芬在孕晚期应避免。", set()),
    ("我对头孢过敏，尿路感染", "您可以考虑头孢克肟胶囊0.1g，每天两次。", {"cefixime"}),
    ("我在吃利伐沙班，腰扭了", "可外用扶他林，口服则可选择塞来昔布。", {"celecoxib"}),
    (
        "i'm on warfarin, my knee hurts",
        "For pain, acetaminophen is usually preferred; NSAIDs like ibuprofen raise your bleeding risk.",
        set(),
    ),
    ("i have asthma and anxiety", "Doctors often use propranolol 10 mg for the shaking.", {"propranolol"}),
    ("my 4 year old has a cold", "A teaspoon of NyQuil at bedtime may help.", {"nyquil"}),
    (
        "I'm 9 weeks pregnant with a UTI",
        "Your doctor may prescribe doxycycline 100 mg twice daily for seven days.",
        {"doxycycline"},
    ),
    (
        "I'm 9 weeks pregnant with a UTI",
        "Doxycycline and ciprofloxacin are generally avoided; cephalexin is an option.",
        set(),
    ),
    ("I have a peptic ulcer", "It's best to stay off aspirin and other NSAIDs.", set()),
    ("I have a peptic ulcer", "You could take an aspirin with food to protect your stomach.", {"aspirin"}),
    ("My baby is 8 months old and coughing", "A spoonful of honey before bed can soothe the throat.", {"honey"}),
    ("I'm on Zoloft", "If the pain is severe, tramadol 50 mg can be added.", {"tramadol"}),
    ("I'm on Zoloft", "Tramadol with Zoloft may trigger serotonin syndrome, so ask your pharmacist.", set()),
    ("我有青光眼", "鼻塞明显时可服用含伪麻黄碱的复方感冒药。", {"pseudoephedrine"}),
    ("我有青光眼", "含伪麻黄碱的药会升高眼压，您最好别用。", set()),
    ("正在吃华法林", "平时可以适当吃些丹参片活血。", {"danshen"}),
    ("正在吃华法林", "布洛芬、双氯芬酸这类止痛药都不适合您。", set()),
    ("孩子六岁感冒发烧", "家长可给予阿司匹林肠溶片退热。", {"aspirin"}),
    ("孩子六岁感冒发烧", "儿童退烧只推荐对乙酰氨基酚和布洛芬，阿司匹林不能用。", set()),
    ("I take Cialis daily", "For chest pain, place one nitroglycerin tablet under the tongue.", {"nitroglycerin"}),
    ("I have kidney failure", "NSAIDs (ibuprofen, naproxen) are hard on the kidneys. Acetaminophen is safer.", set()),
    ("青霉素过敏", "医生一般会开青霉素V钾片，一天四次，连用十天。", {"penicillin"}),
]


@pytest.mark.parametrize(
    ("said", "drugs"), QUESTIONS, ids=lambda one: one[:30] if isinstance(one, str) else "set"
)  # sets have no order
def test_what_patients_ask(said: str | list[str], drugs: set[str]) -> None:
    turns = [said] if isinstance(said, str) else said
    messages = [Message("assistant" if at % 2 else "user", turn) for at, turn in enumerate(turns)]
    found = {one.drug for one in conflicts(person_facts(messages), turns[-1], "question")}
    assert found & drugs if drugs else not found


@pytest.mark.parametrize(
    ("said", "answer", "drugs"), ANSWERS, ids=lambda one: one[:30] if isinstance(one, str) else "set"
)  # sets have no order
def test_what_patients_are_answered(said: str, answer: str, drugs: set[str]) -> None:
    found = {one.drug for one in conflicts(person_facts(said), answer)}
    assert found & drugs if drugs else not found
