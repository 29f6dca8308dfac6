"""English words that are written with a capital and are no names: in titles and headings, places, eponyms, medicines.

    "committee" in ORDINARY

They are asked for where a name is told by its capital alone; written for this project, not complete.
"""

from __future__ import annotations

ORDINARY = frozenset(
    """
    take ethics
    abdomen abdominal abnormal abstract account acquired adolescent adult advice advise agency alcoholic alive
    allergic allergies allergy ambulance anaemia anemia ankle answer answers anxiety anxious anyone anything
    arterial artery arthritis assessment assistant associated asthma asthmatic attached attachment attending
    atypical author authority available back background bacterial bay bed best better big bilateral billing
    biopsy block blood board body bone booster brain breast building bye bypass calcium came cancer capsule
    capsules carcinoma cardiology catheter cause causes cc cell cells central cervical chapter charge chart
    chest chief chloride city claim claims classic classical code colon comes comment comments committee
    comparison conclusion conclusions conference confused congenital control controlled council count county
    course covid-19 cream creatinine critical daily dead deceased deep dental depression dermatology desk
    development diabetes diabetic diet dietician diffuse directive director discussion distal divorced document
    dorsal double draft drain drinks drops due duration ear early ears eats ebola echo eight elbow elderly else
    enclosed endoscopy entrance epilepsy evaluation everything ex eye eyes factor factors failure faithfully
    fall falls fast fasting fat father's federal feel feeling feels fellow fiber figure film final findings fire
    five floor flu fluid fluids focal folder food foot form former forms forum four fracture free front full
    fungal fw fwd gel generalist geriatric gets getting global glucose goal goals goes going goodbye got
    government graft guideline guidelines gynecology haemoglobin hair half hand happy head healthy heart height
    help hemoglobin hepatitis herbal herpes high hip home home-based hope hoping hospice hourly hugs human
    hydrocortisone hypertension hypertensive idiopathic ill illegible imaging impression indication induced
    infant infection infections influenza inhaler injection injury inpatient insurance intake intensive
    interested intern internet introduction item items joint junior keto kidney kingdom knee knowing known knows
    laboratory large late lateral lead left-sided let letter leukaemia leukemia likely line little liver lives
    living lobby local look looking lotion love low lumbar lung lungs lupus lymphoma made magnesium main make
    makes malaria manager married mask maternity measles medial medic mediterranean meeting mellitus methods
    middle-aged migraine mind ministry mixed monthly mother's mouth multiple mumps muscle nasal natural nearby
    neck need needs negative neonate nerve neurology newborn nhs nine nobody non nonsmoker normal nose note
    nothing nutrition obesity objective obstetric office officer ointment oncology one online onset oral order
    orders outpatient output ovarian overleaf oxygen paediatric page pages palliative paramedic parking part
    parts pathology payment pediatric pediatrics pelvic pelvis penicillin people peripheral person persons pet
    pharmacy phosphate physio plan planning plans plasma platelet platelets pneumonia poison police policy polio
    positive possible post postpartum potassium practice practitioner precaution precautions pregnant pressure
    primary private probable program project prostate protein protocol proximal psychiatry psychology public
    publisher pulse put question questions rabies radiology re real recent reception rectal ref reference
    registrar rehab rehabilitation related replies reply republic required research residence resident retired
    review right-sided risk rounds rubella sad salt saturation scan scans scared scrub secondary section
    security see seeing seizure seizures senior sepsis serum seven severity shingles short shot shots shoulder
    sick signed sincerely single six skin sleeps slow small smoker smokes social sodium solution somebody
    someone something specialist spine spray stable staff state stent stroke strong student study subject sugar
    sulfa summary superficial supplement surgery surgical symptom symptoms syrup table teams technique teen
    teenager teeth temperature ten tertiary tetanus therapist think thinks thoracic thread three throat times
    tired toddler tooth topic topical total tower town training trauma trial trust trying tube tumor tumour
    twice twin twins two typical ultrasound uncontrolled unilateral united unlikely unsigned unstable urine
    urology uses using uterine vaccine vaccines valve vegan vein venous ventral verified version village viral
    visitors vitamin volume waiting walks want wants water weak website weekly weight went widowed wing wish
    wishes worker works world worried worse worst wound wrist xr yours zip zoster
    """.split()
)
# Towns, countries and peoples that are names of persons too, and eponyms: a name only behind a title or another name.
PLACES_EN = frozenset(
    """
    abbe altman amsler ann apache apgar arbor asberg asherman ashworth atlanta auspitz austin babinski baker
    ballard balo balthazar bandl bankart barthel bassini bayley beau beck benedict bennett berlin bernard betke
    bickerstaff binet bishop bismuth blackfan blair bland blatchford boerhaave bosniak bouchard braunwald
    braxton breslow broadbent budd burow cameron caprini carey caroli carvallo chadwick cheson chiari chvostek
    cockcroft colles congo conkey conners coombs cormack couvelaire cowden crawford cronbach cronkhite cullen
    curb curling cushing damico darier deauville debakey denis denver dermoscopy devic dieulafoy doose drager
    dubowitz dupuytren durie duroziez eaton engel estlander ewart faber fabry fanconi ferriman finkelstein
    fitzpatrick fleischner fontaine forrest forrester froment frykman fuhrman gaenslen galant galeazzi gallwey
    gardner gaucher gault geneva giemsa glanzmann glasgow gleason glogau goldmann golgi goodell gram gustilo
    hallervorden hampton hansen hartmann hartnup hasenclever hasford hasselbalch hauser hawkins heberden hegar
    henderson hess hestia hicks hirschsprung hohl hoover hosmer humphrey hurler hurley ishihara ivor janeway
    janz jobe kallmann kaplan karapandzic kasai katz kerley killip klatskin kleffner kleihauer koebner kostmann
    krabbe kussmaul kuster ladd lafora lake lambert landau lasegue lauge lawton lehane leishman lemeshow leopold
    lesch levine lichtenstein liebowitz limberg lindsay lisfranc louise lowenstein lugano lynch mac maddrey
    maisonneuve mallampati mantoux marburg masson mayer mcdonald mcroberts mcvay meckel mees meier melkersson
    menkes mifflin mirizzi moebius mohs monteggia montgomery moro morquio muehrcke muller musset mustarde
    naegele neer niemann nikolsky nissen nissl norwood nyhan ogilvie ohtahara osler padua panayiotopoulos partin
    pauwels peutz pick plummer pompe pott prader pugh quervain quincke rai ramsay ramstedt rankin ranson
    rasmussen refsum rhomboid rinne rockall rockwood rokitansky rorschach rosenthal roth rubin rutherford
    sabouraud sachs salter sanfilippo saps savary schatzker schatzki schilder schirmer schwachman schwartz
    seidel sheehan shirodkar shouldice shy silverman simmonds snellen sofa sokal somogyi soulier spetzler
    spurling stanford steele steell stierlin stoppa swyer tanner tardieu tay terry thayer todani tolosa traube
    trousseau turcot tzanck unverricht vanderbilt vinson weber wechsler weil wells westermark whipple wickham
    yergason zavanelli zellweger zenker ziehl zung
    ghon koch fleck descemet wharton albright edmondson steiner godoy gilchrist gibert tukey dowling wolff
    bryant loeffler
    danbury queensland alberta melilla verona samar saudi arabia philippine philippines royal naval nadu tamil ontario
    manitoba saskatchewan tasmania catalonia bavaria andalusia lombardy tuscany normandy flanders punjab
    kerala gujarat
    bengal karnataka maharashtra rajasthan bihar okinawa hokkaido guangdong sichuan zhejiang taiwan malaysia indonesia
    pakistan bangladesh nepal lanka iceland estonia latvia lithuania hungary romania bulgaria serbia croatia slovenia
    ethiopia uganda tanzania zambia zimbabwe mozambique angola congo cameroon senegal morocco algeria tunisia
    libya sudan
    africa america england scotland wales ireland britain france germany spain italy poland greece turkey israel
    india china japan korea vietnam canada mexico brazil argentina chile peru cuba kenya nigeria ghana egypt
    jordan syria iran iraq georgia russia ukraine sweden norway denmark finland holland belgium austria
    switzerland australia zealand asia europe london paris rome berlin madrid dublin york boston chicago houston
    dallas austin denver phoenix orlando memphis nashville charlotte cleveland columbus detroit baltimore
    washington jersey carolina dakota virginia florida texas california nevada arizona oregon montana alabama
    georgia louisiana maine maryland ohio michigan minnesota indiana illinois kansas kentucky tennessee utah
    vermont wyoming sydney melbourne perth adelaide brisbane toronto ottawa vancouver quebec manchester
    birmingham liverpool leeds bristol sheffield oxford cambridge edinburgh glasgow cardiff belfast aberdeen
    leicester nottingham southampton hollywood windsor columbia santiago francisco angeles diego antonio lagos
    nairobi accra delhi mumbai tokyo beijing shanghai hong kong singapore thai irish danish dutch muslim
    christian christians jewish hindu catholic christmas easter risser cobb schirmer sinai kellgren lawrence
    langerhans swift portugal lille viking jama tanner cushing addison graves hashimoto parkinson alzheimer
    crohn hodgkin babinski kernig murphy wilson whipple gleason spearman cox kaplan meier mann whitney wilcoxon
    fisher pearson kruskal wallis bonferroni poisson gauss bayes cohen fournier dressler lynch starling pauwels
    sjogren kaposi castleman cobb rankin rasch marfan ehlers danlos turner klinefelter huntington tourette
    duchenne becker charcot marie tooth guillain barre wernicke korsakoff meniere raynaud behcet kawasaki henoch
    schonlein goodpasture wegener churg takayasu reiter paget barrett mallory weiss boerhaave zollinger ellison
    peutz jeghers gilbert dubin rotor crigler najjar fanconi bartter gitelman liddle alport wilms conn sheehan
    asherman kallmann prader willi angelman down edwards patau noonan digeorge bruton chediak epstein barr
    coombs schilling rinne weber romberg phalen tinel lachman mcmurray trendelenburg thomas ortolani barlow
    homan virchow rovsing mcburney cullen courvoisier charcot reynold reynolds beck kussmaul cheyne stokes biot
    austin flint quincke corrigan osler janeway roth koplik nikolsky auspitz kell duffy kidd rhesus glasgow
    apgar bishop ballard braden norton wells geneva ranson killip forrester framingham gram wright giemsa ziehl
    neelsen papanicolaou foley swan ganz hickman broviac jackson pratt penrose kocher billroth roux hartmann
    nissen heller bell erb klumpke horner bernard brown sequard broca adie argyll robertson holmes hallpike
    epley semont dix purkinje lewy pick jakob creutzfeldt friedreich todd jackson lennox gastaut west dravet
    rett sturge hippel lindau recklinghausen louis google facebook twitter microsoft apple amazon siemens
    philips pfizer moderna novartis bayer merck roche abbott medtronic johnson lilly sanofi astra zeneca mayo
    hopkins harvard stanford yale
    """.split()
)
# Names of institutions, signs and stages of two words or more that are names of persons as well.
PHRASES_EN = frozenset(
    name.strip()
    for name in """
    ann arbor, mary joseph, kellgren-lawrence, kellgren lawrence, tik tok, johns hopkins, mount sinai, cedars
    sinai, kaiser permanente, marie curie, henry schein, guillain barre, charcot marie, van der waals, st jude,
    florence nightingale, royal marsden, great ormond, harris benedict, harris-benedict, panton-valentine,
    jarisch herxheimer, stevens johnson, wolff parkinson, wolff parkinson white, von willebrand, von
    recklinghausen, von hippel, van gogh, los angeles, san francisco, san diego, san antonio, new york, tamil
    nadu, hong kong, harry potter, romeo juliet, gregory house, sherlock holmes, john watson, mini mental, beck
    depression, edinburgh postnatal, barthel index, ross river, rocky mountain, west nile, lake louise, jones
    criteria, duke criteria, clavien dindo, forrest ia, forrest ib, killip class, dukes stage, mayo clinic,
    walter reed, cleveland clinic, addenbrooke, mary ann, king george, queen mary, queen elizabeth, prince
    charles, victoria hospital, santa maria, le fort, van nuys, de quervain, du bois, gleason score, karnofsky
    """.replace("\n", " ").split(",")
)
# Brands of medicines: written with a capital.
DRUGS_EN = frozenset(
    """
    klonopin xanax valium ativan zoloft prozac paxil lexapro celexa cymbalta effexor wellbutrin remeron
    trazodone seroquel zyprexa risperdal abilify geodon latuda clozaril haldol depakote lamictal tegretol
    trileptal keppra topamax neurontin lyrica dilantin vimpat adderall ritalin concerta strattera vyvanse
    provigil ambien lunesta sonata restoril lipitor crestor zocor pravachol zetia repatha praluent plavix
    brilinta effient eliquis xarelto pradaxa coumadin lovenox fragmin arixtra norvasc lopressor toprol coreg
    tenormin bystrolol bystolic cozaar diovan benicar micardis atacand entresto aldactone lasix bumex demadex
    zaroxolyn zestril prinivil vasotec altace lanoxin cordarone multaq tikosyn nitrostat imdur ranexa glucophage
    januvia jardiance farxiga invokana ozempic wegovy mounjaro trulicity victoza byetta rybelsus saxenda lantus
    levemir toujeo tresiba humalog novolog apidra humulin novolin amaryl glucotrol actos synthroid levoxyl
    cytomel armour tapazole prednisone medrol decadron kenalog nexium prilosec prevacid protonix pepcid zantac
    tagamet carafate reglan zofran phenergan compazine imodium lomotil miralax colace senokot dulcolax linzess
    amitiza humira enbrel remicade stelara cosentyx skyrizi tremfya otezla xeljanz rinvoq olumiant orencia
    actemra rituxan ocrevus tysabri copaxone avonex gilenya tecfidera aubagio kesimpta aimovig ajovy emgality
    nurtec ubrelvy imitrex maxalt relpax botox flonase nasonex nasacort claritin zyrtec allegra benadryl
    singulair advair symbicort breo dulera spiriva anoro trelegy proair ventolin proventil xopenex atrovent
    combivent pulmicort flovent qvar mucinex robitussin tessalon sudafed afrin tamiflu xofluza paxlovid valtrex
    zovirax augmentin amoxil keflex ancef rocephin omnicef zithromax biaxin levaquin cipro avelox bactrim septra
    macrobid flagyl cleocin vancocin zyvox doxy vibramycin diflucan truvada descovy biktarvy genvoya stribild
    triumeq dovato epivir ziagen prezista kaletra norvir isentress tivicay harvoni epclusa mavyret sovaldi
    fosamax actonel boniva prolia evenity forteo reclast evista premarin estrace provera depo nexplanon mirena
    kyleena paragard plan yaz yasmin ortho loestrin nuvaring xulane clomid femara arimidex aromasin tamoxifen
    faslodex zoladex lupron casodex xtandi zytiga keytruda opdivo tecentriq imfinzi yervoy herceptin perjeta
    kadcyla avastin erbitux gleevec tasigna sprycel tarceva iressa tagrisso ibrance kisqali verzenio lynparza
    zejula revlimid velcade darzalex kyprolis procrit aranesp neupogen neulasta flomax avodart proscar propecia
    viagra cialis levitra detrol vesicare myrbetriq ditropan percocet vicodin norco oxycontin dilaudid duragesic
    ultram toradol celebrex mobic motrin advil aleve tylenol excedrin flexeril robaxin soma skelaxin zanaflex
    baclofen suboxone subutex vivitrol narcan chantix nicorette antabuse lithium buspar vistaril atarax inderal
    catapres tenex intuniv namenda aricept exelon razadyne sinemet mirapex requip azilect nuedexta xyrem sunosi
    aspirin ecotrin bayer calpol nurofen panadol brufen voltaren voltarol gaviscon movicol laxido buscopan
    fybogel dioralyte piriton piriteze ramipril bisoprolol tazocin tienam meronem augmentin clexane tinzaparin
    creon questran pentasa asacol salofalk imuran entocort epipen jext emerade prevnar gardasil shingrix
    zostavax pneumovax bexsero menveo rotarix infanrix pediarix comirnaty spikevax covishield tobi muse duoneb
    lovaza vascepa zenpep pancreaze trikafta kalydeco orkambi symdeko soliris spinraza zolgensma velphoro
    renvela sensipar fosrenol
    """.split()
)
# Chinese medicines, signs and eponyms that jieba has not in its dictionary: else parts of them look like names.
MEDICAL_ZH = frozenset(
    """
    丁丙诺啡 丁二磺酸 丁公藤 丁卡因 丁桂 丁桂儿脐贴 丁螺环酮 七星茶 万古霉素 万托林 万艾可 上颌窦
    丙戊酸钠 丙硫氧嘧啶 丙米嗪 丰隆 乌梢蛇 乌药 乌贼骨 乐息平 乙胺丁醇 乙酰半胱氨酸 乳镭 二甲双胍
    亚胺培南 亨廷顿 仑伐替尼 他克莫司 他唑巴坦 他莫昔芬 他达拉非 仙特明 代文 伊曲康唑 伊立替康
    伊马替尼 伏格列波糖 伏立康唑 伐昔洛韦 优思明 优思灵 优甲乐 伪麻美芬 伯基特 低分子肝素 佐匹克隆
    余甘子 依托考昔 依折麦布 依西美坦 依那普利 信必可 信迪利 倍他乐克 儿康宁 克尼格 克拉维酸 克拉霉素
    克罗恩 克罗米芬 克雷伯 克霉唑 党参 公卫 兰索拉唑 关木通 关白附 凌霄花 凡士林 利伐沙班 利培酮
    利多卡因 利奈唑胺 利妥昔单抗 利巴韦林 利托君 利拉鲁肽 利格列汀 利福平 别嘌醇 加巴喷丁 加替沙星
    劳拉西泮 北沙参 匹伐他汀 匹维溴铵 华法林 华盖散 华福灵 单硝酸 南沙参 博利康尼 卡培他滨 卡托普利
    卡格列净 卡波西 卡瑞利珠 卡维地洛 卡铂 卡马西平 卡麦角林 厄他培南 厄洛替尼 厄贝沙坦 双嘧达莫
    双歧杆菌 双氯芬酸 双清 双环醇 发绀 可乐必妥 可定 史国公 右美沙芬 司来吉兰 司美格鲁肽 吉兰
    吉西他滨 吉隆坡 吉非替尼 向日葵 吗替麦考酚酯 吡嗪酰胺 吡格列酮 吲哚美辛 呋喃唑酮 呋塞米 周余
    周围性 周身 和胃 哌拉西林 哌柏西利 唐筛 唑吡坦 唑来膦酸 商陆 喹硫平 噻托溴铵 地塞米松 地尔硫卓
    地屈孕酮 地西泮 地高辛 坎地沙坦 坦度螺酮 坦索罗辛 埃博拉 培哚普利 培美曲塞 培菲康 塞来昔布
    复方甘草酸苷 夏天无 夏枯草 多奈哌齐 多巴丝肼 多柔比星 多沙唑嗪 多潘立酮 多烯磷脂酰胆碱 多索茶碱
    多西他赛 多西环素 夫西地酸 头孢丙烯 头孢他啶 头孢克洛 头孢克肟 头孢呋辛 头孢哌酮 头孢地尼 头孢曲松
    奎尼丁 奥卡西平 奥司他韦 奥希替尼 奥氮平 奥沙利铂 奥硝唑 奥美拉唑 妈咪爱 孔圣枕中 孕周 孟鲁司特
    孟鲁司特钠 安乃近 安卓 安宫牛黄 安神定志 安罗替尼 安胎 宫外孕 宫腔 对乙酰氨基酚 小儿豉翘 尤文
    尤文肉瘤 尼莫地平 川崎 左乙拉西坦 左归丸 左氧氟沙星 左甲状腺素 左金丸 巴利 巴宾斯基 巴雷 巴雷特
    布地奈德 布拉氏酵母 布洛芬 布鲁津斯基 希爱力 希舒美 帕博利珠 帕洛诺司琼 帕罗西汀 帕金森 席汉
    常乐康 常山 干姜 干漆 干燥综合征 平肝 平胃散 库欣 应急 度拉糖肽 度洛西汀 康复新液 康妇 康忻
    康柏西普 康莱特 建档 开瑞坦 异丙托溴铵 异烟肼 张力 思密达 恩他卡朋 恩替卡韦 恩格列净 惠菲宁
    戊酸雌二醇 房室结 扑热息痛 托吡酯 托拉塞米 托烷司琼 托特罗定 拉米夫定 拉莫三嗪 拉西地平 拜唐苹
    拜复乐 拜新同 拜瑞妥 整肠生 文拉法辛 斯亚坦 斯维诺 方剂 昂丹司琼 明党参 易善复 普伐他汀 普拉克索
    普瑞巴林 普米克令舒 普罗帕酮 普萘洛尔 普鲁卡因 普鲁卡因胺 景天 曲唑酮 曲妥珠单抗 曲美他嗪 曲马多
    更昔洛韦 替普瑞酮 替格瑞洛 替硝唑 替米沙坦 替考拉宁 替诺福韦 朴雪 李斯特 杜克雷 来得时 来曲唑
    来氟米特 枸橼酸铋钾 柏子仁 柏子养心 柏金森 柯萨奇 柯西 柳氮磺吡啶 柴胡 格列吡嗪 格列本脲 格列美脲
    格列齐特 格拉司琼 格林 格雷夫斯 桂枝 桂苓 桉柠蒎 桑寄生 桑椹 桑白皮 桑螵蛸 桥本 梅花针 比索洛尔
    毛冬花 毛冬青 氟伐他汀 氟哌啶醇 氟哌噻吨 氟康唑 氟替卡松 氟西汀 氢化可的松 氢氯噻嗪 氨氯地平
    氨溴索 氨磺必利 氨苄西林 氨茶碱 氨酚黄那敏 氯吡格雷 氯氮平 氯沙坦 氯硝西泮 氯米帕明 水蛭 水飞蓟
    水飞蓟宾 江枳壳 沙丁胺醇 沙参 沙格列汀 沙美特罗 沙苑子 沙菀子 泊沙康唑 法洛 法莫替丁 波依定
    波立维 泮托拉唑 泰嘉 泰能 泰诺林 泼尼松 洛汀新 洛索洛芬 涂镭 温胆 温郁金 溴隐亭 潘生丁 炉甘石
    炔雌醇 熊去氧胆酸 熊胆 燕麦 牛膝 牛蒡子 牛黄 特布他林 特治星 玉竹 环丙沙星 环孢素 环磷酰胺
    瑞博西尼 瑞巴派特 瑞格列奈 瑞舒伐他汀 瑞芬太尼 甘利欣 甘松 甘精胰岛素 甘草酸二铵 甘菊利 甘遂
    田基黄 甲巯咪唑 甲强龙 甲氨蝶呤 甲泼尼龙 甲硝唑 白前 白及 白塞 白头翁 白少华 白扁豆 白术 白芍
    白芷 白茅根 白蒺藜 白薇 白鲜皮 百多邦 益智仁 眼张力 瞿麦 石决明 石斛 石楠叶 石菖蒲 石韦
    硝苯地平 硫唑嘌呤 硫糖铝 硫酸镁 磺胺 福莫特罗 福辛普利 离焦镜 秋水仙碱 科素亚 秦皮 秦艽 窦房结
    窦炎 立普妥 符合 米氮平 米索前列醇 米诺环素 米非司酮 索利那新 索拉非尼 紫杉醇 红点 红霉素
    纳武利尤 纳洛酮 络活喜 维拉帕米 维格列汀 缩宫素 缬沙坦 罗培南 罗布麻 罗汉果 罗盖全 罗红霉素
    美卓乐 美多芭 美托洛尔 美林 美沙拉嗪 美沙芬 美洛昔康 美罗培南 美能 美西律 美金刚 羟乙基淀粉
    羟氯喹 羟考酮 联苯双酯 肌张力 肛窦炎 肺力咳 胡桃仁 胡芦巴 胡黄连 胺碘酮 腺苷蛋氨酸 臣功再欣
    舍曲林 舍格伦 舒利迭 舒尼替尼 舒巴坦 舒必利 舒普深 舒芬太尼 舒降之 艾司唑仑 艾司奥美拉唑 艾司洛尔
    艾司西酞普兰 艾塞那肽 艾普拉唑 艾森克 艾森曼格 艾洛松 艾畅 艾迪生 芬太尼 芮达 苏合香 苏子 苏木
    苗药 苯妥英钠 苯溴马隆 范德华 范德华力 莫匹罗星 莫昔芬 莫沙必利 莫西沙星 葛根 葛花 蒙脱石
    蒙脱石散 蒲公英 蒲地兰 蒲地蓝 蓝芩 蓝芹 螺内酯 补佳乐 表柔比星 西咪替丁 西地那非 西格列汀
    西沙必利 西酞普兰 詹森 诺和灵 诺和锐 诺和龙 诺氟沙星 贝伐珠单抗 贝赫切特 贝那普利 贺兰 贺斯
    贺普丁 路路通 车前子 车前草 辛伐他汀 辛诺柏 达格列净 达比加群 达英 达菲 还原型谷胱甘肽 连花清瘟
    速福达 郁张 郁李仁 郑声 酚麻美敏 酮康唑 金双岐 金双歧 金嗓子 金振 金樱子 金荞麦 金钱草 金银花
    铝碳酸镁 长春新碱 阳陵泉 阴陵泉 阿仑膦酸钠 阿卡波糖 阿司匹林 阿哌沙班 阿奇霉素 阿尔茨海默 阿帕替尼
    阿德福韦 阿托伐他汀 阿昔洛韦 阿普唑仑 阿替洛尔 阿柏西普 阿法替尼 阿立哌唑 阿米替林 阿莫西林
    阿那曲唑 雷丸 雷伯 雷公藤 雷尼替丁 雷珠单抗 雷诺 雷贝拉唑 霍奇金 非布司他 非洛地平 非诺贝特
    非那雄胺 非霍奇金 项强 项痹 顺尔宁 顺铂 额窦炎 马兜铃 马凡 马勃 马来酸曲美布汀 马洛里 马钱子
    马鞭草 马齿苋 骨化三醇 高张力 鲁米那 鲍曼 鲍曼不动杆菌 鲑鱼降钙素 麦冬 麻美敏 麻美芬 黄体酮 黄少
    黄柏 黄染 黄精 黄芩 黄芪 黄药子 黄那敏 黛力新 鼻窦炎 齐拉西酮 龙眼肉 龙胆草 龙葵 龙骨
    """.split()
)
